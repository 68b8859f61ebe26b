"""Where work is done: blocks on Ray, sums in Beam, and what guards both."""
