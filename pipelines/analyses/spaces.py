"""The latent spaces that analyses of a run can read: those stored, and those derived from them.

A space is derived where the generator converts stored codes to it (z -> w -> w_plus -> s). What a
layer puts out while codes are drawn (activations, `Space.injected_into`) is derived likewise, by a
conversion whose last step draws. Nothing of such a space is stored: codes are converted where they
are read, by `DerivedBlocks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

import generators
from pipelines.engine.batches import MANY, ROWS, in_batches
from pipelines.engine.loaded_once import LoadedOnce
from pipelines.folder.store_identity import labels_of
from schemas.fingerprint import digest
from schemas.store.latent_store import LatentStore
from transforms.inversion.stored import own_numbers, stored_code

if TYPE_CHECKING:
    from generators.protocols import Code, Generator, ModelFacts
    from pipelines.analyses.base import Known

CONVERT_VERSION = 1
"""Raised whenever a conversion gives another code for the same one."""
BATCH_BYTES = 64 * 2**20
"""Of large codes fewer are made at a time: as many as take up to this."""

Shape = tuple[int, ...]


def ways(facts: ModelFacts, stored: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Derived space -> the spaces that lead to it: a stored one first, itself last."""
    found = {}
    for name in facts.spaces:
        way = [name]
        while way[0] not in stored and len(way) <= len(facts.spaces):
            space = facts.spaces.get(way[0])
            base = None if space is None else space.derived_from or space.injected_into
            if base is None:
                break
            way.insert(0, base)
        if len(way) > 1 and way[0] in stored:
            found[name] = tuple(way)
    return found


class Spaces(Mapping[str, Shape]):
    """Space -> shape of a row's code, of stored spaces and then of derived ones.

    stored : what the store holds, or will hold
    facts : gives what the generator is, None where it is not the one that the codes are of; only
        asked for a space that is not stored, for that may mean reading its file
    """

    def __init__(
        self, stored: Mapping[str, Shape], facts: Callable[[], ModelFacts | None] = lambda: None
    ) -> None:
        self.stored = dict(stored)
        self._facts = facts

    @cached_property
    def facts(self) -> ModelFacts | None:
        """What the generator is."""
        return self._facts()

    @cached_property
    def derived(self) -> Mapping[str, tuple[str, ...]]:
        """Derived space -> the way to it, see `ways`."""
        return {} if self.facts is None else ways(self.facts, self.stored)

    def __getitem__(self, name: str) -> Shape:
        if name in self.stored:
            return self.stored[name]
        if self.facts is None or name not in self.derived:
            raise KeyError(name)
        return self.facts.spaces[name].shape

    def __iter__(self) -> Iterator[str]:
        return iter([*self.stored, *self.derived])

    def __len__(self) -> int:
        return len(self.stored) + len(self.derived)

    def layered(self, name: str) -> bool:
        """Whether the first axis of this space's codes counts layers."""
        if len(self[name]) < 2 or self.facts is None or name not in self.facts.spaces:
            return len(self[name]) == 2
        return self.facts.spaces[name].layered

    def recorded(self, name: str) -> bool:
        """Whether codes of this space are what a layer puts out while stored ones are drawn."""
        derived = name not in self.stored and self.facts is not None
        return derived and self.facts.spaces[name].injected_into is not None  # type: ignore[union-attr]

    def needs_labels(self, name: str) -> bool:
        """Whether codes are converted to this space with a class label."""
        if name in self.stored or self.facts is None:
            return False
        steps = [self.facts.spaces[step] for step in self.derived[name][:-1]]
        return self.facts.classes > 0 and any(step.conditional for step in steps)


