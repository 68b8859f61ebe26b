"""The DCGAN of faces in the package gan-face-generate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from generators.model_file import read_checkpoint, write_checkpoint


def convert(files: Mapping[str, Path], folder: Path) -> None:
    """Its weights, as a generator in our own format; trained on standard normal codes."""
    (weights,) = files.values()
    found = read_checkpoint(weights, settings={"prior": "normal"}, family="plain")
    write_checkpoint(found, folder / "generator.safetensors")
