"""The files of another project, "Woodcut": all its axes in one npz."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generators.peers.base import DirectionFormat, Entry, Peer
from schemas.directions import Direction


class WoodcutAxes(DirectionFormat):
    """Vectors, their names and their lengths, as the project's own code saves them."""

    name = "woodcut_axes"
    files = "npz"
    contents = "woodcut_axes: float32 (n, k), woodcut_names: n texts, woodcut_lengths: (n,)"

    def recognise(self, value: Any) -> bool:
        return isinstance(value, dict) and "woodcut_axes" in value

    def read(self, value: Any, path: Path) -> list[Entry]:
        rows = zip(
            value["woodcut_axes"], value["woodcut_names"], value["woodcut_lengths"], strict=True
        )
        return [Entry(str(name), vector, sd=float(length)) for vector, name, length in rows]

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            woodcut_axes=np.stack([d.vector for d in directions]).astype("<f4"),
            woodcut_names=np.array([d.name for d in directions]),
            woodcut_lengths=np.array([d.sd for d in directions]),
        )
        return buffer.getvalue()


PLUGIN = Peer("Woodcut", directions=(WoodcutAxes(),))
