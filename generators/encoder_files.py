"""Encoder files without torch: where they are, what they hold, which fingerprint they have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from schemas.errors import CheckpointError
from schemas.fingerprint import tensors_fingerprint


@dataclass(frozen=True)
class EncoderFile:
    """Architecture and float32 tensors of an encoder, as read."""

    path: Path
    architecture: dict[str, Any]
    tensors: dict[str, np.ndarray]

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits over architecture and tensors; that of the loaded encoder."""
        return tensors_fingerprint(self.architecture, self.tensors)


def encoder_path(uri: str) -> Path:
    """The .safetensors file of "bundled:<set>", "bundled:<set>/<encoder>" or of a path.

    Raises CheckpointError when it does not exist or is of another kind.
    """
    if uri.startswith("bundled:"):
        name = uri.removeprefix("bundled:")
        root = Path(__file__).parent / "bundled"
        path = root / (f"{name}.safetensors" if "/" in name else f"{name}/encoder.safetensors")
        if not path.resolve().is_relative_to(root):
            raise CheckpointError(f"encoder {uri!r} leaves the bundled models: use 'bundled:<set>'")
    else:
        path = Path(uri)
    if path.suffix != ".safetensors" or not path.is_file():
        raise CheckpointError(
            f"encoder {uri!r} is not an existing .safetensors file (looked for {str(path)!r}): "
            "give one with its .json beside it, or 'bundled:faces64'"
        )
    return path


def read_encoder(uri: str) -> EncoderFile:
    """The encoder file at ``uri`` with the description beside it.

    Raises CheckpointError when either is missing or damaged.
    """
    path = encoder_path(uri)
    sidecar = path.with_suffix(".json")
    try:
        architecture = json.loads(sidecar.read_text(encoding="utf-8"))["architecture"]
        tensors = safetensors.numpy.load(path.read_bytes())
        return EncoderFile(path, dict(architecture), tensors)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as e:
        raise CheckpointError(
            f"encoder {str(path)!r} or its description {sidecar.name!r} cannot be read: {e!r}; "
            "write the pair of files with generators.encoder.save_encoder"
        ) from e
