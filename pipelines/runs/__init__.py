"""A run: what it computes, what is current, what it was computed from."""
