"""Generator files, without torch: our own format, and contents that a family recognises.

Read: pickles, torch files, and safetensors files, whole or split: our own with its JSON, or tensors
alone; and programs (`generators.programs`). A JSON of the same name beside a file that names a
"family" is a declaration: that family is asked, and is shown both; so is every family the
``config.json`` of a folder (`generators.model_folder`). The same model has the same fingerprint
whatever file it came from. Nothing in a file is executed (`generators.unpickle.interpreter`).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from generators.families.base import Checkpoint, Configured, Declared, GeneratorFamily
from generators.families.catalog import FAMILIES, family_of, recognised
from generators.file_kinds import missing, said_of
from generators.model_folder import CONFIG, config_of, not_read, weights_of
from generators.programs import program_files, read_program
from generators.tensor_files import (
    is_tensor_file,
    parts_of,
    read_tensors,
    safetensors_bytes,
    stem_of,
)
from generators.unpickle.interpreter import Limits
from generators.unpickle.torch_files import read_any
from schemas.atomic import read_json, write_bytes, write_json
from schemas.errors import CheckpointError, NewerLayoutError, SpecError, UsageError
from schemas.sections.generator_settings import checked_settings, choices
from schemas.suggest import suggestion

__all__ = [
    "Checkpoint",
    "files_of",
    "read_checkpoint",
    "write_checkpoint",
]

FORMAT = "latentflow-generator"
LAYOUT_VERSION = 1
MAX_JSON_BYTES = 1 << 20


def read_checkpoint(
    path: str | Path,
    limits: Limits | None = None,
    settings: Mapping[str, Any] | None = None,
    family: str | None = None,
    trusted: bool = False,
) -> Checkpoint:
    """Read a generator file; the kind of file is recognised by its contents.

    path : ``.pkl``, ``.pt``, ``.pth``, ``.ckpt``, ``.safetensors`` (with our ``.json`` of the same
        name beside it, or alone), ``.safetensors.index.json``, ``.onnx`` or ``.pt2``; or a folder
        with ``config.json`` and weights.
    trusted : see `Checkpoint`; nothing is run here.
    settings : of the file's family, that it does not state. family : the only one to ask.

    Raises CheckpointError when the file is missing, damaged, or holds no generator of any family,
    is claimed by two, or states another value of a setting; SpecError for a setting that the family
    does not have; UnsafeCheckpointError when it tries to run code.
    """
    path = Path(path)
    folder, path = path, weights_of(path) or path
    if not path.is_file():
        raise CheckpointError(missing(path, "generator file"))
    try:
        declared = _declaration(path)
        if is_tensor_file(path) and declared is None and folder == path:
            checkpoint = _read_safetensors(path, family)
        else:
            contents = contents_of(path, limits)
            if declared is not None:
                contents, family = Declared(contents, declared), _same(family, declared)
            elif folder != path:
                contents = Configured(contents, config_of(folder))
            checkpoint = recognised(contents, family)
        if folder != path and (others := not_read(folder, path)):
            left_out = [*checkpoint.metadata.get("left_out", ()), *others]
            metadata = {**checkpoint.metadata, "left_out": left_out}
            checkpoint = replace(checkpoint, metadata=metadata)
        return replace(_with_settings(checkpoint, settings or {}), trusted=trusted)
    except CheckpointError as e:
        raise type(e)(said_of(path, str(e))) from e
    except (OSError, RecursionError) as e:
        raise CheckpointError(f"{str(path)!r} cannot be read: {e}") from e


def files_of(path: Path) -> list[Path]:
    """Every file that decides what the generator at `path` is; those that exist.

    A file that cannot be read stands for itself.
    """
    if (weights := weights_of(path)) is not None:
        return [path / CONFIG, *files_of(weights)]
    files = [path]
    try:
        if path.is_file() and is_tensor_file(path):
            files += [*parts_of(path), _description_of(path)]
        elif path.is_file():
            files += program_files(path)
        if path.is_file() and _declaration(path) is not None:
            files.append(_description_of(path))
    except CheckpointError:
        pass
    return [file for file in dict.fromkeys(files) if file.is_file()]


def contents_of(path: Path, limits: Limits | None = None) -> Any:
    """What families are shown of a file. Raises the errors of `read_checkpoint`."""
    limits = limits or Limits()
    if is_tensor_file(path):
        return read_tensors(path)
    if (program := read_program(path, limits.max_bytes)) is not None:
        return program
    return read_any(path, limits)


def _declaration(path: Path) -> dict[str, Any] | None:
    """The JSON beside a file, where it names a family; None where it is another's or not there.

    Raises CheckpointError for a text that names one and is no JSON, for a name that no family has,
    and for a key that "family" was meant by.
    """
    beside = _description_of(path)
    data = b""
    try:
        if beside == path or beside.stat().st_size > MAX_JSON_BYTES:
            return None
        data = beside.read_bytes()
        found = json.loads(data)
    except (OSError, ValueError, RecursionError) as e:
        if b'"family"' in data:
            raise CheckpointError(f"{beside.name!r} beside it is not JSON ({e}): correct it") from e
        return None
    if not isinstance(found, dict) or "format" in found:
        return None
    if "family" not in found:
        if meant := difflib.get_close_matches("family", map(str, found), n=1, cutoff=0.8):
            raise CheckpointError(
                f"{beside.name!r} beside it has a key {meant[0]!r}: if it declares the file, call "
                "it 'family', else rename it or the JSON"
            )
        return None
    name = found["family"]
    if not isinstance(name, str) or name not in FAMILIES:
        raise CheckpointError(
            f"{beside.name!r} beside it says 'family': {name!r}, which is none: "
            f"{suggestion(str(name), FAMILIES.names())}"
        )
    return found


def _same(family: str | None, declared: Mapping[str, Any]) -> str:
    """The family that a declaration names. Raises CheckpointError where the specification names
    another."""
    named = str(declared["family"])
    if family not in (None, named):
        raise CheckpointError(
            f"'generator.family' is {family!r}, but the JSON beside it says {named!r}: remove the "
            "key, or correct the JSON"
        )
    return named


def settings_left_open(checkpoint: Checkpoint) -> frozenset[str]:
    """Settings that a specification may give: those that the file does not state, and choices."""
    return choices(family_of(checkpoint).settings) | frozenset(checkpoint.assumed)


def _with_settings(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint with settings that its file does not state, in the form of its family.

    One that the file states may be given where it changes nothing.
    """
    if not settings and not checkpoint.assumed:
        return checkpoint
    assumed = checkpoint.assumed
    family = family_of(checkpoint)
    settings = checked_settings(family.settings, family.name, settings)
    left_open = settings_left_open(checkpoint)
    for name, value in settings.items():
        if name in left_open or checkpoint.architecture.get(name) == value:
            continue
        try:
            same = _merged(checkpoint, {name: value}).fingerprint == checkpoint.fingerprint
        except CheckpointError:
            same = False
        if not same:
            known = name in checkpoint.architecture
            said = f"states {checkpoint.architecture[name]!r}" if known else "leaves it not open"
            raise CheckpointError(
                f"'generator.{name}' is {value!r}, but the file {said}: remove the key"
            )
    left = {name: value for name, value in assumed.items() if name not in settings}
    metadata = {k: v for k, v in checkpoint.metadata.items() if k != "assumed"}
    if left:
        metadata["assumed"] = left
    return _merged(replace(checkpoint, metadata=metadata), settings)


