"""The built-in structured face set: a procedural 3D head with known factors.

Real expression databases are licensed, so the embedded default is our own. A face is a row of
named factors (`factors`), its geometry a smooth closed surface with 68 landmarks (`geometry`), its
picture an orthographic ray-marched and shaded drawing of that surface (`shading`, `render`).
"""

from generators.facerig.factors import (
    ATTRIBUTES,
    EXPRESSIONS,
    INTENSITIES,
    Faces,
    complete_design,
    random_faces,
)
from generators.facerig.render import Rendering, render

__all__ = [
    "ATTRIBUTES",
    "EXPRESSIONS",
    "INTENSITIES",
    "Faces",
    "Rendering",
    "complete_design",
    "random_faces",
    "render",
]
