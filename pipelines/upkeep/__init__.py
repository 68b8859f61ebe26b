"""Whether a run is whole, what may be deleted, and what a file is."""
