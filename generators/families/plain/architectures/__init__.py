"""Architectures that a state dict can be of: one module each, found by `catalog`."""
