"""What the analyses read: codes, measurements and factors of a store, and where sums are made."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import generators
from generators.annotators.card import AnnotatorCard, read_card
from generators.protocols import Code
from pipelines.analyses.base import Analysis, Known, Selection
from pipelines.analyses.checks import Columns
from pipelines.analyses.labels import LabelledBlocks, Labels, Targets
from pipelines.analyses.measured import Measured
from pipelines.analyses.spaces import Conversion, conversions, rows_within
from pipelines.folder.store_identity import INVERT, labels_of
from schemas.directions.direction import Direction, unit_direction
from schemas.errors import PluginError
from schemas.fingerprint import with_nulls
from schemas.index import DatasetIndex, FactorInfo
from schemas.names import safe_name, safe_names
from schemas.sections.base import AnalysisSection
from schemas.spec import RunSpec
from schemas.store.latent_store import LatentStore
from transforms.accumulate.derived import DerivedBlocks, LayersOf, PartsOfBlocks
from transforms.accumulate.passes import Statistics
from transforms.accumulate.requests import MomentsAlong, MomentsOfRows
from transforms.accumulate.sources import SelectBlocks, StoreBlocks, codes_of, ok_rows
from transforms.inversion.stored import stored_code

MOMENT_FEATURES = 2048
"""Codes of up to this many coordinates are summed as their whole second moment."""
PART_BYTES = 256 * 2**20
"""Activations of a block that would be larger are recorded in parts of up to this size."""


@dataclass(eq=False)
class Fitted:
    """What one analysis made: directions, model arrays and JSON facts, seconds are the caller's."""

    directions: list[Direction] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def names_for(self, texts: Sequence[str]) -> list[str]:
        """Names for directions to come, of any text: all different, and none that is taken."""
        return safe_names(texts, {d.name for d in self.directions})

    def limit(self, key: str, asked: int, most: int, why: str) -> int:
        """`asked`, or `most` where that is less, which the fact ``limited`` then tells."""
        if asked > most:
            told = f"{key}: {asked} asked for, {most} used, {why}"
            self.facts["limited"] = [*self.facts.get("limited", ()), told]
        return min(asked, most)

    def keep(self, text: str, array: np.ndarray) -> None:
        """An array of the model under a name for any text."""
        self.arrays[safe_name(text, self.arrays)] = array


