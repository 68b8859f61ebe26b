"""The stages that read images: index, invert, annotate."""
