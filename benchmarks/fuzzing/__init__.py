"""What `benchmarks.fuzz` is made of: valid files, changes of them, readers, and a cage."""
