"""Generator families: one folder each."""
