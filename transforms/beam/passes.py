"""The passes of a solver in one Beam pipeline.

Input elements are the ranges of `CreateBlocks`. A solver of several passes is unrolled for a number
of them; `transforms.beam.engine` runs as many as it needs. Each analysis' own transforms lie with
it, such as `transforms.pca.beam`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from schemas.errors import UsageError
from transforms.accumulate.blocks import BlockSource
from transforms.accumulate.passes import PassRequest, PassSolver
from transforms.accumulate.pinned import DEFAULT_CACHE_BYTES
from transforms.beam.combine import SumKeyed


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
