"""A generator file of any family as our safetensors and JSON, and what was assumed and left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import generators
from generators.families.base import Checkpoint
from generators.families.catalog import FAMILIES, facts_of
from generators.model_file import contents_of, own_format, read_checkpoint, write_checkpoint
from generators.model_folder import weights_of
from generators.protocols import ModelFacts
from generators.tensor_files import SUFFIX, stem_of
from pipelines.downstream.export import check_target, written
from schemas.atomic import delete_partials_of
from schemas.errors import CheckpointError, UsageError

#: `generators.unpickle.find_network.Candidate.where`, as families note it.
_ENTRY = re.compile(
    r"(?:'(?P<keys>[^']*)')?(?:, )?(?:names under '(?P<prefix>[^']*)', which is taken off)?"
)
_SHOWN = 6


@dataclass(frozen=True)
class Converted:
    """What was written.

    paths : the tensors and their description. assumed : settings that the file does not state, with
    what is to be told of each. left_out : what the file held beside this.
    """

    facts: ModelFacts
    paths: tuple[Path, Path]
    assumed: dict[str, str]
    left_out: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """What people are told."""
        height, width = self.facts.size
        size = sum(path.stat().st_size for path in self.paths)
        yield f"{self.facts.family}, {height} x {width}, fingerprint {self.facts.network_fp}"
        yield from (f"{name} {text}" for name, text in self.assumed.items())
        yield from (f"left out: {text}" for text in self.left_out)
        tensors, description = self.paths
        yield f"wrote {tensors} and {description.name} ({size / 1e6:.1f} MB)"


def convert(
    source: str, out: Path | None = None, family: str | None = None, overwrite: bool = False
) -> Converted:
    """Write the generator of `source` as ``<out>`` and the JSON of the same name.

    source : file, folder of one, "bundled:<name>" or "obtained:<name>". out : by default beside the
        file, under its name. family : the only one to ask. overwrite : replace files of that name.

    Raises UsageError where a target exists, or is part of the source, StoreError where it cannot
    be written, and the errors of `generators.read`.
    """
    path = generators.resolve(source)
    if family is not None:
        FAMILIES.load(family)
    out = _usual(path) if out is None else out
    if out.suffix != SUFFIX:
        raise UsageError(f"--out is {str(out)!r}: give a name that ends in {SUFFIX!r}")
    beside = out.with_suffix(".json")
    for own in generators.files(source):
        if own.resolve() in (out.resolve(), beside.resolve()):
            raise UsageError(
                f"{str(own)!r} is a part of what is converted, and would be replaced: give another "
                "name with --out"
            )
    _check_free(out, beside, overwrite)
    read = read_checkpoint(path, family=family)
    facts = facts_of(read)
    with written(out):
        delete_partials_of(out)
        delete_partials_of(beside)
        write_checkpoint(read, out)
    if read_checkpoint(out).fingerprint != read.fingerprint:
        raise CheckpointError(
            f"{str(out)!r} has another fingerprint than {str(path)!r}: the family {read.family!r} "
            "cannot be written in this format"
        )
    return Converted(facts, (out, beside), dict(facts.assumed), tuple(_left_out(path, read)))


def _usual(path: Path) -> Path:
    """The target beside a file or folder."""
    if path.is_dir():
        whole = path.resolve()  # "." has no name
        return whole.with_name(whole.name + SUFFIX)
    return path.with_name(stem_of(path) + SUFFIX)


def _check_free(out: Path, beside: Path, overwrite: bool) -> None:
    """Raise UsageError where one is there; a description alone is what a killed conversion left."""
    check_target(out, folder=False, overwrite=overwrite)
    left = not out.exists() and own_format(out)
    check_target(beside, folder=False, overwrite=overwrite or left)


def _left_out(path: Path, read: Checkpoint) -> Iterator[str]:
    """What the file holds beside the generator as we keep it, for people.

    Of a file of our own nothing: what it notes was left out of the file that it was made from.
    """
    if path.suffix == SUFFIX and own_format(path):
        return
    yield from read.metadata.get("left_out", ())
    entry = _ENTRY.fullmatch(str(read.metadata.get("entry", "")))
    if entry is None:
        return
    held = contents_of(weights_of(path) or path)
    for key in entry["keys"].split("/") if entry["keys"] else ():
        if isinstance(held, dict):
            yield from _listed("entries", [name for name in held if name != key])
            held = held.get(key)
    prefix = entry["prefix"]
    if prefix and isinstance(held, dict):
        yield from _listed("tensors", [n for n in held if not str(n).startswith(prefix)])


def _listed(what: str, names: Sequence[Any]) -> Iterator[str]:
    if names:
        shown = ", ".join(repr(str(name)[:40]) for name in names[:_SHOWN])
        yield f"{what} {shown} ({len(names)})"