@dataclass(frozen=True, eq=False)
class Conversion:
    """Codes of one space from stored ones of another, by the generator that they are of.

    generator : where it is read from.  fingerprint : the one that it must have
    way : the spaces on the way, the stored one first
    labels : int64 (n_rows of the store,), class numbers where the way needs them
    noise : of what is recorded while drawing, as of `Generator.draw`; None where nothing is drawn
    store : path of the store, where codes are read with what belongs to them beside their main
        array
    """

    generator: generators.Source
    fingerprint: str
    way: tuple[str, ...]
    labels: np.ndarray | None = None
    noise: str | None = None
    store: str | None = None

    def inputs(self) -> dict[str, Any]:
        """What the codes depend on beside the stored ones. Labels, and what belongs to the codes,
        are known to their blocks."""
        drawn = {} if self.noise is None else {"noise": self.noise, "precision": "float32"}
        way, version = list(self.way), CONVERT_VERSION
        return {"way": way, "version": version, "generator": self.fingerprint, **drawn}

    @property
    def key(self) -> str:
        """Identity of the conversion."""
        return digest(self.inputs())

    def __call__(self, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Codes (m, *shape) of rows (m,) of the store -> float32 (m, *shape of the space)."""
        shape = generator_of(self.generator, self.fingerprint).facts.space(self.way[-1]).shape
        found = np.empty((len(codes), *shape), np.float32)
        for part, made in self._made(codes, rows, self.store):
            found[part] = made.main.float().cpu().numpy()
        return found

    def code_of(self, store: LatentStore, codes: np.ndarray, rows: np.ndarray) -> Code:
        """The codes with all that belongs to them in their space, to be drawn; on the CPU.

        codes, rows : at least one, of the store.
        """
        import torch

        from generators.protocols import Code

        made = [code.to("cpu") for _, code in self._made(codes, rows, store.path)]
        main = torch.cat([code.main.float() for code in made])
        names = made[0].companions
        beside = {name: torch.cat([code.companions[name] for code in made]) for name in names}
        return Code(self.way[-1], main, beside)

    def _made(
        self, codes: np.ndarray, rows: np.ndarray, store: str | None
    ) -> Iterator[tuple[slice, Code]]:
        """Some rows at a time. store : see the field."""
        import torch

        from generators.protocols import Code

        model, target = generator_of(self.generator, self.fingerprint), self.way[-1]
        fit = rows_within(BATCH_BYTES, model.facts.space(target).shape)
        drawn = dict[str, Any]() if self.noise is None else {"noise": self.noise}

        def convert(at: np.ndarray) -> Code:
            labels = None if self.labels is None else self.labels[rows[at]]
            given = torch.from_numpy(np.ascontiguousarray(codes[at], np.float32))
            code = Code(self.way[0], given)
            if store is not None:
                space = model.facts.space(self.way[0])
                code = stored_code(LatentStore.open(store), space, rows[at]).moved(given)
            with torch.no_grad():
                return model.convert(code, target, labels=labels, **drawn)

        own = 0 if store is None else own_numbers(LatentStore.open(store), self.way[0])
        if own:
            fit = min(fit, rows_within(BATCH_BYTES, (own,)))
        at_once = min(ROWS, fit) if drawn or own else ROWS
        many = at_once if drawn else max(at_once, min(MANY, fit))
        return in_batches(len(codes), convert, self.key, at_once, many)


def rows_within(size: int, shape: Shape) -> int:
    """Rows of float32 (*shape) that take up to `size` bytes: a power of two, at least 1."""
    return 1 << max(size // (4 * math.prod(shape)), 1).bit_length() - 1


def conversions(known: Known, store: LatentStore, wanted: Collection[str]) -> dict[str, Conversion]:
    """How the wanted spaces that a store does not hold are made: space -> conversion."""
    spaces, spec = known.spaces, known.spec
    if not isinstance(spaces, Spaces) or spaces.stored.keys() >= set(wanted):
        return {}
    facts = spaces.facts
    if facts is None:
        return {}
    found = {}
    for name in wanted:
        if name in spaces.stored:
            continue
        needed, way = spaces.needs_labels(name), spaces.derived[name]
        labels = labels_of(spec.dataset, known.index, facts) if needed else None
        noise = spec.invert.noise_mode if spaces.recorded(name) else None
        required = facts.spaces[way[0]].required or own_numbers(store, way[0])
        beside = store.path if noise is not None or required else None
        found[name] = Conversion(spec.generator, facts.fingerprint, way, labels, noise, beside)
    return found


_GENERATORS: LoadedOnce[Generator] = LoadedOnce(lambda model: model.facts.fingerprint)


def generator_of(source: generators.Source, fingerprint: str) -> Generator:
    """The generator, loaded once a process. Raises UsageError where its file is another one now."""

    def changed(found: str) -> str:
        return (
            f"generator {source!r} has fingerprint {found!r}, the codes are of {fingerprint!r}: "
            "the file changed during the run; start again"
        )

    return _GENERATORS.get(fingerprint, lambda: generators.load(source), changed)


_FACTS: dict[str, ModelFacts] = {}


def facts_of(source: generators.Source, fingerprint: str) -> ModelFacts | None:
    """What the generator of that fingerprint is; None where the source is another one now."""
    if fingerprint not in _FACTS:
        found = generators.facts(source)
        if found.fingerprint != fingerprint:
            return None
        _FACTS[fingerprint] = found
    return _FACTS[fingerprint]
