"""Where a model looks: the part of a picture that another annotator found, such as the face.

A description asks for it with ``"crop"``:

========== =====================================================================================
by         the annotator that finds it: "obtained:<name>", "bundled:<set>/<model>", or a path
           relative to the description. It gives boxes or landmarks, and may look at a crop itself
scale      of a box: side of the crop / side of the box, about the box's centre
square     of a box: true adds to one side so that nothing is squashed into the input, false takes
           the box's own sides
upright    of a box: true turns the crop with the box's angle, where it has one
points     of landmarks: lists of their numbers, each list averaged to one point. Without them the
           crop is the box around all landmarks
places     [x, y] of each of these in pixels of the input (centres at integer + 0.5). The crop is
           the similarity (turn, one scale, shift) that takes the points nearest to them
========== =====================================================================================

Beyond the picture's edge is black; a crop that shows nothing of the picture is none. What is
measured is told in pixels of the whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from generators.annotators.kinds.boxes import BOX

_KEYS = ("by", "scale", "square", "upright", "points", "places")
_OF_POINTS = ("points", "places")
_OF_BOXES = ("scale", "square", "upright")


@dataclass(frozen=True)
class Crop:
    """What the key ``crop`` of a description says, see the module text.

    by : uri of the annotator that finds what is looked at.
    """

    by: str
    scale: float = 1.0
    square: bool = True
    upright: bool = True
    points: tuple[tuple[int, ...], ...] = ()
    places: tuple[tuple[float, float], ...] = ()

    def identity(self) -> dict[str, Any]:
        """What changes a number, without the annotator that finds it."""
        if self.points:
            return {
                "points": [list(group) for group in self.points],
                "places": [list(place) for place in self.places],
            }
        return {"scale": self.scale, "square": self.square, "upright": self.upright}

    def check(self, kind: str, names: Sequence[str]) -> None:
        """Check it against the annotator that finds the crop: its kind and names.

        Raises ValueError.
        """
        if kind not in ("boxes", "landmarks"):
            raise ValueError(
                f"'crop.by' is {self.by!r} of kind {kind!r}: name an annotator of kind 'boxes' or "
                "'landmarks'"
            )
        if self.points and kind != "landmarks":
            raise ValueError(
                f"'crop.points' are of landmarks and 'crop.by' {self.by!r} gives {kind!r}: name an "
                "annotator of kind 'landmarks', or leave 'points' and 'places' out"
            )
        last = max((i for group in self.points for i in group), default=0)
        if last >= len(names):
            raise ValueError(
                f"'crop.points' has {last!r} and {self.by!r} has {len(names)!r} points: give "
                f"numbers from 0 to {len(names) - 1}"
            )


def read_crop(raw: Any) -> Crop:
    """The key ``crop`` of a description. Raises ValueError, naming key, value and cure."""
    if not isinstance(raw, dict) or not set(raw) <= set(_KEYS):
        raise ValueError(f"'crop' is {raw!r}, expected an object with the keys {_KEYS!r}")
    by = raw.get("by")
    if not isinstance(by, str) or not by.strip():
        raise ValueError(f"'crop.by' is {by!r}: name the annotator that finds the face")
    both = [key for key in _OF_POINTS if raw.get(key) is not None]
    if both:
        other = [key for key in _OF_BOXES if key in raw]
        if len(both) != len(_OF_POINTS) or other:
            raise ValueError(
                f"'crop' has {[*both, *other]!r}: 'points' and 'places' go together, and "
                f"{_OF_BOXES!r} are of boxes"
            )
        return Crop(by, **_pairs(raw["points"], raw["places"]))
    scale = raw.get("scale", 1.0)
    if not _is_number(scale) or not 0.1 <= scale <= 10:
        raise ValueError(f"'crop.scale' is {scale!r}: give a number from 0.1 to 10")
    for key in _OF_BOXES[1:]:
        if not isinstance(raw.get(key, True), bool):
            raise ValueError(f"'crop.{key}' is {raw[key]!r}: give true or false")
    return Crop(by, float(scale), raw.get("square", True), raw.get("upright", True))


def _pairs(points: Any, places: Any) -> dict[str, Any]:
    if not isinstance(points, list) or not all(_is_group(group) for group in points):
        raise ValueError(
            f"'crop.points' is {points!r}: give lists of landmarks' numbers, from 0 on"
        )
    if not isinstance(places, list) or not all(
        isinstance(p, list) and len(p) == 2 and all(map(_is_number, p)) for p in places
    ):
        raise ValueError(f"'crop.places' is {places!r}: give [x, y] in pixels of the input")
    if len(points) != len(places) or len({tuple(place) for place in places}) < 2:
        raise ValueError(
            f"'crop.points' has {len(points)!r} points and 'crop.places' {len(places)!r}: give as "
            "many of one as of the other, at least two, at different places"
        )
    return {
        "points": tuple(tuple(group) for group in points),
        "places": tuple((float(x), float(y)) for x, y in places),
    }


def _is_group(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(
        isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value
    )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ---------------------------------------------------------------------------------------------
# From what was found to the crop


def maps_of(
    found: np.ndarray, names: Sequence[str], crop: Crop, size: tuple[int, int]
) -> np.ndarray:
    """Where the pixels of a model's input lie in the picture, float64 (n, 2, 3): p of the input is
    at map[:, :2] @ p + map[:, 2]. Rows that say no place (a box without area, points in one spot)
    are NaN.

    found : (n, k) boxes or (n, points, 2) landmarks in pixels of the picture. names : of a box's
    numbers. size : (height, width) of the input.
    """
    found = np.asarray(found, np.float64)
    if crop.points:
        return _similarities(found, crop)
    if found.ndim == 3:
        edges, angle = np.concatenate([found.min(axis=1), found.max(axis=1)], axis=1), None
    else:
        edges = found[:, [names.index(edge) for edge in BOX]]
        angle = found[:, names.index("angle")] if "angle" in names and crop.upright else None
    sides = (edges[:, 2:] - edges[:, :2]) * crop.scale
    steps = sides / [size[1], size[0]]  # picture's pixels a pixel of the input
    steps[~(steps > 0).all(axis=1)] = np.nan
    if crop.square:
        steps[:] = steps.max(axis=1, keepdims=True)
    turn = np.zeros(len(edges)) if angle is None else np.radians(angle)
    return placed_at((edges[:, :2] + edges[:, 2:]) / 2, steps, turn, size)


def beside(maps: np.ndarray, size: tuple[int, int], picture: tuple[int, int]) -> np.ndarray:
    """Which crops show nothing of the picture, bool (n,).

    maps : (n, 2, 3) of `maps_of`, finite.  size, picture : (height, width) of input and picture

    Two parallelograms are apart where they are along the axes of one of them.
    """
    turns, shifts = maps[:, :, :2], maps[:, :, 2]

    def apart(corners: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
        low, high = corners.min(axis=1), corners.max(axis=1)
        return ((high <= 0) | (low >= [sides[1], sides[0]])).any(axis=1)

    own, of_picture = (
        np.array([[x, y] for x in (0, width) for y in (0, height)], np.float64)
        for height, width in (size, picture)
    )
    seen = np.einsum("nij,cj->nci", turns, own) + shifts[:, None]
    back = np.einsum("nij,ncj->nci", np.linalg.inv(turns), of_picture[None] - shifts[:, None])
    return apart(seen, picture) | apart(back, size)


def placed_at(
    centre: np.ndarray, steps: np.ndarray, turn: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Maps (n, 2, 3) that put the input's centre at `centre` (n, 2), with `steps` (n, 2) pixels of
    the picture a pixel, turned clockwise by `turn` (n,) radians."""
    cos, sin = np.cos(turn), np.sin(turn)
    linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1) * steps[:, None]
    middle = np.array([size[1], size[0]]) / 2
    return np.concatenate([linear, (centre - linear @ middle)[..., None]], axis=2)


def _similarities(points: np.ndarray, crop: Crop) -> np.ndarray:
    """The inverse of the similarity that takes the points nearest to their places, in the sense of
    least squares in the input (Umeyama 1991, without reflection)."""
    own = np.stack([points[:, list(group)].mean(axis=1) for group in crop.points], axis=1)
    z, w = (p[..., 0] + 1j * p[..., 1] for p in (own, np.array(crop.places)[None]))
    z0, w0 = z.mean(axis=1), w.mean(axis=1)
    z, w = z - z0[:, None], w - w0[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        back = (np.abs(z) ** 2).sum(axis=1) / (z.conj() * w).sum(axis=1)
    shift = z0 - back * w0
    rows = [[back.real, -back.imag, shift.real], [back.imag, back.real, shift.imag]]
    maps = np.array(rows).transpose(2, 0, 1)
    maps[~np.isfinite(maps).all(axis=(1, 2)) | (back == 0)] = np.nan
    return maps
