"""Faces as dlib aligns them for its networks (``get_face_chip_details``), by the 468 landmarks."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Groups of the 468 landmarks that stand for dlib's five points: outer and inner corner of the eye
#: at the image's left, inner and outer corner of the other one, and the base of the nose.
POINTS = [[33], [133], [362], [263], [2]]
#: Where dlib's mean face has them, in a square of side 1.
MEAN_FACE = [
    [0.1205750620789, 0.2137274526848],
    [0.3340850613712, 0.2290642403242],
    [0.6460604764104, 0.2289674387677],
    [0.8595674595992, 0.2134981538014],
    [0.4901123135679, 0.6277975316475],
]


def crop(size: int, padding: float) -> dict[str, Any]:
    """The "crop" of a description: dlib's face chip of ``size`` pixels a side, with a margin of
    ``padding`` of the mean face's side all around."""
    places = (np.array(MEAN_FACE) + padding) / (1 + 2 * padding) * size
    return {
        "by": "obtained:face_landmarks",
        "points": POINTS,
        "places": [[round(float(x), 3) for x in place] for place in places],
    }
