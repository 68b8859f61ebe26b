"""Pickles and torch files, read without running anything in them."""
