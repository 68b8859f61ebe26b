"""Models that describe images: their files, their descriptions, and what they measure."""

from typing import TYPE_CHECKING

from schemas.faces import face

if TYPE_CHECKING:
    from generators.annotators.load import load_annotator as load_annotator

__getattr__ = face(__name__, {"load": ["load_annotator"]})
