"""SeFa, as rosinality/stylegan2-pytorch factorises: a column an eigenvector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generators.peers.base import DirectionFormat, Entry, Peer, has_arrays, of_axes
from generators.unpickle.writer import torch_file
from schemas.directions.direction import Direction


class Factor(DirectionFormat):
    """The eigenvectors of the modulation's weights."""

    name = "sefa"
    files = ".pt"
    contents = "dict: ckpt, eigvec (dim, n), one direction a column"

    def recognise(self, value: Any) -> bool:
        return has_arrays(value, eigvec=2)

    def read(self, value: Any, path: Path) -> list[Entry]:
        return [Entry(f"sefa{i:03d}", column) for i, column in enumerate(value["eigvec"].T)]

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        vectors = np.stack([of_axes(d, 1, self.name) for d in directions], axis=1)
        return torch_file({"ckpt": "", "eigvec": vectors.astype("<f4")})


PLUGIN = Peer("SeFa", directions=(Factor(),))
