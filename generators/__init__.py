"""Adapters to generators, encoders and annotators, and readers of their files.

Importing this package is cheap: torch is imported by `load` only. Unpickling never runs code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import CheckpointError, UntrustedError, UsageError
from schemas.faces import find_old_names
from schemas.sections.types import OBTAINED

if TYPE_CHECKING:
    import torch

    from generators.families.base import Checkpoint, Stored
    from generators.protocols import Generator, ModelFacts
    from schemas.spec_models import GeneratorSpec

    #: A file or bundled name; in a specification also with settings that the file does not state.
    Source = str | Path | GeneratorSpec

find_old_names()

BUNDLED = Path(__file__).parent / "bundled"
DEFAULT_BUNDLED = "faces64"

__all__ = ["facts", "files", "fingerprint", "like", "load", "read", "resolve", "save_safetensors"]


def resolve(source: Source) -> Path:
    """File of a generator: of a path, ``file://`` URL, "bundled:<name>" ("bundled:" alone is
    "bundled:faces64"; a family may bring others) or "obtained:<name>" (`generators.obtained`).

    Raises UsageError for another scheme, CheckpointError when a bundled model is not there.
    """
    text = str(source) if isinstance(source, str | Path) else source.path
    if text.startswith("bundled:"):
        name = text.removeprefix("bundled:") or DEFAULT_BUNDLED
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise UsageError(f"bundled generator name {name!r} is not a plain name: use 'faces64'")
        path = BUNDLED / name / "generator.safetensors"
        if not path.is_file():
            from generators.families.catalog import FAMILIES
            from generators.file_kinds import no_bundled

            brought = {n: file for family in FAMILIES for n, file in family.bundled.items()}
            if name in brought:
                return brought[name]
            have = [p.parent.name for p in BUNDLED.glob("*/generator.safetensors")]
            known = [f"bundled:{n}" for n in (*have, *brought)]
            raise CheckpointError(no_bundled("generator", text, known))
        return path
    if text.startswith(OBTAINED):
        from generators.obtained.recipe import obtained_file

        return obtained_file(text)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise UsageError(
            f"generator {text!r} is not a local file: download it and give its path, or use "
            "'bundled:faces64'"
        )
    return Path(text)


def read(source: Source) -> Checkpoint:
    """Architecture, tensors and facts of a generator, without importing torch; errors as of `load`.

    The settings of a `schemas.spec_models.GeneratorSpec` stand in for those that its file does not
    state.
    """
    from generators.model_file import read_checkpoint
    from schemas.spec_models import TrustedPath

    path = source if isinstance(source, str | Path) else source.path
    trusted = isinstance(path, TrustedPath)
    if isinstance(source, str | Path):
        return read_checkpoint(resolve(source), trusted=trusted)
    return read_checkpoint(
        resolve(source), settings=source.settings, family=source.family, trusted=trusted
    )


def facts(source: Source) -> ModelFacts:
    """What a generator is, without importing torch; errors as of `load`."""
    from generators.families.catalog import facts_of

    return facts_of(read(source))


def like(path: str, other: Source) -> Source:
    """Another file of a specification's generator, with the settings given for `other` that this
    file leaves open; errors as of `load`."""
    if isinstance(other, str | Path):
        return path
    from generators.model_file import settings_left_open

    left = settings_left_open(read(path))
    settings = {name: value if name in left else None for name, value in other.settings.items()}
    return other.model_copy(update={"path": path, **settings})


def load(source: Source, device: torch.device | str = "cpu") -> Generator:
    """Generator from a file or "bundled:<name>", on `device`.

    Reads files of every family, and our own ``.safetensors``; see `generators.model_file`.
    Raises CheckpointError for a file that holds no such generator,
    UnsafeCheckpointError for one that tries to run code, UntrustedError for one that can run code
    whose path is no `schemas.spec_models.TrustedPath`, NewerLayoutError for a newer release's.
    """
    from generators.families.catalog import built
    from generators.file_kinds import said_of

    found = read(source)
    try:
        return built(found).to(device)
    except (CheckpointError, UntrustedError) as e:
        raise type(e)(said_of(resolve(source), str(e))) from e


def fingerprint(source: Source) -> str:
    """Fingerprint of the generator that `load` gives, of the tensors that are really there.

    Imports no torch. Raises the errors of `load`.
    """
    return facts(source).fingerprint


def files(source: Source) -> list[Path]:
    """Every file that decides what the generator is; the one that names it, where none is there."""
    from generators.model_file import files_of

    path = resolve(source)
    return files_of(path) or [path]


def save_safetensors(generator: Stored, path: str | Path) -> None:
    """Write a generator as ``<path>`` (.safetensors) with its description ``.json`` beside it.

    Both files are replaced atomically and depend on the generator only.
    Raises UsageError for another suffix.
    """
    from generators.model_file import write_checkpoint

    write_checkpoint(generator.checkpoint(), path)
