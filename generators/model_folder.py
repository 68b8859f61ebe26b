"""Folders of a model as Hugging Face writes them: ``config.json`` and the weights beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from generators.file_kinds import checkpoints_in
from schemas.errors import CheckpointError

CONFIG = "config.json"
#: Names of the weights; of several in one folder the first is read.
WEIGHTS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin")
MAX_CONFIG_BYTES = 1 << 20


def weights_of(path: Path) -> Path | None:
    """The weights in such a folder: a file of a usual name, else the only checkpoint; None where
    `path` is no such folder."""
    if not (path / CONFIG).is_file():
        return None
    for name in WEIGHTS:
        if (path / name).is_file():
            return path / name
    held = checkpoints_in(path)
    return path / held[0] if len(held) == 1 else None


def not_read(folder: Path, weights: Path) -> list[str]:
    """Other weights of usual names in such a folder, for people."""
    others = [name for name in WEIGHTS if name != weights.name and (folder / name).is_file()]
    return [f"the weights {name!r}, as those of {weights.name!r} are read" for name in others]


def config_of(folder: Path) -> dict[str, Any]:
    """What ``config.json`` says. Raises CheckpointError for one that is no JSON object."""
    try:
        data = (folder / CONFIG).read_bytes()
        if len(data) > MAX_CONFIG_BYTES:
            raise ValueError(f"more than {MAX_CONFIG_BYTES} bytes")
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}, expected an object")
    except (ValueError, RecursionError) as e:
        raise CheckpointError(
            f"{CONFIG!r} beside it is not the description of a model ({e}): copy it again, or give "
            "the path of the weights to read them alone"
        ) from e
    return found
