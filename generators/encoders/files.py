"""Encoder files without torch: where they are, what they hold, which fingerprint they have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from generators.file_kinds import missing, no_bundled, other_kind, text_instead
from generators.obtained.recipe import obtained_file
from generators.tensor_files import is_tensor_file, parts_of, read_tensors, stem_of
from schemas.atomic import read_json
from schemas.errors import CheckpointError
from schemas.fingerprint import tensors_fingerprint
from schemas.sections.types import OBTAINED


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

    @property
    def spaces(self) -> dict[str, tuple[Any, ...]]:
        """Spaces into which it encodes, with the shape of a row's code."""
        num_ws, w_dim = self.architecture.get("num_ws"), self.architecture.get("w_dim")
        return {"w": (w_dim,), "w_plus": (num_ws, w_dim)}


def encoder_path(uri: str) -> Path:
    """The file of "bundled:<set>", "bundled:<set>/<encoder>", "obtained:<name>" or of a path.

    Raises CheckpointError when it does not exist or is of another kind.
    """
    if uri.startswith("bundled:"):
        name = uri.removeprefix("bundled:")
        root = Path(__file__).parents[1] / "bundled"
        path = root / (f"{name}.safetensors" if "/" in name else f"{name}/encoder.safetensors")
        if not path.resolve().is_relative_to(root):
            raise CheckpointError(f"encoder {uri!r} leaves the bundled models: use 'bundled:<set>'")
        if not path.is_file():
            have = [f"bundled:{p.parent.name}" for p in root.glob("*/encoder.safetensors")]
            raise CheckpointError(no_bundled("encoder", uri, have))
    else:
        path = obtained_file(uri) if uri.startswith(OBTAINED) else Path(uri)
    if not path.is_file():
        raise CheckpointError(missing(path, "encoder file"))
    if not is_tensor_file(path):
        kind = other_kind(path) or text_instead(path) or "is not a .safetensors file"
        raise CheckpointError(
            f"encoder {str(path)!r} {kind}; an encoder is a .safetensors file with its .json "
            "beside it (generators.encoders.w_plus.save_encoder writes both), or 'bundled:faces64'"
        )
    return path


def encoder_files(uri: str) -> list[Path]:
    """Every file that decides what the encoder is. Raises the errors of `encoder_path`."""
    path = encoder_path(uri)
    try:
        parts = parts_of(path)
    except CheckpointError:
        parts = []
    return list(dict.fromkeys([path, *parts, _description_of(path)]))


def _description_of(path: Path) -> Path:
    return path.with_name(f"{stem_of(path)}.json")


def is_encoder(path: Path) -> bool:
    """Whether the description beside a safetensors file is of an encoder."""
    beside = _description_of(path)
    return is_tensor_file(path) and read_json(beside).get("kind") == "encoder"


def read_encoder(uri: str) -> EncoderFile:
    """The encoder at ``uri``, of one file or of several with an index, and its description.

    Raises CheckpointError when a file is missing or damaged, or the description is of other
    tensors.
    """
    path = encoder_path(uri)
    beside = _description_of(path)
    write = "write the pair of files with generators.encoders.w_plus.save_encoder"
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
        architecture = dict(about["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(
            f"description {beside.name!r} of encoder {str(path)!r} cannot be read: {e!r}; {write}"
        ) from e
    try:
        tensors = {name: value.astype("<f4") for name, value in read_tensors(path).items()}
    except (CheckpointError, OSError) as e:
        raise CheckpointError(f"encoder {str(path)!r} cannot be read: {e}") from e
    file = EncoderFile(path, architecture, tensors)
    recorded = about.get("fingerprint") or file.fingerprint
    if recorded != file.fingerprint:
        raise CheckpointError(
            f"encoder {str(path)!r} has fingerprint {file.fingerprint!r}, {beside.name!r} says "
            f"{recorded!r}: the files do not belong together; copy all of them again, or, where "
            f"they were changed on purpose, take 'fingerprint' out of {beside.name!r}"
        )
    return file
