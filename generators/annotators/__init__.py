"""Models that describe images: their files, their descriptions, and what they measure."""

from generators.annotators.load import load_annotator

__all__ = ["load_annotator"]
