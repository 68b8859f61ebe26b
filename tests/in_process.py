"""The engine of a run without Beam, for tests: sums and passes in this process."""

from __future__ import annotations

from transforms.accumulate.blocks import sum_blocks
from transforms.accumulate.passes import run_passes


class InProcess:
    """Counts the blocks that single sums read."""

    def __init__(self, keep: bool = True) -> None:
        self.keep = keep
        self.blocks = 0

    def sum(self, source, request):
        self.blocks += source.n_blocks
        return sum_blocks(
            source.n_blocks, lambda b: request.statistic(request.prepare(source.read(b)[1]))
        )

    def run(self, solver, source, seen=None):
        return run_passes(solver, source, keep=self.keep, seen=seen)
