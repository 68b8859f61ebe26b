"""Beam: the analyses as PTransforms over block ranges, each a statistic and a solve.

Input elements are the ranges of `CreateBlocks`; the output is one result. Solvers of several
passes are unrolled for a number of passes; `transforms.beam.engine` runs as many as they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from schemas.errors import UsageError
from transforms.accumulate.blocks import BlockSource
from transforms.accumulate.cells import CellGrid
from transforms.accumulate.passes import PassRequest, PassSolver
from transforms.accumulate.pinned import DEFAULT_CACHE_BYTES
from transforms.accumulate.requests import JointMoments, MomentsOfRows, SumsOfCells
from transforms.beam.combine import SumBlocks, SumKeyed
from transforms.directions.mean_difference import solve_mean_differences, solve_regressions
from transforms.hosvd.solve import HOSVDSolver
from transforms.nrsfm.fit import NRSfMSolver
from transforms.pca.fit import GramSolver, RandomisedSolver, solve_pca
from transforms.svm.fit import HyperplaneOptions, HyperplaneSolver


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


@dataclass(eq=False)
class FitMeanDifferences(beam.PTransform):  # type: ignore[misc]
    """Differences of means for each level of the grid's first mode, from arrays x and cells."""

    source: BlockSource
    grid: CellGrid
    reference: int | Sequence[int] | None = None
    paired: bool = False
    cache_bytes: int = DEFAULT_CACHE_BYTES

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, ranges: Any) -> Any:
        """PCollection[(start, stop)] -> PCollection[MeanDifferences]."""
        total = ranges | "Cells" >> SumBlocks(self.source, SumsOfCells(), self.cache_bytes)
        return total | "Solve" >> beam.Map(
            solve_mean_differences, self.grid, self.reference, self.paired
        )


@dataclass(eq=False)
class FitRegressions(beam.PTransform):  # type: ignore[misc]
    """Directions of continuous factors, from arrays x and targets (m, T)."""

    source: BlockSource
    n_targets: int
    ridge: float = 1e-3
    cache_bytes: int = DEFAULT_CACHE_BYTES

    def __post_init__(self) -> None:
        super().__init__()
        if self.n_targets < 1 or self.ridge < 0:
            raise UsageError(
                f"n_targets {self.n_targets!r} must be at least 1 and ridge {self.ridge!r} at "
                "least 0"
            )

    def expand(self, ranges: Any) -> Any:
        """PCollection[(start, stop)] -> PCollection[Regressions]."""
        total = ranges | "Moments" >> SumBlocks(self.source, JointMoments(), self.cache_bytes)
        return total | "Solve" >> beam.Map(solve_regressions, self.n_targets, self.ridge)


class StepSolver(beam.DoFn):  # type: ignore[misc]
    """(0, summed statistic) and the state -> the next state, and its request as output 'request'.

    sink : called with (pass number, statistic), to keep what each pass summed
    """

    def __init__(self, number: int, sink: Callable[[int, Any], None] | None) -> None:
        self.number = number
        self.sink = sink

    def process(self, element: tuple[int, Any], solver: Any) -> Iterator[Any]:
        """A statistic of None, of a pass after the solver was done, changes nothing."""
        total = element[1]
        if total is not None:
            if self.sink is not None:
                self.sink(self.number, total)
            solver = solver.step(total)
        yield solver
        yield beam.pvalue.TaggedOutput("request", request_of(solver))


def request_of(solver: PassSolver) -> PassRequest | None:
    """What the next pass computes, or None when the solver is done."""
    return None if solver.done else solver.request()


@dataclass(eq=False)
class RunPasses(beam.PTransform):  # type: ignore[misc]
    """Up to `n_passes` passes of a solver: PCollection[(start, stop)] -> PCollection[state].

    Passes after the solver is done compute nothing. sink : see `StepSolver`.
    """

    source: BlockSource
    solver: PassSolver
    n_passes: int
    cache_bytes: int = DEFAULT_CACHE_BYTES
    sink: Callable[[int, Any], None] | None = None

    def __post_init__(self) -> None:
        super().__init__()
        if self.n_passes < 1:
            raise UsageError(f"n_passes is {self.n_passes!r}: give at least 1")

    def expand(self, ranges: Any) -> Any:
        """Each pass takes its request, and each step the state, as a side input."""
        state: Any = self.solver
        request: Any = request_of(self.solver)
        for i in range(self.n_passes):
            total = ranges | f"Pass{i}" >> SumKeyed(self.source, request, self.cache_bytes)
            step = beam.ParDo(StepSolver(i, self.sink), state).with_outputs("request", main="state")
            stepped = total | f"Step{i}" >> step
            state, request = beam.pvalue.AsSingleton(stepped.state), stepped.request
        return stepped.state


@dataclass(eq=False)
class FitHyperplanes(beam.PTransform):  # type: ignore[misc]
    """Hyperplanes of arrays x and y within `n_passes` passes: -> PCollection[Hyperplanes].

    Attributes that need more passes come out with converged False.
    """

    source: BlockSource
    options: HyperplaneOptions
    n_passes: int = 40
    cache_bytes: int = DEFAULT_CACHE_BYTES

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, ranges: Any) -> Any:
        """PCollection[(start, stop)] -> PCollection[Hyperplanes]."""
        solver = HyperplaneSolver(self.options)
        passes = RunPasses(self.source, solver, self.n_passes, self.cache_bytes)
        return ranges | "Passes" >> passes | "Result" >> beam.Map(lambda s: s.result())


@dataclass(eq=False)
class FitHOSVD(beam.PTransform):  # type: ignore[misc]
    """Full-rank tensor model of slabs (`SlabCells` or `TensorSlabs`): -> PCollection[HOSVD]."""

    source: BlockSource
    standardise: bool = False
    cache_bytes: int = DEFAULT_CACHE_BYTES

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, ranges: Any) -> Any:
        """PCollection[(start, stop)] -> PCollection[HOSVD]."""
        solver = HOSVDSolver(self.standardise)
        passes = RunPasses(self.source, solver, 2, self.cache_bytes)
        return ranges | "Passes" >> passes | "Model" >> beam.Map(lambda s: s.model())


@dataclass(eq=False)
class FitNRSfM(beam.PTransform):  # type: ignore[misc]
    """Shape model of array points within `n_passes` passes: -> PCollection[ShapeModel]."""

    source: BlockSource
    n_shapes: int
    front: tuple[int, ...] | None = None
    n_passes: int = 40
    cache_bytes: int = DEFAULT_CACHE_BYTES

    def __post_init__(self) -> None:
        super().__init__()
        rounds = max(self.n_passes - 4, 1)
        self._solver = NRSfMSolver(self.n_shapes, self.front, max_rounds=rounds)

    def expand(self, ranges: Any) -> Any:
        """PCollection[(start, stop)] -> PCollection[ShapeModel]."""
        passes = RunPasses(self.source, self._solver, max(self.n_passes, 5), self.cache_bytes)
        return ranges | "Passes" >> passes | "Model" >> beam.Map(lambda s: s.model())
