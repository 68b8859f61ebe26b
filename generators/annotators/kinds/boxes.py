"""Where something is in the picture, such as the face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.annotators.kinds.base import AnnotatorKind, Described, turn_of

BOX = ("left", "top", "right", "bottom")
MORE = ("angle", "score")


class Boxes(AnnotatorKind):
    """Left, top, right and bottom edge in pixels of the image; other annotators may look at it.

    ``angle`` : degrees by which what is in the box is turned clockwise about the box's centre; the
    edges are then those of the box turned back upright. ``score`` : of the detector.
    """

    name = "boxes"
    text = (
        "where the face is: `left`, `top`, `right` and `bottom` in pixels, and where the model"
        " tells them its `angle` (degrees clockwise) and `score`; other models look there (`crop`)"
    )
    unit = "pixels"

    def check(self, names: tuple[str, ...], options: Mapping[str, Any]) -> None:
        if not set(BOX) <= set(names) <= {*BOX, *MORE}:
            raise ValueError(
                f"'names' of boxes is {list(names)!r}: give {list(BOX)!r} and those of "
                f"{list(MORE)!r} that the output holds, in its order"
            )
        super().check(names, options)

    def finish(self, values: np.ndarray, card: Described, shape: tuple[int, int]) -> np.ndarray:
        source = (1, 1) if card.coordinates == "unit" else card.size
        steps = np.array([shape[1] / source[1], shape[0] / source[0]])
        # An index is a pixel's centre, and an edge the outer one of the pixel it names.
        shift = {"left": 0.0, "top": 0.0, "right": 1.0, "bottom": 1.0}
        values = np.array(values, np.float64)
        if card.coordinates == "indices":
            values[:, [card.names.index(edge) for edge in BOX]] += list(shift.values())
        maps = np.zeros((len(values), 2, 3))
        maps[:, [0, 1], [0, 1]] = steps
        return self.placed(values, card, maps)

    def placed(self, values: np.ndarray, card: Described, maps: np.ndarray) -> np.ndarray:
        out = np.array(values, np.float64)
        edges = [card.names.index(edge) for edge in BOX]
        near, far = out[:, edges[:2]], out[:, edges[2:]]
        linear, turn = maps[:, :, :2], np.zeros(len(out))
        if "angle" in card.names:
            turn = np.radians(out[:, card.names.index("angle")])
        axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        axes = linear @ axes.transpose(2, 0, 1)
        half = (far - near) / 2 * np.sqrt((axes**2).sum(axis=1))
        centre = np.einsum("nij,nj->ni", linear, (near + far) / 2) + maps[:, :, 2]
        out[:, edges[:2]], out[:, edges[2:]] = centre - half, centre + half
        if "angle" in card.names:
            out[:, card.names.index("angle")] = turn_of(axes)
        return out.astype(np.float32)


PLUGIN = Boxes()
