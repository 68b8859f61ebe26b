"""Asyrp (kwonminki/Asyrp_official): changes of h by time step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generators.peers.base import (
    SPACE_AXES,
    DirectionFormat,
    Entry,
    Peer,
    is_array,
    norm_of,
    of_axes,
    one_of,
)
from generators.unpickle.writer import torch_file
from schemas.directions.direction import Direction


class DeltaH(DirectionFormat):
    """A dict by time step."""

    name = "asyrp"
    files = ".pth"
    contents = "dict: time step -> delta of h (c, h, w)"
    not_of = frozenset(SPACE_AXES)
    suffix = ".pth"

    def recognise(self, value: Any) -> bool:
        if not isinstance(value, dict) or not value:
            return False
        steps = all(re.fullmatch(r"\d+", str(step)) for step in value)
        return steps and all(is_array(v, 3, 4) for v in value.values())

    def read(self, value: Any, path: Path) -> list[Entry]:
        steps = sorted((int(step) for step in value), reverse=True)
        by_step = {int(step): vector for step, vector in value.items()}
        stack = np.stack([by_step[step].reshape(by_step[step].shape[-3:]) for step in steps])
        return [Entry("", stack, norm_of(stack), quality={"timesteps": steps})]

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        direction = one_of(directions, self.name)
        stack = of_axes(direction, 4, self.name) * direction.sd
        steps = direction.quality.get("timesteps", list(range(len(stack) - 1, -1, -1)))
        return torch_file({str(t): v.astype("<f4") for t, v in zip(steps, stack, strict=True)})


PLUGIN = Peer("Asyrp", directions=(DeltaH(),))
