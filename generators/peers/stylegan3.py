"""NVIDIA's projectors (NVlabs/stylegan2-ada-pytorch, NVlabs/stylegan3): a projected code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from generators.peers.base import Codes, LatentFormat, Peer, has_arrays


class ProjectedW(LatentFormat):
    """What ``projector.py`` writes and ``generate.py --projected-w`` draws, row by row."""

    name = "projected_w"
    contents = "w: float32 (n, L, dim), n = 1 of one image"
    files = {"w_plus": "projected_w.npz"}

    def recognise(self, value: Any) -> bool:
        return has_arrays(value, w=3) and len(value) == 1

    def read(self, value: Any, path: Path) -> tuple[np.ndarray, list[str] | None]:
        return value["w"], None

    def write(self, file: BinaryIO, codes: Codes) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            with archive.open(zipfile.ZipInfo("w.npy"), "w", force_zip64=True) as part:
                codes.write_npy(part)


PLUGIN = Peer("StyleGAN2-ADA, StyleGAN3", latents=(ProjectedW(),))
