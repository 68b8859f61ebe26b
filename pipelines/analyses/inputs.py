"""What the analyses read: codes, measurements and factors of a store, and where sums are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipelines.analyses.labels import LabelledBlocks, Labels, Targets
from pipelines.analyses.measured import Measured, measurements
from schemas.directions.direction import Direction, unit_direction
from schemas.fingerprint import with_nulls
from schemas.index import DatasetIndex
from schemas.names import safe_name, safe_names
from schemas.spec import RunSpec
from schemas.store.latent_store import LatentStore
from transforms.accumulate.blocks import BlockSource
from transforms.accumulate.passes import PassRequest, S, Seen
from transforms.accumulate.requests import MomentsAlong, MomentsOfRows
from transforms.accumulate.sources import SelectBlocks, StoreBlocks

MOMENT_FEATURES = 2048
"""Codes of up to this many coordinates are summed as their whole second moment."""


class Statistics(Protocol):
    """Where an analysis gets its statistics: summed by an engine, or kept from another time."""

    def sum(self, source: BlockSource, request: PassRequest) -> Any:
        """Sum of the blocks' statistics, in the fixed order of `transforms.accumulate.blocks`."""

    def run(self, solver: S, source: BlockSource) -> S:
        """Drive a solver until it is done."""


class Engine(Statistics, Protocol):
    """Where statistics are summed: in this process, or in Beam."""

    def run(self, solver: S, source: BlockSource, *, seen: Seen | None = None) -> S:
        """Drive a solver until it is done. seen : called with each pass's request and sum."""


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


@dataclass(eq=False)
class Inputs:
    """What every analysis reads.

    held_out : bool (n_rows,), rows kept back for measuring accuracy, or None
    """

    store: LatentStore
    index: DatasetIndex
    spec: RunSpec
    engine: Statistics
    space: str
    code_shape: tuple[int, ...]
    held_out: np.ndarray | None = None

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
        arrays = {"x": f"latents/{self.space}"}
        stages = ["invert"]
        if measured is not None:
            arrays["scores"] = measured.array
            stages.append(measured.stage)
        source = StoreBlocks(self.store.path, tuple(arrays.values()), tuple(stages))
        return LabelledBlocks(SelectBlocks(source, arrays, columns or {}, where), labels)

    def codes(self, layers: tuple[int, int] | None = None) -> SelectBlocks:
        """Codes of the rows that are OK; layers : only these, as (start, stop)."""
        array = f"latents/{self.space}"
        return SelectBlocks(
            StoreBlocks(self.store.path, (array,), ("invert",), layers), {"x": array}
        )

    def slabs(self, columns: Mapping[str, np.ndarray]) -> list[SelectBlocks]:
        """One source a layer of the codes (or one in all), with columns of all rows joined."""
        array = f"latents/{self.space}"
        layers = range(self.code_shape[0]) if len(self.code_shape) > 1 else (None,)
        sources = [
            StoreBlocks(
                self.store.path, (array,), ("invert",), layers=None if i is None else (i, i + 1)
            )
            for i in layers
        ]
        return [SelectBlocks(source, {"x": array}, columns) for source in sources]

    def left_out(self) -> dict[str, int]:
        """Rows of the store that analyses do not see, by cause."""
        return StoreBlocks(self.store.path, (f"latents/{self.space}",), ("invert",)).left_out()

    def measurements(self, kind: str, labels: str = "render") -> list[Measured]:
        """Measurements of one kind, of the render where there is one (or of the image)."""
        return measurements(self.store, self.spec.annotate, kind, labels)

    def direction(
        self, name: str, vector: np.ndarray, method: str, target: str | None, **facts: Any
    ) -> Direction:
        """A direction of this space; unless given, its sd is measured later, over all rows.

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


def measure_sd(inputs: Inputs, directions: Sequence[Direction]) -> np.ndarray:
    """Standard deviation of the rows' projections on each direction, float64 (k,).

    From the codes' second moment where that is small: it serves every direction to come.
    """
    vectors = np.stack([d.vector.ravel() for d in directions])
    if vectors.shape[1] <= MOMENT_FEATURES:
        moments = inputs.engine.sum(inputs.codes(), MomentsOfRows())
        along = np.einsum("ad,ad->a", vectors @ moments.second, vectors)
        return np.sqrt(np.maximum(along, 0.0) / max(moments.count - 1, 1))
    total = inputs.engine.sum(inputs.codes(), MomentsAlong(vectors))
    return np.sqrt(total.second.ravel() / max(total.count - 1, 1))


def categorical(index: DatasetIndex, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Codes (n_rows,) of categorical factors."""
    return {name: index.categorical(name)[0] for name in names}


def target_of(level: str, factor: str, measured: set[str]) -> str | None:
    """The measured attribute that a factor's level should move, if any."""
    if level in measured:
        return level
    return factor if factor in measured and level.lower() in ("yes", "true", "1") else None


def hold_out(index: DatasetIndex, factor: str | None, fraction: float, seed: int) -> np.ndarray:
    """Bool (n_rows,): rows kept back, whole levels of `factor` where the index has it."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 17]))
    if factor is not None and factor in index.factors:
        codes = index.categorical(factor)[0]
        levels = np.unique(codes[codes >= 0])
        n = round(fraction * len(levels))
        return np.isin(codes, rng.permutation(levels)[:n])
    return rng.permutation(index.n_rows) < round(fraction * index.n_rows)
