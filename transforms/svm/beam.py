"""Hyperplanes on Beam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from transforms.accumulate.blocks import BlockSource
from transforms.accumulate.pinned import DEFAULT_CACHE_BYTES
from transforms.beam.passes import RunPasses
from transforms.svm.fit import HyperplaneOptions, HyperplaneSolver


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
