"""Working through a list of work: what a driver sends, what a worker reads and gives back.

The work list is a store's row blocks or parts of them (`pipelines.engine.parts`), not images: a
worker gets the rows, reads and decodes the images itself (a thread pool prepares the next batch
while the model works on the current one), writes what it made and returns a receipt. Only rows and
receipts travel through Ray. Other stages list other pieces of work (`Work`), such as edits to draw.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from traceback import format_exc
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.memory import keep_freed_memory
from pipelines.engine.writer_guard import Guard
from schemas import errors
from schemas.errors import LatentflowError, RunInterruptedError, is_out_of_memory
from schemas.expected_errors import expected
from schemas.index import DatasetIndex
from schemas.store.latent_store import LatentStore
from schemas.store.lock import StoreLock

Progress = Callable[[int, int], None]


# ---------------------------------------------------------------------------------------------
# The work list


class Work(Protocol):
    """One piece of work: what the driver lists and a worker makes at a time."""

    UNITS: ClassVar[str]
    """What several are called: "blocks"."""

    @property
    def title(self) -> str:
        """What errors call it: "block 7"."""
        ...

    def __len__(self) -> int:
        """Its share of the progress, such as rows."""
        ...

    def to_item(self) -> dict[str, Any]:
        """A flat row, as it travels to a worker."""
        ...

    @classmethod
    def from_batch(cls, batch: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_item`, from a batch of one row."""
        ...


@dataclass(frozen=True)
class StageWork:
    """What a block needs in one stage.

    fp : fingerprint to commit with.
    retry : (image_id, uri, reason) of the block's rows to try again, when it is complete but for
        rows that could not be read; None when the block is to be made.
    """

    fp: bytes
    retry: Sequence[tuple[str, str, int]] | None = None


@dataclass(frozen=True)
class BlockWork:
    """One block as a worker gets it, or a part of one: its rows, and what they need.

    labels : class number of every row, -1 where it has none; None for a model without classes
    entries : of every row the number of its own in what its inversion method knows beforehand, -1
        where it has none; None for a method that looks nothing up
    first : place in the block of the first row. whole : the rows are all of the block's.
    """

    UNITS: ClassVar[str] = "blocks"

    block: int
    image_ids: Sequence[str]
    uris: Sequence[str]
    states: Sequence[str]
    stages: Mapping[str, StageWork]
    labels: Sequence[int] | None = None
    entries: Sequence[int] | None = None
    first: int = 0
    whole: bool = True

    @property
    def title(self) -> str:
        """See `Work`."""
        name = f"block {self.block!r}"
        return name if self.whole else f"{name}, rows {self.rows.start!r} to {self.rows.stop!r}"

    @property
    def rows(self) -> slice:
        """Their places in the block."""
        return slice(self.first, self.first + len(self))

    def part(self, rows: slice) -> BlockWork:
        """Some rows of a whole block, by their places in it."""
        if rows == self.rows:
            return self
        columns = {
            name: getattr(self, name)[rows]
            for name in ("image_ids", "uris", "states", "labels", "entries")
            if getattr(self, name) is not None
        }
        return replace(self, **columns, first=rows.start, whole=False)

    def __len__(self) -> int:
        return len(self.image_ids)

    def to_item(self) -> dict[str, Any]:
        """See `Work`."""
        stages = {
            name: [s.fp.hex(), None if s.retry is None else list(s.retry)]
            for name, s in self.stages.items()
        }
        rows = [self.image_ids, self.uris, self.states]
        numbers = [
            None if each is None else [int(number) for number in each]
            for each in (self.labels, self.entries)
        ]
        own = [*map(list, rows), stages, *numbers, self.first, self.whole]
        return {"block": self.block, "work": json.dumps(own)}

    @classmethod
    def from_batch(cls, batch: Mapping[str, NDArray[Any]]) -> Self:
        """See `Work`."""
        ids, uris, states, stages, *numbers = json.loads(str(batch["work"][0]))
        work = {
            name: StageWork(bytes.fromhex(fp), None if retry is None else [(*r,) for r in retry])
            for name, (fp, retry) in stages.items()
        }
        return cls(int(batch["block"][0]), ids, uris, states, work, *numbers)


