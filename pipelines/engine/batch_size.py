"""How many rows are computed at once where a specification says ``batch_size: auto``.

Before the first block one actor loads its models and computes made-up rows: 1, 2, 4, ... as long as
what twice as many are expected to take, by a line through the last two, is allowed. All actors then
take the number that was found: a power of two, so that what a measurement differs by from another
does not change it, and with it the last bits of what is stored.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

import psutil
from numpy.typing import NDArray

from pipelines.engine.blocks import BlockEngine, WorkActor, raise_failure
from pipelines.engine.memory import PeakMemory
from pipelines.engine.writer_guard import Guard
from schemas.errors import RunInterruptedError, UsageError, is_out_of_memory
from schemas.store.lock import StoreLock

MB = 1 << 20
MOST = 512
"""More rows at once take no less time."""
SAMPLED_EVERY = 0.002


class Attempting(Protocol):
    """A worker that can compute made-up rows."""

    device: str

    def attempt(self, rows: int) -> None:
        """Compute that many as a batch of a block's rows is computed, and keep nothing. Raises
        where memory does not suffice."""


class AttemptingTask(Protocol):
    """A `pipelines.engine.blocks.Task` whose worker can."""

    def build(self, guard: Guard) -> Attempting:
        """Load the models."""


@dataclass(frozen=True)
class Trial:
    """The one piece of work of `AutoTask`.

    limit : bytes that an actor stays below. kept : bytes of it that a block takes beside a batch.
    most : rows at once
    """

    UNITS: ClassVar[str] = "trials"

    limit: int
    kept: int
    most: int

    @classmethod
    def of_blocks(cls, limit: int, block_rows: int, row_bytes: int, n_rows: int) -> Self:
        """For batches of blocks: what is filled, a copy as it is written, and it compressed.

        n_rows : of all blocks; no larger batch is tried than the power of two that holds them
        """
        holding = 1 << max(n_rows - 1, 0).bit_length()
        return cls(limit, 3 * block_rows * row_bytes, min(block_rows, MOST, holding))

    @property
    def title(self) -> str:
        """See `pipelines.engine.blocks.Work`."""
        return "'batch_size: auto'"

    def __len__(self) -> int:
        return 1

    def to_item(self) -> dict[str, Any]:
        """See `pipelines.engine.blocks.Work`."""
        return asdict(self)

    @classmethod
    def from_batch(cls, batch: Mapping[str, NDArray[Any]]) -> Self:
        """See `pipelines.engine.blocks.Work`."""
        return cls(**{name: int(column[0]) for name, column in batch.items()})


@dataclass(frozen=True)
class AutoTask:
    """Builds the worker of a task, and has it try."""

    task: AttemptingTask

    def build(self, guard: Guard) -> AutoWorker:
        """Load the task's models."""
        return AutoWorker(self.task.build(guard))


@dataclass(frozen=True)
class AutoWorker:
    """See `pipelines.engine.blocks.Worker`."""

    worker: Attempting

    def process(self, work: Trial) -> dict[str, Any]:
        """The number of rows."""
        return {"batch_size": largest_batch(self.worker, work)}


def chosen(engine: BlockEngine, task: AttemptingTask, lock: StoreLock, trial: Trial) -> int:
    """Rows at once for all actors of a task, found by one of them.

    Raises UsageError where a single row takes more than is allowed, RunInterruptedError when the
    run was asked to stop, and what the worker raises.
    """
    arguments = {"task": AutoTask(task), "guard": Guard.of(lock), "kind": Trial}
    for result in engine.map_blocks(WorkActor, arguments, [trial.to_item()], 1):
        receipt = json.loads(str(result["receipt"]))
        raise_failure(receipt)
        if "batch_size" in receipt:
            return int(receipt["batch_size"])
    raise RunInterruptedError("the run was asked to stop: run the same command again to go on")


def largest_batch(worker: Attempting, trial: Trial) -> int:
    """The largest power of two of rows that stays below ``trial.limit - trial.kept``, measured.

    Raises UsageError where one row does not.
    """
    allowed, rows = trial.limit - trial.kept, 1
    worker.attempt(1)  # what libraries keep from their first pass on is no row's
    with PeakOfProcess(worker.device) as memory:
        pass
    peak = memory.peak
    while True:
        before, short = peak, False
        try:
            with PeakOfProcess(worker.device) as memory:
                worker.attempt(rows)
        except Exception as e:  # torch and onnxruntime have their own error types for this
            if not is_out_of_memory(e):
                raise
            short = True
        peak = memory.peak
        if short or peak > allowed:
            break
        of_a_row = max(peak - before, 0) / (rows - rows // 2)
        if 2 * rows > trial.most or peak + of_a_row * rows > allowed:
            return rows
        rows *= 2
    if rows > 1:
        return rows // 2
    raise UsageError(
        f"'ray.actor_memory_mb' is {trial.limit // MB!r}, and an actor takes "
        f"{-(-(peak + trial.kept) // MB)!r} with one row at a time: raise it, or set 'batch_size' "
        "to 1"
    )


class PeakOfProcess(PeakMemory):
    """Samples what this process holds, of memory or of its GPU; ``peak`` is the largest, in bytes.

    What was freed and kept for later (`keep_freed_memory`) is given back first.
    """

    def __init__(self, device: str = "cpu") -> None:
        process = psutil.Process()
        super().__init__(SAMPLED_EVERY, lambda: int(process.memory_info().rss))
        self._cuda = device != "cpu"

    def __enter__(self) -> Self:
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            return self
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._cuda:
            super().__exit__(kind, error, trace)
            return
        import torch

        self.peak = torch.cuda.max_memory_allocated()
