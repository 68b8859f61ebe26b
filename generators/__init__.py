"""Adapters to generators, encoders and annotators, and readers of their files.

Importing this package is cheap: torch is imported by `load` only. Unpickling never runs code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import torch

    from generators.stylegan2_adapter import StyleGAN2Adapter

BUNDLED = Path(__file__).parent / "bundled"
DEFAULT_BUNDLED = "faces64"

__all__ = ["fingerprint", "load", "resolve", "save_safetensors"]


def resolve(uri: str | Path) -> Path:
    """File of a generator URI: a path, ``file://`` URL, or "bundled:<name>" ("bundled:" alone is
    "bundled:faces64").

    Raises UsageError for another scheme, CheckpointError when a bundled model is not there.
    """
    text = str(uri)
    if text.startswith("bundled:"):
        name = text.removeprefix("bundled:") or DEFAULT_BUNDLED
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise UsageError(f"bundled generator name {name!r} is not a plain name: use 'faces64'")
        path = BUNDLED / name / "generator.safetensors"
        if not path.is_file():
            have = sorted(p.parent.name for p in BUNDLED.glob("*/generator.safetensors"))
            raise CheckpointError(
                f"bundled generator {name!r} is not part of this installation, which has {have!r}: "
                "reinstall the package or give a path"
            )
        return path
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise UsageError(
            f"generator {text!r} is not a local file: download it and give its path, or use "
            "'bundled:faces64'"
        )
    return Path(text)


def load(uri: str | Path, device: torch.device | str = "cpu") -> StyleGAN2Adapter:
    """Generator from a file or "bundled:<name>", on `device`.

    Reads official ``.pkl``, rosinality and official ``.pt``, and our ``.safetensors`` with its
    ``.json``. Raises CheckpointError for a file that holds no such generator,
    UnsafeCheckpointError for one that tries to run code, NewerLayoutError for a newer release's.
    """
    from generators.checkpoints import read_checkpoint
    from generators.stylegan2_adapter import from_checkpoint

    return from_checkpoint(read_checkpoint(resolve(uri))).to(device)


def fingerprint(uri: str | Path, verify: bool = False) -> str:
    """Fingerprint that `load` of the same file would give, without importing torch.

    verify : read and hash the tensors even where the JSON beside them records the fingerprint.
    Raises the errors of `load`.
    """
    from generators.checkpoints import read_checkpoint, recorded_fingerprint

    path = resolve(uri)
    recorded = None if verify else recorded_fingerprint(path)
    return recorded if recorded is not None else read_checkpoint(path).fingerprint


def save_safetensors(generator: StyleGAN2Adapter, path: str | Path) -> None:
    """Write a generator as ``<path>`` (.safetensors) with its description ``.json`` beside it.

    Both files are replaced atomically and depend on the generator only.
    Raises UsageError for another suffix.
    """
    from generators.checkpoints import write_checkpoint

    write_checkpoint(generator.checkpoint(), path)
