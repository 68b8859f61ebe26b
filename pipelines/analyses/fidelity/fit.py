"""FID, KID, precision and recall from the features that two sides hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.analyses.fidelity.names import called
from pipelines.analyses.fidelity.reference import Reference
from pipelines.analyses.fidelity.sweep import drawn_features
from pipelines.analyses.inputs import Data, Fitted
from schemas.errors import DataError
from schemas.sections.fidelity import FidelitySpec
from transforms.accumulate.moments import Moments
from transforms.accumulate.passes import OnePass
from transforms.accumulate.requests import MomentsOfRows
from transforms.accumulate.sources import SelectBlocks, StoreBlocks
from transforms.generator_metrics.frechet import frechet_distance
from transforms.generator_metrics.kernel import Subsets, kernel_distance
from transforms.generator_metrics.sets import PairsOfBlocks, SetsSolver

FEW = 10_000
"""FID falls by about 1/n; below so many rows the difference between two n shows."""


@dataclass(frozen=True)
class Side:
    """Features of one side: rows that could be measured. title : what they are of."""

    title: str
    source: StoreBlocks
    n_rows: int

    @property
    def all(self) -> SelectBlocks:
        """All rows, as ``x``."""
        return SelectBlocks(self.source, {"x": self.source.arrays[0]})

    def some(self, most: int, seed: int) -> tuple[SelectBlocks, int]:
        """Up to `most` random rows, numbered as ``at``, and how many they are."""
        rows = self.source.ok_rows()
        if len(rows) > most:
            rng = np.random.default_rng(np.random.SeedSequence([seed, 43]))
            rows = np.sort(rng.choice(rows, most, replace=False))
        at = np.full(self.n_rows, -1, np.int64)
        at[rows] = np.arange(len(rows))
        chosen = SelectBlocks(self.source, {"x": self.source.arrays[0]}, {"at": at}, at >= 0)
        return chosen, len(rows)


def fit_fidelity(data: Data, wanted: FidelitySpec) -> Fitted:
    """Makes no direction. Facts: ``metrics`` by name, each with the rows of both sides that it is
    of, and ``sweep``, the same at every truncation.

    Raises DataError for fewer than 2 rows of a side, or as many as there are neighbours.
    """
    real, drawn = _sides(data, wanted)
    out = Fitted()
    network = data.parameter("network")
    names = called(network)
    moments = [_moments(data, side) for side in (real, drawn)]
    chosen = [side.some(wanted.samples, wanted.seed) for side in (real, drawn)]
    n = (chosen[0][1], chosen[1][1])
    pairs = PairsOfBlocks((chosen[0][0], chosen[1][0]))
    size = out.limit("fidelity.kid_subset_size", wanted.kid_subset_size, min(n), "rows of a side")
    subsets = Subsets(wanted.kid_subsets, size, wanted.seed)
    found = data.engine.run(SetsSolver(n, wanted.neighbours, subsets), pairs)
    kid = kernel_distance(found.sums or {}, n, subsets)
    out.facts |= {
        "network": network,
        "annotator": data.parameter("annotator"),
        "features": len(moments[0].mean),
        "real": real.title,
        "drawn": drawn.title,
        "n": [moments[0].count, moments[1].count],
        "n_compared": list(n),
        "neighbours": wanted.neighbours,
        "kid_subsets": [wanted.kid_subsets, size],
        "metrics": {
            names["FID"]: frechet_distance(*moments),
            names["KID"]: kid.mean,
            names["precision"]: found.precision,
            names["recall"]: found.recall,
        },
        "kid_sd": kid.sd,
        "kid_of_all": kid.whole,
        "few": min(m.count for m in moments) < FEW,
        "singular": min(m.count for m in moments) <= len(moments[0].mean),
    }
    out.facts["sweep"] = _sweep(data, wanted, names, moments[0], chosen[0])
    return out


def _sides(data: Data, wanted: FidelitySpec) -> tuple[Side, Side]:
    """(real, drawn)."""
    measured = {m.render: m for m in data.selection.measured}
    drawn = Side("drawn from the codes", *_read(data, measured[True]))
    if data.parameter("reference") is None:
        return Side("the originals", *_read(data, measured[False])), drawn
    found = Reference.find(str(wanted.reference), measured[True].annotator)
    if found.inputs() != data.parameter("reference"):
        raise DataError(
            f"run {found.run!r}, the reference, changed while this one was computed: run again"
        )
    source = StoreBlocks(found.store, (found.array,), (found.stage,))
    what = "the originals" if "@" not in found.stage else "drawn from the codes"
    return Side(f"{what} of run {found.run!r}", source, source.n_rows), drawn


def _read(data: Data, measured: Any) -> tuple[StoreBlocks, int]:
    source = data.read({}, {"x": measured}).source
    if not isinstance(source, StoreBlocks):
        raise TypeError(f"features are stored, and were read from a {type(source).__name__}")
    return source, data.n_rows


def _moments(data: Data, side: Side) -> Moments:
    moments: Moments = data.engine.sum(side.all, MomentsOfRows())
    try:
        moments.check(2)
    except DataError as e:
        raise DataError(f"features of {side.title}: {e}") from e
    return moments


def _sweep(
    data: Data,
    wanted: FidelitySpec,
    names: dict[str, str],
    real: Moments,
    chosen: tuple[SelectBlocks, int],
) -> list[dict[str, Any]]:
    """What is drawn at each truncation against the real rows."""
    found = []
    for psi in wanted.truncations:
        source = drawn_features(data, psi, wanted.truncation_samples, wanted.seed)
        moments = data.engine.run(OnePass(MomentsOfRows()), source).total
        n = (chosen[1], wanted.truncation_samples)
        solver = SetsSolver(n, wanted.neighbours)
        compared = data.engine.run(solver, PairsOfBlocks((chosen[0], source)))
        metrics = {
            names["FID"]: frechet_distance(real, moments),
            names["precision"]: compared.precision,
            names["recall"]: compared.recall,
        }
        found.append({"truncation": psi, "n": wanted.truncation_samples, **metrics})
    return found
