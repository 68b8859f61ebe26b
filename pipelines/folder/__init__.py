"""The folder of a run, and the store in it."""
