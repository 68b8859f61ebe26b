"""Models that guess the code of an image, and their files."""