class Rows:
    """The index's rows in a store's blocks, taken out of the table once.

    labels : class number of every row of the index, for a model with classes
    entries : of every row of the index, see `BlockWork`
    """

    def __init__(
        self,
        index: DatasetIndex,
        store: LatentStore,
        labels: NDArray[np.int64] | None = None,
        entries: NDArray[np.int64] | None = None,
    ) -> None:
        self.image_ids, self.uris, self.states = index.image_ids, index.uris, index.states
        self.labels, self.entries = labels, entries
        self._slices = [store.block_slice(block) for block in range(store.n_blocks)]

    def identity(self, block: int) -> tuple[tuple[str, str], ...]:
        """(image_id, state) of a block's rows, for its fingerprint."""
        rows = self._slices[block]
        return tuple(zip(self.image_ids[rows], self.states[rows], strict=True))

    def work(self, block: int, stages: Mapping[str, StageWork]) -> BlockWork:
        """What is sent to a worker."""
        rows = self._slices[block]
        labels, entries = (
            None if each is None else each[rows].tolist() for each in (self.labels, self.entries)
        )
        mine = (self.image_ids[rows], self.uris[rows], self.states[rows])
        return BlockWork(block, *mine, dict(stages), labels, entries)

    def count(self, block: int) -> int:
        """Rows of a block."""
        rows = self._slices[block]
        return rows.stop - rows.start


# ---------------------------------------------------------------------------------------------
# Workers


class Worker(Protocol):
    """Makes blocks, or other work: what a `Task` builds once in an actor."""

    def process(self, work: Any) -> dict[str, Any]:
        """Make and write one piece of work; returns its receipt."""
        ...


class Task(Protocol):
    """A small picklable description from which an actor builds its worker."""

    def build(self, guard: Guard) -> Worker:
        """Load the models. Called once in each process."""
        ...


class WorkActor:
    """The Ray callable: builds the worker at the first call, then makes one piece of work a call.

    Building is left to the first call because an error there (an unreadable checkpoint) ends the
    run at once with its own message, while an actor that dies in its constructor is started again.
    """

    def __init__(self, task: Task, guard: Guard, kind: type[Work] = BlockWork) -> None:
        self._task, self._guard, self._kind = task, guard, kind
        self._worker: Worker | None = None
        keep_freed_memory()
        guard.watch()

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        work = self._kind.from_batch(batch)
        try:
            receipt = self._make(work)
        except Exception as e:  # travels as data: through Ray it would lose class and message
            receipt = _failure(e, work.title)
        return {"receipt": np.array([json.dumps(receipt)])}

    def _make(self, work: Work) -> dict[str, Any]:
        if self._guard.stopping():
            return {"work": work.title, "rows": len(work), "not_begun": True}
        started = time.monotonic()
        if self._worker is None:
            self._worker = self._task.build(self._guard)
        loaded = time.monotonic()
        return {
            **self._worker.process(work),
            "work": work.title,
            "rows": len(work),
            "load_s": round(loaded - started, 3),
            "seconds": round(time.monotonic() - loaded, 3),
            "pid": os.getpid(),
        }


class InWorkerError(Exception):
    """Where a worker failed: its traceback, as the cause of the driver's error."""


def _failure(error: Exception, title: str) -> dict[str, Any]:
    """A receipt that says what ended a piece of work."""
    told = expected(error)
    if told is not None:
        known = next(k for k in type(told).__mro__ if k.__module__ == errors.__name__)
        return {"error": known.__name__, "message": str(told)}
    said = f"could not be made: {type(error).__name__}: {error}"
    if is_out_of_memory(error):
        said = f"needs more memory: lower 'batch_size' or the actors, and run again ({error})"
    message = f"{title} {said}"
    return {"error": LatentflowError.__name__, "message": message, "traceback": format_exc()}


def raise_failure(receipt: Mapping[str, Any]) -> None:
    """Raise what a worker's receipt tells of; nothing for one of a block that was made."""
    if "error" not in receipt:
        return
    cause = InWorkerError(receipt["traceback"]) if "traceback" in receipt else None
    raise getattr(errors, receipt["error"])(receipt["message"]) from cause


def use_threads(threads: int, cuda: bool) -> str:
    """Set torch up for repeatable results; returns the device to use.

    threads : from the specification. Ray would otherwise derive them from its resources.
    """
    import torch

    torch.set_num_threads(threads)
    if not cuda:
        return "cpu"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    return "cuda"


# ---------------------------------------------------------------------------------------------
# The driver's side


