"""Angles of the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.annotators.kinds.base import AnnotatorKind, Described

ANGLES = ("yaw", "pitch", "roll")


class Pose(AnnotatorKind):
    """Yaw, pitch and roll, one or more, in any order; stored in degrees."""

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

    def shape_cure(self, shape: tuple[int, ...], n: int, card: Described) -> str:
        return (
            "correct 'names' or 'output'; classes of angles and rotation matrices are no angles: "
            "add to the model what makes these of them and export it again"
        )


PLUGIN = Pose()