@dataclass(frozen=True, eq=False)
class Data:
    """All that one analysis can reach: what it selected of a run's store and index.

    Whatever it did not select raises PluginError: it would not be among the inputs that its
    fingerprint is of, so that a change of it would go unnoticed.

    space : that its section names;  spaces : selected space -> shape of a row's code
    derived : of selected spaces that are not stored, how their codes are made
    layered : selected spaces, of those with two axes or more, whose first axis counts layers
    """

    analysis: str
    selection: Selection
    space: str
    spaces: Mapping[str, tuple[int, ...]]
    engine: Statistics
    _store: LatentStore
    _index: DatasetIndex
    _spec: RunSpec | None = None
    derived: Mapping[str, Conversion] = field(default_factory=dict)
    layered: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        analysis: Analysis[Any],
        own: AnalysisSection,
        known: Known,
        store: LatentStore,
        engine: Statistics,
    ) -> Data:
        """What an analysis with that section reads of a store."""
        selection, space = analysis.select(known, own), known.space(own)
        spaces = {name: known.spaces[name] for name in dict.fromkeys((space, *selection.spaces))}
        return cls(
            analysis.name,
            selection,
            space,
            spaces,
            engine,
            store,
            known.index,
            known.spec,
            conversions(known, store, spaces),
            frozenset(name for name in spaces if known.layered(name)),
        )

    def _selected(self, what: str, name: str, among: Collection[str]) -> None:
        if name not in among:
            raise PluginError(
                f"analysis {self.analysis!r} reads {what} {name!r}, which it did not select, so "
                f"that a change of it would go unnoticed (it selected {sorted(among)!r}): name it "
                "in what 'select' returns"
            )

    # ---- columns of the index, and parameters of other sections

    @property
    def n_rows(self) -> int:
        """Rows of the store and the index, with those that are removed."""
        return self._index.n_rows

    @property
    def active(self) -> np.ndarray:
        """bool (n_rows,): rows that are not removed."""
        return self._index.active

    @property
    def factors(self) -> dict[str, FactorInfo]:
        """The selected factors that there are, in the order of the index."""
        every = self._index.factors.items()
        return {name: info for name, info in every if name in self.selection.factors}

    def categorical(self, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Codes (n_rows,) of a categorical factor, -1 where missing, and its categories."""
        self._selected("factor", name, self.selection.factors)
        return self._index.categorical(name)

    def continuous(self, name: str) -> np.ndarray:
        """Values float64 (n_rows,) of a continuous factor, NaN where missing."""
        self._selected("factor", name, self.selection.factors)
        return self._index.continuous(name)

    def parameter(self, name: str) -> Any:
        """What was taken from other sections of the specification."""
        self._selected("parameter", name, self.selection.parameters)
        return self.selection.parameters[name]

    def measurements(self, kind: str) -> list[Measured]:
        """The selected measurements of one kind."""
        return [m for m in self.selection.measured if m.kind == kind]

    def generator(self) -> Any:
        """The run's generator: codes of a store are of one, whose fingerprint is the store's."""
        return generators.load(self.generator_source)

    @property
    def generator_source(self) -> generators.Source:
        """Where the run's generator is read from, for workers that load it themselves."""
        return self._whole_spec.generator

    @property
    def generator_fp(self) -> str:
        """Fingerprint of the generator that the codes are of."""
        return str(self._store.attrs["generator_fp"])

    def annotator(self, name: str) -> AnnotatorCard:
        """Description of an annotator whose measurements are selected, fingerprint included."""
        self._selected("annotator", name, [m.annotator for m in self.selection.measured])
        return read_card(next(a.model for a in self._whole_spec.annotate if a.name == name))

    @property
    def _whole_spec(self) -> RunSpec:
        if self._spec is None:
            raise PluginError(f"analysis {self.analysis!r} needs a generator, and there is none")
        return self._spec

    def labels(self, rows: np.ndarray) -> np.ndarray | None:
        """Class numbers int64 of some rows, None without; the codes' blocks depend on them, so that
        they are read with the codes."""
        if self._spec is None:
            return None
        facts = generators.facts(self._spec.generator)
        found = labels_of(self._spec.dataset, self._index, facts)
        return None if found is None else found[rows]

    @property
    def noise_mode(self) -> str:
        """How the generator's noise was set at inversion; the store's identity holds it."""
        return "const" if self._spec is None else self._spec.invert.noise_mode

    # ---- rows of the store

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of a row's code in the section's space."""
        return self.spaces[self.space]

    @property
    def n_layers(self) -> int:
        """Layers of a code in the section's space, 0 where it has none."""
        return self.code_shape[0] if self.space in self.layered else 0

    @property
    def width(self) -> int:
        """Coordinates of a layer of a code, or of all of a code without layers."""
        return math.prod(self.code_shape[1:] if self.n_layers else self.code_shape)

    def read(
        self,
        spaces: Mapping[str, str],
        measured: Mapping[str, Measured] | None = None,
        layers: tuple[int, int] | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
        where: np.ndarray | None = None,
        landmarks: Sequence[str] = (),
    ) -> SelectBlocks:
        """Rows that are OK in all that is read, as a source of blocks.

        spaces : name -> space of codes;  measured : name -> measurement
        layers : of the codes only these, as (start, stop)
        columns : name -> array of all rows of the store. where : bool (n_rows,), rows to use
        landmarks : names of measurements to give as (m, 2, L), y up
        """
        arrays, stages = {}, {INVERT: None}
        for name, space in spaces.items():
            self._selected("codes of space", space, self.spaces)
            arrays[name] = f"latents/{space}"
        for name, m in (measured or {}).items():
            self._selected("measurement", m.array, [m.array for m in self.selection.measured])
            arrays[name] = m.array
            stages[m.stage] = None
        source = self._source(tuple(arrays.values()), tuple(stages), layers)
        return SelectBlocks(source, arrays, columns or {}, where, tuple(landmarks))

    def _source(
        self, arrays: tuple[str, ...], stages: tuple[str, ...], layers: tuple[int, int] | None
    ) -> StoreBlocks | PartsOfBlocks | DerivedBlocks | LayersOf:
        """The arrays as the store holds them, those of derived spaces made of what it holds."""
        made = {f"latents/{s}": c for s, c in self.derived.items() if f"latents/{s}" in arrays}
        cut = tuple(a for a in arrays if a.removeprefix("latents/") in self.layered)
        of_store = all(len(self.spaces[a.removeprefix("latents/")]) == 2 for a in cut)
        if not made and (layers is None or of_store):
            return StoreBlocks(self._store.path, arrays, stages, layers)
        stored = [a for a in arrays if a not in made]
        bases = [f"latents/{conversion.way[0]}" for conversion in made.values()]
        held = tuple(dict.fromkeys([*stored, *bases]))
        source: StoreBlocks | PartsOfBlocks | DerivedBlocks
        drawn = [self.spaces[c.way[-1]] for c in made.values() if c.noise is not None]
        rows = min((rows_within(PART_BYTES, shape) for shape in drawn), default=None)

        def in_parts(source: StoreBlocks) -> StoreBlocks | PartsOfBlocks:
            if rows is None or rows >= self._store.block_rows:
                return source
            return PartsOfBlocks(source, rows, -(-self._store.block_rows // rows))

        unread = tuple(base for base in dict.fromkeys(bases) if base not in stored)
        source = in_parts(StoreBlocks(self._store.path, held, stages, unread=unread))
        for array, conversion in made.items():
            base = f"latents/{conversion.way[0]}"
            whole = in_parts(StoreBlocks(self._store.path, (base,), (INVERT,)))
            source = DerivedBlocks(source, base, array, conversion, whole)
        if layers is None:
            return source
        return LayersOf(source, cut, layers)

    def codes(
        self, layers: tuple[int, int] | None = None, space: str | None = None
    ) -> SelectBlocks:
        """Codes x of the rows that are OK; layers : only these, as (start, stop)."""
        return self.read({"x": space or self.space}, layers=layers)

    def blocks(
        self,
        measured: Measured | None = None,
        labels: Labels | Targets | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
        where: np.ndarray | None = None,
    ) -> LabelledBlocks:
        """Codes of the rows that are OK, beside a measurement turned into labels, and columns.

        columns : name -> array of all rows of the store. where : bool (n_rows,), rows to use.
        """
        scores = {} if measured is None else {"scores": measured}
        source = self.read({"x": self.space}, scores, columns=columns, where=where)
        return LabelledBlocks(source, labels)

    def slabs(self, columns: Mapping[str, np.ndarray]) -> list[SelectBlocks]:
        """One source a layer of the codes (or one in all), with columns of all rows joined."""
        if not self.n_layers:
            return [self.read({"x": self.space}, columns=columns)]
        return [
            self.read({"x": self.space}, layers=(i, i + 1), columns=columns)
            for i in range(self.n_layers)
        ]

    def ok_rows(self) -> np.ndarray:
        """Row numbers that have a code, int64, ascending."""
        return ok_rows(self._store)

    def codes_of(self, rows: np.ndarray) -> np.ndarray:
        """Codes float32 (m, *code_shape) of the given rows, in their order."""
        conversion = self.derived.get(self.space)
        if conversion is None:
            return codes_of(self._store, self.space, rows)
        return conversion(codes_of(self._store, conversion.way[0], rows), np.asarray(rows))

    def code_of(self, rows: np.ndarray) -> Code:
        """`codes_of` with all that belongs to them, to be drawn."""
        conversion = self.derived.get(self.space)
        if conversion is not None:
            codes = codes_of(self._store, conversion.way[0], rows)
            return conversion.code_of(self._store, codes, np.asarray(rows))
        if self._spec is None:
            raise PluginError(f"analysis {self.analysis!r} needs a generator, and there is none")
        facts = generators.facts(self._spec.generator)
        return stored_code(self._store, facts.space(self.space), np.asarray(rows))

    def left_out(self) -> dict[str, int]:
        """Rows of the store that analyses do not see, by cause."""
        codes = tuple(name for name in self._store.arrays(INVERT) if name.startswith("latents/"))
        return StoreBlocks(self._store.path, codes, (INVERT,)).left_out()

    # ---- what is made

    def direction(
        self, name: str, vector: np.ndarray, method: str, target: str | None, **facts: Any
    ) -> Direction:
        """A direction of the section's space; unless given, its sd is measured later, over all
        rows.

        What its quality does not tell (is not finite) is None.
        """
        facts["quality"] = with_nulls(facts.get("quality", {}))
        provenance = {"target": target, **facts.pop("provenance", {})}
        facts.setdefault("sd", 0.0)
        return unit_direction(
            name,
            self.space,
            vector.reshape(self.code_shape),
            method=method,
            provenance=provenance,
            **facts,
        )


def measure_sd(data: Data, directions: Sequence[Direction]) -> list[float]:
    """Standard deviation of the rows' projections on each direction, of its space's codes."""
    found = np.zeros(len(directions))
    for space in dict.fromkeys(d.space for d in directions):
        of = [i for i, d in enumerate(directions) if d.space == space]
        vectors = np.stack([directions[i].vector.ravel() for i in of])
        found[of] = _sd_along(data, space, vectors)
    return found.tolist()


def _sd_along(data: Data, space: str, vectors: np.ndarray) -> np.ndarray:
    """float64 (k,), of vectors (k, D).

    From the codes' second moment where that is small: it serves every direction to come.
    """
    if vectors.shape[1] <= MOMENT_FEATURES:
        moments = data.engine.sum(data.codes(space=space), MomentsOfRows())
        along = np.einsum("ad,ad->a", vectors @ moments.second, vectors)
        return np.sqrt(np.maximum(along, 0.0) / max(moments.count - 1, 1))
    total = data.engine.sum(data.codes(space=space), MomentsAlong(vectors))
    return np.sqrt(total.second.ravel() / max(total.count - 1, 1))


def categorical(columns: Columns, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Codes (n_rows,) of categorical factors."""
    return {name: columns.categorical(name)[0] for name in names}


def target_of(level: str, factor: str, measured: set[str]) -> str | None:
    """The measured attribute that a factor's level should move, if any."""
    if level in measured:
        return level
    return factor if factor in measured and level.lower() in ("yes", "true", "1") else None


def hold_out(index: Columns, factor: str | None, fraction: float, seed: int) -> np.ndarray:
    """Bool (n_rows,): held-out rows, whole levels of `factor` where the index has it."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 17]))
    if factor is not None and factor in index.factors:
        codes = index.categorical(factor)[0]
        levels = np.unique(codes[codes >= 0])
        n = round(fraction * len(levels))
        return np.isin(codes, rng.permutation(levels)[:n])
    return rng.permutation(index.n_rows) < round(fraction * index.n_rows)
