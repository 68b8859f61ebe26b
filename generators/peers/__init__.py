"""Other projects' files."""
