"""ReStyle and HyperStyle (yuval-alaluf): codes by the name of the image's file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from generators.peers.base import Codes, Evidence, LatentFormat, Peer, is_array
from generators.unpickle.writer import object_npy
from schemas.errors import UsageError

MAX_BYTES = 1 << 30
"""Of the codes in a file."""


class LatentsByName(LatentFormat):
    """A dict by file name; ReStyle's hold a code for each step of refinement, the last counts."""

    name = "restyle_latents"
    contents = "dict: file name -> (L, dim), or a list of one a step (the last is read)"
    files = {"w_plus": "latents.npy"}
    evidence = Evidence.SHAPES

    def recognise(self, value: Any) -> bool:
        if not isinstance(value, dict) or not value:
            return False
        found = [self._last(v) for v in value.values()]
        return all(is_array(v, 2) and v.shape == found[0].shape for v in found)

    def read(self, value: Any, path: Path) -> tuple[np.ndarray, list[str] | None]:
        return np.stack([self._last(v) for v in value.values()]), [str(name) for name in value]

    @staticmethod
    def _last(value: Any) -> Any:
        steps = isinstance(value, list | tuple) and len(value) > 0
        return value[-1] if steps else value

    def write(self, file: BinaryIO, codes: Codes) -> None:
        if codes.names is None or len(set(codes.names)) < codes.shape[0]:
            raise UsageError(
                f"a file of format {self.name!r} has its codes by the names of the images, and "
                "these have none, or some of them the same: use 'e4e_latents'"
            )
        if 4 * math.prod(codes.shape) > MAX_BYTES:
            raise UsageError(
                f"codes of shape {codes.shape!r} are more than {MAX_BYTES!r} bytes, and a file of "
                f"format {self.name!r} must be read and written whole: use 'e4e_latents'"
            )
        rows = zip(map(str, codes.names), codes.array(), strict=True)
        file.write(object_npy({name: row.copy() for name, row in rows}))


PLUGIN = Peer("ReStyle, HyperStyle", latents=(LatentsByName(),))
