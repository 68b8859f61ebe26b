"""InterFaceGAN (genforce/interfacegan): boundaries, and codes with scores.

LowRankGAN and stylegan3-editing write the same boundaries.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from generators.peers.base import (
    Codes,
    DirectionFormat,
    Entry,
    LatentFormat,
    Peer,
    is_array,
    lone,
    of_axes,
    one_of,
)
from schemas.directions.direction import Direction


class Boundary(DirectionFormat):
    """The normal of one hyperplane."""

    name = "interfacegan"
    files = ".npy"
    contents = "float (1, dim), a unit vector; also LowRankGAN, stylegan3-editing"
    evidence = None
    suffix = "_boundary.npy"

    def recognise(self, value: Any) -> bool:
        return is_array(value, 2) and len(value) == 1

    def read(self, value: Any, path: Path) -> list[Entry]:
        return [Entry("", lone(value))]

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        vector = of_axes(one_of(directions, self.name), 1, self.name)
        memory = io.BytesIO()
        np.save(memory, vector[None].astype("<f8"), allow_pickle=False)
        return memory.getvalue()


class Samples(LatentFormat):
    """The codes that ``train_boundary.py`` reads."""

    name = "interfacegan_latents"
    contents = "float32 (n, dim), wp.npy (n, L, dim), and (n, 1) of each score"
    files = {"z": "z.npy", "w": "w.npy", "w_plus": "wp.npy"}
    evidence = None
    scores = "{name}_scores.npy"

    def recognise(self, value: Any) -> bool:
        return is_array(value, 2, 3)

    def read(self, value: Any, path: Path) -> tuple[np.ndarray, list[str] | None]:
        return value, None

    def write(self, file: BinaryIO, codes: Codes) -> None:
        codes.write_npy(file)


PLUGIN = Peer("InterFaceGAN", directions=(Boundary(),), latents=(Samples(),))
