"""Sums and solvers on a Beam runner, and their statistics brought back.

Workers write each pass's summed statistic to the exchange folder as arrays; the caller reads them
and steps its own solver through them, so that nothing but arrays ever crosses the boundary.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

import transforms.beam.workers  # noqa: F401  (registers the handler of worker processes)
from schemas.errors import NotConvergedError, UsageError
from schemas.expected_errors import expected
from transforms.accumulate.blocks import Accumulator, BlockSource
from transforms.accumulate.passes import PassRequest, S, Seen
from transforms.accumulate.pinned import DEFAULT_CACHE_BYTES, PINNED
from transforms.accumulate.stored import statistic_bytes, statistic_of_bytes
from transforms.beam.combine import CreateBlocks, SumKeyed
from transforms.beam.passes import RunPasses


@dataclass(frozen=True)
class StatisticFiles:
    """Statistics by pass number, as files of the exchange folder; writing again changes nothing."""

    folder: str

    def __call__(self, number: int, statistic: Accumulator) -> None:
        """Write one."""
        with FileSystems.create(self._path(number)) as file:
            file.write(statistic_bytes(statistic))

    def read(self, number: int) -> Accumulator:
        """Read one."""
        with FileSystems.open(self._path(number)) as file:
            return statistic_of_bytes(file.read())

    def _path(self, number: int) -> str:
        return str(FileSystems.join(self.folder, f"{number:04d}.npz"))


@contextmanager
def _workers_errors() -> Iterator[None]:
    """What a worker raised, as the error that it was: Beam adds to its text, or hands on that
    alone."""
    try:
        yield
    except Exception as e:
        told = expected(e)
        if told is None:
            raise
        raise told from e


@dataclass(frozen=True)
class BeamEngine:
    """How Beam is run.

    runner : any Beam runner's name. The default is Beam's embedded one, named explicitly:
        'DirectRunner' may download and run a binary
    options : further Beam flags, passed through; a --runner among them wins
    cache_bytes : blocks each worker keeps in memory between passes
    passes_per_pipeline : passes of a solver unrolled into one pipeline: starting one costs more
        than unrolled passes that turn out not to be needed
    exchange : folder that workers can write and this process can read; default a local temporary
        one, which suits runners on this machine only
    per_group : one element for 16 blocks rather than one a block; default by their number
    """

    runner: str = "FnApiRunner"
    options: tuple[str, ...] = ()
    cache_bytes: int = DEFAULT_CACHE_BYTES
    passes_per_pipeline: int = 20
    exchange: str | None = None
    per_group: bool | None = None

    def __post_init__(self) -> None:
        if self.passes_per_pipeline < 1:
            raise UsageError(
                f"passes_per_pipeline is {self.passes_per_pipeline!r}: give at least 1"
            )
        if self.cache_bytes < 0:
            raise UsageError(f"cache_bytes is {self.cache_bytes!r}: give 0 or more")

    def pipeline(self) -> beam.Pipeline:
        """A new pipeline with these options."""
        flags = list(self.options)
        if not any(flag.startswith("--runner") for flag in flags):
            flags.append(f"--runner={self.runner}")
        return beam.Pipeline(options=PipelineOptions(flags))

    @contextmanager
    def _folder(self) -> Iterator[str]:
        if self.exchange is None:
            folder = tempfile.mkdtemp(prefix="latentflow-")
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return
        folder = FileSystems.join(self.exchange, uuid4().hex)
        FileSystems.mkdirs(folder)
        try:
            yield folder
        finally:
            FileSystems.delete([folder])

    def sum(self, source: BlockSource, request: PassRequest) -> Any:
        """Statistic of a whole source: one pass, one pipeline; no block is kept in memory."""
        return self._sum(source, request, 0)

    def _sum(self, source: BlockSource, request: PassRequest, cache_bytes: int) -> Any:
        with self._folder() as folder:
            files = StatisticFiles(folder)
            with _workers_errors(), self.pipeline() as p:
                ranges = p | "Blocks" >> CreateBlocks(source.n_blocks, self.per_group)
                total = ranges | "Sum" >> SumKeyed(source, request, cache_bytes)
                _ = total | "Write" >> beam.MapTuple(files)
            return files.read(0)

    def run(
        self, solver: S, source: BlockSource, max_passes: int = 10_000, seen: Seen | None = None
    ) -> S:
        """Drive a solver until it is done; NotConvergedError after `max_passes` passes.

        seen : called with each pass's request and summed statistic, in this process

        A solver with an attribute `passes_per_pipeline` gets no more passes into a pipeline: it
        needs no more, or, with 1, its state is too large to be data of a pipeline: it stays here,
        and only its requests travel.
        """
        chunk = min(self.passes_per_pipeline, getattr(solver, "passes_per_pipeline", max_passes))
        try:
            for _ in range(0, max_passes, chunk):
                if solver.done:
                    return solver
                if chunk == 1:
                    request = solver.request()
                    total = self._sum(source, request, self.cache_bytes)
                    if seen is not None:
                        seen(request, total)
                    solver = solver.step(total)
                else:
                    solver = self._run_chunk(solver, source, chunk, seen)
        finally:
            PINNED.release(source.key)
        if not solver.done:
            raise NotConvergedError(
                f"the solver needs more than {max_passes!r} passes: raise max_passes or tol"
            )
        return solver

    def _run_chunk(self, solver: S, source: BlockSource, n_passes: int, seen: Seen | None) -> S:
        with self._folder() as folder:
            files = StatisticFiles(folder)
            with _workers_errors(), self.pipeline() as p:
                ranges = p | "Blocks" >> CreateBlocks(source.n_blocks, self.per_group)
                passes = RunPasses(source, solver, n_passes, self.cache_bytes, files)
                _ = ranges | "Passes" >> passes
            for number in range(n_passes):
                if solver.done:
                    break
                total = files.read(number)
                if seen is not None:
                    seen(solver.request(), total)
                solver = solver.step(total)
        return solver
