"""An inversion method that fails when it is told to: that of `benchmarks.faults`.

It is ``hybrid``; a JSON file that the environment names says what goes wrong in the processes that
read it: ``pause_s`` is waited before every batch, of the row whose pixels have the mean ``nan`` all
pixels become NaN, and more than ``most`` rows do not fit into memory.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

from schemas.sections.inversion.hybrid import HybridSpec
from transforms.inversion.method import Images, Inverted
from transforms.inversion.methods.hybrid import HybridInversion

NAME = "faulty"
FILE = "LATENTFLOW_FAULTS"
"""Environment variable with the file's path."""


class FaultySpec(HybridSpec):
    """As ``method: hybrid``."""


class FaultyInversion(HybridInversion):
    """As ``method: hybrid``, but for what the file says."""

    section = FaultySpec

    def invert(self, images: Images) -> Inverted:
        import torch

        told = json.loads(Path(os.environ[FILE]).read_text())
        time.sleep(told.get("pause_s", 0.0))
        if len(images) > told.get("most", len(images)):
            raise torch.OutOfMemoryError(f"out of memory: {len(images)} rows are too many")
        if "nan" in told:
            struck = (images.pixels.double().mean(dim=(1, 2, 3)) - told["nan"]).abs() < 1e-9
            pixels = torch.where(struck[:, None, None, None], torch.nan, images.pixels)
            images = replace(images, pixels=pixels)
        return super().invert(images)


def install(folder: Path) -> None:
    """An entry point of the method, found by whoever has ``folder`` on PYTHONPATH."""
    info = folder / "faulty_method-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-method\nVersion: 1.0\n")
    entry = f"[latentflow.inversions]\n{NAME} = {__name__}:PLUGIN\n"
    (info / "entry_points.txt").write_text(entry)


PLUGIN = FaultyInversion()
