"""tensorgan (renhaa/tensorgan): the six expressions and the rotation of its tensor model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generators.peers.base import DirectionFormat, Entry, Peer, is_array, norm_of
from generators.unpickle.writer import torch_file
from schemas.directions.direction import Direction
from schemas.errors import UsageError

EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
"""Order of the list: AN, DI, FE, HA, SA, SU."""


class Expressions(DirectionFormat):
    """Two entries, a list of expressions and the rotation."""

    name = "tensorgan"
    files = ".pt"
    contents = "list: six expressions (L dim,), and rotation (L dim,)"

    def recognise(self, value: Any) -> bool:
        if not isinstance(value, list | tuple) or len(value) != 2 or not is_array(value[1], 1):
            return False
        if not isinstance(value[0], list | tuple) or len(value[0]) != len(EXPRESSIONS):
            return False
        return all(is_array(v, 1) for v in value[0])

    def read(self, value: Any, path: Path) -> list[Entry]:
        named = [*zip(EXPRESSIONS, value[0], strict=True), ("rotation", value[1])]
        return [Entry(name, vector, norm_of(vector)) for name, vector in named]

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        scaled = []
        for wanted in (*EXPRESSIONS, "rotation"):
            found = [d for d in directions if d.name.rpartition(".")[2] == wanted]
            if len(found) != 1:
                raise UsageError(
                    f"a file of format 'tensorgan' holds one direction each of "
                    f"{[*EXPRESSIONS, 'rotation']!r}, named so up to a prefix; for {wanted!r} "
                    f"there are {[d.name for d in found]!r}: choose the seven, or use 'e4e'"
                )
            scaled.append((found[0].vector * found[0].sd).ravel().astype("<f4"))
        return torch_file([scaled[:-1], scaled[-1]])


PLUGIN = Peer("tensorgan", directions=(Expressions(),))
