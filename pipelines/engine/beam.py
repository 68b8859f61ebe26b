"""Where the analyses of a run are summed: in Beam, small iterations in this process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from schemas.spec import RunSpec
from schemas.store.latent_store import LatentStore
from transforms.accumulate.blocks import BlockSource
from transforms.accumulate.passes import PassRequest, S, Seen, run_passes
from transforms.beam.engine import BeamEngine
from transforms.inversion.stored import stored_space

EMBEDDED = "FnApiRunner"


@dataclass(frozen=True)
class LocalIterations:
    """Beam for single passes; solvers of many passes iterate in this process.

    For stores that fit into the cache: Beam's start of a pipeline costs more than a pass over
    them. Both ways sum the same blocks in the same order and give the same bits.
    """

    beam: BeamEngine

    def sum(self, source: BlockSource, request: PassRequest) -> Any:
        """One pass, in Beam."""
        return self.beam.sum(source, request)

    def run(self, solver: S, source: BlockSource, *, seen: Seen | None = None) -> S:
        """All passes of a solver, in this process."""
        return run_passes(solver, source, seen=seen)


def analysis_engine(spec: RunSpec, store: LatentStore) -> BeamEngine | LocalIterations:
    """Beam as the specification says, with local iterations where the codes fit the cache."""
    engine = BeamEngine(spec.beam.runner, tuple(spec.beam.options), spec.cache_bytes)
    array = store.array(f"latents/{stored_space(store)}")
    size = math.prod(array.shape) * 8  # blocks are prepared in float64
    embedded = spec.beam.runner == EMBEDDED and not spec.beam.options
    return LocalIterations(engine) if embedded and size <= spec.cache_bytes else engine
