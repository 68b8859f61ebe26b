"""The architectures that there are, and which of them the tensors of a file are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from generators.families.plain.architectures import dcgan, lapgan, msg_gan, vae
from generators.families.plain.architectures.base import Architecture, Found, Shapes
from generators.unpickle.interpreter import Inert
from schemas.errors import CheckpointError

ARCHITECTURES: Mapping[str, Architecture] = {
    module.PLUGIN.name: module.PLUGIN for module in (dcgan, lapgan, msg_gan, vae)
}
MAX_DEPTH = 4


@dataclass(frozen=True)
class Candidate:
    """One network of a file. where : keys that lead to its tensors, "" for the file itself."""

    architecture: Architecture
    where: str
    state: Mapping[str, Any]
    found: Found


def networks_in(contents: Any, only: str | None = None) -> list[Candidate]:
    """Every network of a known architecture in a file's contents. only : the one to look for."""
    candidates = []
    for where, state in states_in(contents):
        shapes = shapes_of(state)
        for name, architecture in ARCHITECTURES.items():
            if only in (None, name) and (found := architecture.find(shapes)) is not None:
                candidates.append(Candidate(architecture, where, state, found))
    return candidates


def states_in(contents: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Mappings of names to tensors, at any depth of a file's dicts, with the keys that lead
    there. Beside the state dicts of a training may lie tensors, such as noise for its samples."""
    if isinstance(contents, Inert):  # a subclass of dict, and nothing else that is looked into
        contents = contents.mapping
    if not isinstance(contents, Mapping) or depth > MAX_DEPTH:
        return
    if shapes_of(contents):
        yield where, contents
    for key, value in contents.items():
        if isinstance(key, str):
            yield from states_in(value, f"{where}.{key}" if where else key, depth + 1)


def shapes_of(state: Mapping[Any, Any]) -> Shapes:
    """Name -> shape of those entries that are tensors."""
    found = {}
    for name, value in state.items():
        shape = getattr(value, "size", None)
        shape = shape if isinstance(shape, tuple) else getattr(value, "shape", None)
        if isinstance(name, str) and isinstance(shape, tuple):
            found[name] = tuple(int(n) for n in shape)
    return found


def the_one(candidates: list[Candidate]) -> Candidate | None:
    """The only candidate; None where there is none. Raises CheckpointError for several."""
    if len(candidates) > 1:
        held = [f"{c.where or 'the file'} ({c.architecture.name})" for c in candidates]
        raise CheckpointError(
            f"holds several networks, {held!r}: name one as 'entry', or its kind as "
            "'architecture', in a JSON of the same name beside it"
        )
    return candidates[0] if candidates else None
