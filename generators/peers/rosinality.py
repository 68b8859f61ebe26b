"""rosinality's projector (rosinality/stylegan2-pytorch): codes by the path of the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from generators.peers.base import Codes, LatentFormat, Peer, is_array
from generators.unpickle.writer import torch_file
from schemas.errors import UsageError


class Projected(LatentFormat):
    """What ``projector.py`` writes: of every picture its code, drawing and noise.

    The code alone is read and written: pictures drawn from it with the generator's own noise differ
    from the projector's, which optimises noise beside it.
    """

    name = "rosinality_projected"
    contents = "dict: path -> latent (dim,) or (L, dim); noise and img beside it are not read"
    files = {"w": "projected.pt", "w_plus": "projected.pt"}

    def recognise(self, value: Any) -> bool:
        if not isinstance(value, dict) or not value:
            return False
        return all(isinstance(v, dict) and is_array(v.get("latent"), 1, 2) for v in value.values())

    def read(self, value: Any, path: Path) -> tuple[np.ndarray, list[str] | None]:
        codes = [found["latent"] for found in value.values()]
        return np.stack(codes), [str(name) for name in value]

    def write(self, file: BinaryIO, codes: Codes) -> None:
        if codes.names is None or len(set(codes.names)) < codes.shape[0]:
            raise UsageError(
                f"a file of format {self.name!r} has its codes by the names of the images, and "
                "these have none, or some of them the same: use 'e4e_latents'"
            )
        rows = zip(map(str, codes.names), codes.array(), strict=True)
        file.write(torch_file({name: {"latent": row} for name, row in rows}))


PLUGIN = Peer("rosinality", latents=(Projected(),))
