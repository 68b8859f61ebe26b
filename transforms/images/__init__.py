"""Images between files, arrays and models."""
