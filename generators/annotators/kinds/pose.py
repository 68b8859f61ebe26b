"""Angles of the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.annotators.kinds.base import AnnotatorKind, Described, turn_of

ANGLES = ("yaw", "pitch", "roll")


class Pose(AnnotatorKind):
    """Yaw, pitch and roll, one or more, in any order; stored in degrees.

    Signs are the model's own. Ours: yaw above 0 turns the face to the image's right, pitch down,
    roll counter-clockwise, and R = Rz(roll) Ry(yaw) Rx(pitch) with x right, y up and z towards the
    viewer. From a crop that is turned, a roll is brought back to the picture by these signs.
    """

    name = "pose"
    text = "angles of the head: `yaw`, `pitch` and `roll`, one or more, in the output's order"
    role = "pose"
    unit = "degrees"
    keys = frozenset({"unit"})

    def check(self, names: tuple[str, ...], options: Mapping[str, Any]) -> None:
        if not set(names) <= set(ANGLES):
            raise ValueError(
                f"'names' of a pose is {list(names)!r}: give those of {ANGLES!r} that the output "
                "holds, in its order"
            )
        super().check(names, options)

    def finish(self, values: np.ndarray, card: Described, shape: tuple[int, int]) -> np.ndarray:
        if card.unit == "radians":
            return np.degrees(values, dtype=np.float32)
        return values

    def placed(self, values: np.ndarray, card: Described, maps: np.ndarray) -> np.ndarray:
        if "roll" not in card.names:
            return values
        turned = values.astype(np.float64)
        roll = card.names.index("roll")
        turned[:, roll] = (turned[:, roll] - turn_of(maps) + 180) % 360 - 180
        return turned.astype(np.float32)

    def shape_cure(self, shape: tuple[int, ...], n: int, card: Described) -> str:
        return (
            "correct 'names' or 'output'; classes of angles and rotation matrices are no angles: "
            "add to the model what makes these of them and export it again"
        )


PLUGIN = Pose()