class BlockEngine(Protocol):
    """What the driver asks of `pipelines.engine.ray.RayEngine`."""

    @property
    def gpus_per_actor(self) -> float:
        """0 is CPU."""
        ...

    @property
    def actors(self) -> int:
        """Actors that run at a time, by default."""
        ...

    def map_blocks(
        self,
        actor: type,
        arguments: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]],
        actors: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Items through a pool of actors, results as they come."""
        ...


@dataclass(frozen=True)
class InProcess:
    """An engine without Ray: one worker in this process, blocks in order (or in reverse).

    actors : among whom work is shared out, though one does it all
    """

    gpus_per_actor: float = 0.0
    backwards: bool = False
    actors: int = 1

    def map_blocks(
        self,
        actor: type,
        arguments: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]],
        actors: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """See `BlockEngine`; ``actors`` is not used."""
        worker = actor(**arguments)
        for item in reversed(items) if self.backwards else items:
            batch = worker({name: np.array([value]) for name, value in item.items()})
            yield {name: column[0] for name, column in batch.items()}


@dataclass
class Prepared:
    """An engine that does something once, before the first block that needs work.

    prepare : may raise; then nothing is made.
    """

    engine: BlockEngine
    prepare: Callable[[], None]
    done: bool = False
    gpus_per_actor: float = field(init=False)
    actors: int = field(init=False)

    def __post_init__(self) -> None:
        self.gpus_per_actor, self.actors = self.engine.gpus_per_actor, self.engine.actors

    def map_blocks(
        self,
        actor: type,
        arguments: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]],
        actors: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """See `BlockEngine`."""
        if items and not self.done:
            self.prepare()
            self.done = True
        return self.engine.map_blocks(actor, arguments, items, actors)


@dataclass
class Done:
    """Receipts of a run, added up.

    blocks_done counts blocks that were made, blocks_skipped those that were complete already;
    shrunk says that a batch had to be halved for memory, so that results agree with an
    undisturbed run's up to rounding only. failed : stage -> an image on which its model failed, and
    what the model said.
    """

    blocks_done: int = 0
    blocks_skipped: int = 0
    bytes_read: int = 0
    shrunk: bool = False
    load_s: float = 0.0
    busy_s: float = 0.0
    workers: set[int] = field(default_factory=set)
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, receipt: Mapping[str, Any], changed: bool | None) -> None:
        """Take one receipt in. changed : see `Made`"""
        self.blocks_skipped += changed is False
        self.blocks_done += changed is True
        self.bytes_read += int(receipt.get("bytes", 0))
        self.shrunk |= bool(receipt.get("shrunk"))
        self.load_s += float(receipt["load_s"])
        self.busy_s += float(receipt["seconds"])
        self.workers.add(int(receipt["pid"]))
        for stage, (uri, text) in receipt.get("failed", {}).items():
            self.failed.setdefault(stage, (uri, text))


Made = Callable[[Any, Mapping[str, Any]], bool | None]
"""Told of each piece of work that was made, and its receipt: whether the block that it belongs to
has changed; None where other pieces of it are missing."""


def each_its_own(piece: Work, receipt: Mapping[str, Any]) -> bool | None:
    """The `Made` of work of which each piece is a block."""
    return not receipt.get("unchanged")


def run_blocks(
    engine: BlockEngine,
    task: Task,
    work: Sequence[Work],
    lock: StoreLock,
    *,
    n_blocks: int,
    n_todo: int,
    n_rows: int,
    actors: int | None,
    progress: Progress | None,
    made: Made = each_its_own,
) -> Done:
    """Send all work, pieces of one kind, through the engine and watch over it.

    n_blocks : in all. n_todo : of them, that the work belongs to
    progress : called with (rows done, rows in all) at the start and after each piece.
    Raises LockedError when another run took the store over, RunInterruptedError when this one was
    asked to stop (after the pieces in hand), and what the workers raise.
    """
    done = Done(blocks_skipped=n_blocks - n_todo)
    rows_done = n_rows - sum(len(w) for w in work)
    if progress is not None:
        progress(rows_done, n_rows)
    if not work:
        return done
    arguments = {"task": task, "guard": Guard.of(lock), "kind": type(work[0])}
    pieces = {w.title: w for w in work}
    items = [w.to_item() for w in work]
    for result in engine.map_blocks(WorkActor, arguments, items, actors):
        receipt = json.loads(str(result["receipt"]))
        raise_failure(receipt)
        lock.check()
        if receipt.get("not_begun"):
            continue
        done.add(receipt, made(pieces[receipt["work"]], receipt))
        rows_done += int(receipt["rows"])
        if progress is not None:
            progress(rows_done, n_rows)
    if lock.stopping:
        raise RunInterruptedError(
            f"the run was asked to stop with {done.blocks_done!r} of {n_todo!r} "
            f"{work[0].UNITS} made: run the same command again to go on"
        )
    return done