def _merged(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Checkpoint:
    """With settings in its architecture, which its family checks and makes canonical."""
    family = family_of(checkpoint)
    architecture = {**checkpoint.architecture, **settings}
    with FAMILIES.blamed(family.name, "checked"):
        return family.checked(replace(checkpoint, architecture=architecture))


def _checked(family: GeneratorFamily, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as its family checks it.

    Raises CheckpointError where the architecture is none of the family's, with its key and value.
    """
    said = checkpoint.architecture
    known = family.settings.model_fields
    given = {name: value for name, value in said.items() if name in known}
    try:
        checked_settings(family.settings, family.name, given)
        with FAMILIES.blamed(family.name, "checked"):
            found = family.checked(checkpoint)
    except SpecError as e:
        raise CheckpointError(str(e).replace("'generator.", "'architecture.", 1)) from e
    except (CheckpointError, LookupError, AttributeError, TypeError, ValueError) as e:
        raw = e.__cause__ if isinstance(e, CheckpointError) else e
        named = isinstance(raw, ValueError) and any(repr(name) in str(raw) for name in said)
        if isinstance(e, CheckpointError) and (raw is None or named):
            raise
        values = ", ".join(
            f"{name!r}: {value!r}"[:60] for name, value in said.items() if name != "family"
        )
        raise CheckpointError(
            f"'architecture' is none of the family {family.name!r} ({e}): correct what was changed "
            f"of {values}"
        ) from e
    said, own = (json.loads(json.dumps(x)) for x in (said, found.architecture))
    for name in dict.fromkeys((*said, *own)):
        if name not in own:
            raise CheckpointError(
                f"'architecture' has {name!r} {repr(said[name])[:80]}, which the family "
                f"{family.name!r} does not know: take it out"
            )
        if name not in said or said[name] != own[name]:
            value = repr(said[name]) if name in said else "missing"
            raise CheckpointError(
                f"'architecture' has {name!r} {value[:80]}, which the family {family.name!r} "
                f"writes as {repr(own[name])[:80]}: correct it"
            )
    return found


# --- our own format -------------------------------------------------------------------------


def _description_of(path: Path) -> Path:
    """The JSON file that belongs to a safetensors file or to an index of such files."""
    return path.with_name(f"{stem_of(path)}.json")


def own_format(path: Path) -> bool:
    """Whether the description of a generator in our own format lies beside a file, there or not."""
    return read_json(_description_of(path)).get("format") == FORMAT


def _read_json(beside: Path) -> dict[str, Any]:
    """The description of a generator, checked."""
    try:
        if beside.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{beside.name!r} has more than {MAX_JSON_BYTES} bytes")
        facts = json.loads(beside.read_bytes())
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{beside.name!r} is not JSON ({e}): write it again") from e
    if isinstance(facts, dict) and facts.get("kind") == "encoder":
        raise CheckpointError(
            f"{beside.name!r} beside it describes an encoder: name it under 'encoder', and a "
            "generator under 'generator'"
        )
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise CheckpointError(
            f"{beside.name!r} beside it does not describe a generator ({FORMAT!r}): give the file "
            "another name to read its tensors alone"
        )
    version = facts.get("layout_version")
    if not isinstance(version, int) or version > LAYOUT_VERSION:
        raise NewerLayoutError(
            f"{beside.name!r} has layout version {version!r}, this release reads up to "
            f"{LAYOUT_VERSION}: upgrade to read it"
        )
    if not isinstance(facts.get("architecture"), dict):
        raise CheckpointError(f"{beside.name!r} lacks 'architecture': copy both files again")
    return facts


def write_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write ``<path>`` (.safetensors) and the ``.json`` beside it, each replaced atomically.

    The description comes first: tensors without theirs might be read as another model, with
    settings that are assumed; a description without its tensors is told.

    Raises UsageError for another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UsageError(f"path {str(path)!r} does not end in '.safetensors': rename it")
    tensors = {
        name: value if value.dtype == np.uint8 else value.astype("<f4")
        for name, value in checkpoint.tensors.items()
    }
    data = safetensors_bytes(tensors)
    write_json(
        path.with_suffix(".json"),
        {
            "format": FORMAT,
            "layout_version": LAYOUT_VERSION,
            "architecture": checkpoint.architecture,
            "fingerprint": checkpoint.fingerprint,
            "estimated": dict(checkpoint.estimated),
            "metadata": checkpoint.metadata,
        },
    )
    write_bytes(path, data)


def _read_safetensors(path: Path, family: str | None) -> Checkpoint:
    tensors = read_tensors(path)
    beside = _description_of(path)
    if not beside.exists():
        return recognised(tensors, family)
    facts = _read_json(beside)
    read = Checkpoint(facts["architecture"], tensors, _estimated(facts, beside))
    own = family_of(read)
    if family not in (None, own.name):
        raise CheckpointError(
            f"'generator.family' is {family!r}, but {beside.name!r} says {own.name!r}: remove the "
            "key"
        )
    checkpoint = _checked(own, replace(read, metadata=_noted(facts, own)))
    recorded = facts.get("fingerprint") or checkpoint.fingerprint
    if checkpoint.fingerprint != recorded:
        raise CheckpointError(
            f"tensors have fingerprint {checkpoint.fingerprint!r}, {beside.name!r} says "
            f"{recorded!r}: the files do not belong together; copy all of them again, or, where "
            f"they were changed on purpose, take 'fingerprint' out of {beside.name!r}"
        )
    return checkpoint


def _estimated(facts: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    """Tensors that a description calls estimated, with how they are."""
    if facts.get("w_avg_estimated"):  # written when this was the only tensor that could be
        return {"mapping.w_avg": {"n": 10_000, "seed": 0}}
    found = facts.get("estimated", {})
    if not isinstance(found, dict):
        raise CheckpointError(f"{beside.name!r} has 'estimated' {found!r}, expected a dict by name")
    return found


def _noted(facts: Mapping[str, Any], family: GeneratorFamily) -> dict[str, Any]:
    """The metadata of a description; of "assumed" what the architecture or the settings have."""
    metadata = facts.get("metadata")
    noted = dict(metadata) if isinstance(metadata, dict) else {}
    assumed = noted.pop("assumed", None)
    if isinstance(assumed, dict) and assumed:
        stated = facts["architecture"]
        known = dict.fromkeys([*family.settings.model_fields, *stated])
        noted["assumed"] = {k: stated.get(k, assumed[k]) for k in known if k in assumed}
    return noted
