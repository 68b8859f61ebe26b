"""Tensor models on Beam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from transforms.accumulate.blocks import BlockSource
from transforms.accumulate.pinned import DEFAULT_CACHE_BYTES
from transforms.beam.passes import RunPasses
from transforms.hosvd.solve import HOSVDSolver


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
