"""Models of landmarks on Beam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from transforms.accumulate.blocks import BlockSource
from transforms.accumulate.pinned import DEFAULT_CACHE_BYTES
from transforms.beam.passes import RunPasses
from transforms.nrsfm.fit import NRSfMSolver


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
