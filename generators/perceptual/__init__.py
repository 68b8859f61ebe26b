"""Distances between pictures as people see them: networks, their files, and LPIPS with them."""

from typing import TYPE_CHECKING

from schemas.faces import face

if TYPE_CHECKING:
    from generators.perceptual.files import read_perceptual as read_perceptual
    from generators.perceptual.load import PerceptualDistance as PerceptualDistance
    from generators.perceptual.load import load_perceptual as load_perceptual

__getattr__ = face(
    __name__,
    {"files": ["read_perceptual"], "load": ["PerceptualDistance", "load_perceptual"]},
)
