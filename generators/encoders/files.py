"""Encoder files without torch: where they are, what they hold, which fingerprint they have.

Our own format is a .safetensors file, whole or split, with its .json beside it; files of other
projects are recognised by their contents (`generators.encoders.catalog`).
"""

from __future__ import annotations

import json
from pathlib import Path

from generators.encoders.base import EncoderCheckpoint
from generators.encoders.catalog import claimed, recognised
from generators.families.base import Checkpoint
from generators.file_kinds import missing, no_bundled, other_kind, said_of, text_instead
from generators.model_file import contents_of, read_checkpoint
from generators.obtained.recipe import obtained_file
from generators.tensor_files import is_tensor_file, parts_of, read_tensors, stem_of
from schemas.atomic import read_json
from schemas.errors import CheckpointError
from schemas.sections.types import OBTAINED

_GIVE = (
    "give another project's .pt, or a .safetensors file with its .json beside it "
    "(generators.encoders.save_encoder writes both), or 'bundled:faces64'"
)


def encoder_path(uri: str) -> Path:
    """The file of "bundled:<set>", "bundled:<set>/<encoder>", "obtained:<name>" or of a path.

    Raises CheckpointError when it does not exist.
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


def read_encoder(uri: str) -> EncoderCheckpoint:
    """The encoder at ``uri``: our own format, or another project's file.

    Raises CheckpointError when a file is missing, damaged or of another kind, or the description
    is of other tensors.
    """
    path = encoder_path(uri)
    if is_tensor_file(path):
        return _read_own(path)
    try:
        if kind := other_kind(path, _GIVE) or text_instead(path):
            raise CheckpointError(kind)
        return recognised(contents_of(path))
    except CheckpointError as e:
        raise type(e)(said_of(path, str(e))) from e
    except (OSError, RecursionError) as e:
        raise CheckpointError(f"encoder {str(path)!r} cannot be read: {e}") from e


def encoder_in(path: Path) -> EncoderCheckpoint | None:
    """The encoder in a file that may hold one beside something else; None where there is none.

    Raises CheckpointError where there nearly is one.
    """
    if is_tensor_file(path):
        return None
    try:
        contents = contents_of(path)
    except (CheckpointError, OSError, RecursionError):  # told by whoever reads the rest of it
        return None
    return claimed(contents)


def generator_beside(uri: str) -> Checkpoint | None:
    """The generator in the file of an encoder, with which that was trained; None without one.

    Raises the errors of `encoder_path`.
    """
    path = encoder_path(uri)
    if is_tensor_file(path):
        return None
    try:
        return read_checkpoint(path)
    except CheckpointError:
        return None


def _read_own(path: Path) -> EncoderCheckpoint:
    beside = _description_of(path)
    write = "write the pair of files with generators.encoders.save_encoder"
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
    training = about.get("training")
    of = training.get("generator_fp") if isinstance(training, dict) else None
    found = EncoderCheckpoint(architecture, tensors, {} if of is None else {"trained_for": of})
    recorded = about.get("fingerprint") or found.fingerprint
    if recorded != found.fingerprint:
        raise CheckpointError(
            f"encoder {str(path)!r} has fingerprint {found.fingerprint!r}, {beside.name!r} says "
            f"{recorded!r}: the files do not belong together; copy all of them again, or, where "
            f"they were changed on purpose, take 'fingerprint' out of {beside.name!r}"
        )
    return found
