"""Differences of means and regressions on Beam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from schemas.errors import UsageError
from transforms.accumulate.blocks import BlockSource
from transforms.accumulate.factor_cells import CellGrid
from transforms.accumulate.pinned import DEFAULT_CACHE_BYTES
from transforms.accumulate.requests import JointMoments, SumsOfCells
from transforms.beam.combine import SumBlocks
from transforms.directions.mean_difference import solve_mean_differences, solve_regressions


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
