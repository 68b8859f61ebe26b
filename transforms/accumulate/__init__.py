"""Statistics of blocks, and how they are summed: what every analysis shares."""
