"""Principal components on Beam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from schemas.errors import UsageError
from transforms.accumulate.blocks import BlockSource
from transforms.accumulate.passes import Statistics
from transforms.accumulate.pinned import DEFAULT_CACHE_BYTES
from transforms.accumulate.requests import MomentsOfRows
from transforms.beam.combine import SumBlocks
from transforms.beam.passes import RunPasses
from transforms.pca.fit import PCA, GramSolver, RandomisedSolver, solve_pca


def check_one_number(n_components: int | None, solver: object | None) -> None:
    """Raise UsageError where both a solver, which has its own, and n_components are given."""
    if solver is not None and n_components is not None:
        raise UsageError(
            f"n_components {n_components!r} and a solver were given: the solver has its own "
            "n_components, leave the other out"
        )


@dataclass(eq=False)
class FitPCA(beam.PTransform):  # type: ignore[misc]
    """Principal components of array x: PCollection[(start, stop)] -> PCollection[PCA].

    solver : by default the second moment; a `RandomisedSolver`, or a `GramSolver` whose source is
        `RowSlabs`, within `n_passes` passes (`PCA.converged` tells whether these were enough)
    """

    source: BlockSource
    n_components: int | None = None
    cache_bytes: int = DEFAULT_CACHE_BYTES
    solver: GramSolver | RandomisedSolver | None = None
    n_passes: int = 20

    def __post_init__(self) -> None:
        super().__init__()
        if self.n_components is not None and self.n_components < 1:
            raise UsageError(f"n_components is {self.n_components!r}: give at least 1")
        check_one_number(self.n_components, self.solver)

    def expand(self, ranges: Any) -> Any:
        """One pass over the moments, or the solver's passes; then the components."""
        if self.solver is not None:
            passes = RunPasses(self.source, self.solver, self.n_passes, self.cache_bytes)
            return ranges | "Passes" >> passes | "Result" >> beam.Map(lambda s: s.result())
        total = ranges | "Moments" >> SumBlocks(self.source, MomentsOfRows(), 0)
        return total | "Solve" >> beam.Map(solve_pca, self.n_components)


def run_pca(
    engine: Statistics,
    source: BlockSource,
    n_components: int | None = None,
    solver: GramSolver | RandomisedSolver | None = None,
) -> PCA:
    """Principal components of array x, by default from its second moment.

    solver : a `RandomisedSolver`, or a `GramSolver` whose source is `RowSlabs`; it has its own
        n_components, so that giving both raises UsageError
    """
    check_one_number(n_components, solver)
    if solver is not None:
        return engine.run(solver, source).result()
    return solve_pca(engine.sum(source, MomentsOfRows()), n_components)
