"""Orders of landmarks that are known by name: which points are eyes, nose and mouth.

Right and left are the person's own: the right eye is on the image's left.
"""

from __future__ import annotations

from dataclasses import dataclass

IBUG68 = "ibug68"
MEDIAPIPE468 = "mediapipe468"


def _ring(*points: int) -> tuple[int, ...]:
    return (*points, points[0])


@dataclass(frozen=True)
class LandmarkScheme:
    """Numbers of points, from 0 on.

    count : of all points. tip : of the nose. sides : where the face ends at the right and left ear.
    nose, mouth : nearer to the viewer than the rest, and the outline of the lips.
    lines : to be drawn, each through its points; a ring ends where it begins.
    """

    count: int
    right_eye: tuple[int, ...]
    left_eye: tuple[int, ...]
    nose: tuple[int, ...]
    tip: int
    mouth: tuple[int, ...]
    sides: tuple[int, int]
    lines: tuple[tuple[int, ...], ...]


_RIGHT_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
_LEFT_EYE = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
_LIPS_INSIDE = (
    *(78, 95, 88, 178, 87, 14, 317, 402, 318, 324),
    *(308, 415, 310, 311, 312, 13, 82, 81, 80, 191),
)
_BRIDGE, _NOSTRILS = (168, 6, 197, 195, 5, 4, 1, 19, 94, 2), (98, 97, 2, 326, 327)
_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
_BROWS = ((70, 63, 105, 66, 107), (336, 296, 334, 293, 300))

SCHEMES = {
    IBUG68: LandmarkScheme(
        count=68,
        right_eye=tuple(range(36, 42)),
        left_eye=tuple(range(42, 48)),
        nose=tuple(range(27, 36)),
        tip=30,
        mouth=tuple(range(48, 60)),
        sides=(0, 16),
        lines=(
            tuple(range(17)),  # jaw
            tuple(range(17, 22)),
            tuple(range(22, 27)),  # brows
            tuple(range(27, 31)),
            tuple(range(31, 36)),  # nose
            _ring(*range(36, 42)),
            _ring(*range(42, 48)),  # eyes
            _ring(*range(48, 60)),
            _ring(*range(60, 68)),  # lips
        ),
    ),
    MEDIAPIPE468: LandmarkScheme(
        count=468,
        right_eye=_RIGHT_EYE,
        left_eye=_LEFT_EYE,
        nose=tuple(dict.fromkeys((*_BRIDGE, *_NOSTRILS))),
        tip=1,
        mouth=_LIPS,
        sides=(234, 454),
        lines=(
            *(_ring(*points) for points in (_OVAL, _RIGHT_EYE, _LEFT_EYE, _LIPS, _LIPS_INSIDE)),
            *_BROWS,
            _BRIDGE,
            _NOSTRILS,
        ),
    ),
}


def scheme_of_count(n_points: int) -> LandmarkScheme | None:
    """The scheme that drawings take so many points for, None for other numbers."""
    return next((scheme for scheme in SCHEMES.values() if scheme.count == n_points), None)
