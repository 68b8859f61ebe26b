"""What a training of an encoder minimises: one file an objective."""
