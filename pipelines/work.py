"""Working through a store's row blocks: what a driver sends, what a worker reads and gives back.

The work list is blocks, not images: a worker gets a block's rows, reads and decodes the images
itself (a thread pool prepares the next batch while the model works on the current one), writes
the block and returns a receipt. Only rows and receipts travel through Ray.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from pipelines.sources import Source, read_checked
from schemas import errors
from schemas.errors import InputError, LatentflowError, LockedError, RunInterruptedError
from schemas.index import REMOVED, DatasetIndex
from schemas.lock import STOPPING, StoreLock
from schemas.reasons import TRANSIENT, Reason, Status
from schemas.store import LatentStore
from transforms.preprocess import decode, fit
from transforms.quarantine import Quarantine

Progress = Callable[[int, int], None]
T = TypeVar("T")

#: What unreadable and removed rows hold in a batch, so that the others keep their places.
FILLER = 128
_PR_SET_PDEATHSIG = 1


# ---------------------------------------------------------------------------------------------
# One writer


@dataclass(frozen=True)
class Guard:
    """Who may write: the driver that holds the store's lock. Travels to its workers.

    lock_path, owner : the lock file and the owner that it must name.
    place, pid, mark : the driver's process, where its number is good, and what tells it from a
        later one of the same number.
    """

    lock_path: str
    owner: str
    place: str
    pid: int
    mark: str

    @classmethod
    def of(cls, lock: StoreLock) -> Guard:
        """For the holder of ``lock``, in this process. Raises LockedError when it is not held."""
        lock.check()
        owner = str(json.loads(lock.path.read_bytes())["owner"])
        pid = os.getpid()
        return cls(str(lock.path), owner, _place(), pid, _mark(pid) or "")

    def check(self) -> None:
        """Raise LockedError unless the driver still holds the lock; call it before each commit."""
        holder = self._lock().get("owner")
        if holder != self.owner:
            raise LockedError(
                f"the lock {self.lock_path!r} names {holder!r}, not this run's {self.owner!r}; "
                "another run has taken the store over"
            )

    def stopping(self) -> bool:
        """Whether the driver was asked to stop: begin no further block."""
        facts = self._lock()
        return facts.get("owner") == self.owner and facts.get("state") == STOPPING

    def _lock(self) -> dict[str, Any]:
        try:
            with open(self.lock_path, "rb") as file:
                facts = json.load(file)
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def driver_alive(self) -> bool:
        """Whether the driver runs. True on another host, where Ray alone can tell."""
        return _place() != self.place or _mark(self.pid) == self.mark

    def watch(self, interval_s: float = 0.5) -> None:
        """Kill this process as soon as the driver is gone: a worker that goes on would meet those
        of the next run.

        Ray ends a dead driver's workers as well, but later, and not while one is busy outside
        Python. So the kernel is asked to kill this process with its parent (a local Ray dies with
        its driver), and a thread looks for the driver itself. Does nothing in the driver.
        """
        if os.getpid() == self.pid and _place() == self.place:
            return
        _die_with_parent()

        def loop() -> None:
            while self.driver_alive():
                time.sleep(interval_s)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=loop, name="driver-watch", daemon=True).start()


def _place() -> str:
    """Where a process number means the same process: host and process namespace."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}"


def _mark(pid: int) -> str | None:
    """What stays the same while process ``pid`` runs; None when it does not (or is a zombie).

    On Linux its start in clock ticks since boot, which no change of the clock can move.
    """
    if not os.path.exists("/proc/self/stat"):
        return "" if psutil.pid_exists(pid) else None
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _die_with_parent() -> None:
    """Linux: SIGKILL for this process when its parent dies. Elsewhere nothing."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


# ---------------------------------------------------------------------------------------------
# The work list


@dataclass(frozen=True)
class StageWork:
    """What a block needs in one stage.

    fp : fingerprint to commit with.
    retry : offset -> reason of the rows to try again, when the block is complete but for rows
        that could not be read; None when the block is to be made.
    """

    fp: bytes
    retry: Mapping[int, int] | None = None


@dataclass(frozen=True)
class BlockWork:
    """One block as a worker gets it: its rows, and what they need."""

    block: int
    image_ids: Sequence[str]
    uris: Sequence[str]
    states: Sequence[str]
    stages: Mapping[str, StageWork]

    def __len__(self) -> int:
        return len(self.image_ids)

    def to_item(self) -> dict[str, Any]:
        """A flat row for Ray Data."""
        stages = {
            name: [s.fp.hex(), None if s.retry is None else [list(r) for r in s.retry.items()]]
            for name, s in self.stages.items()
        }
        rows = [self.image_ids, self.uris, self.states]
        return {"block": self.block, "work": json.dumps([*map(list, rows), stages])}

    @classmethod
    def from_batch(cls, batch: Mapping[str, NDArray[Any]]) -> BlockWork:
        """Inverse of `to_item`, from a batch of one row."""
        image_ids, uris, states, stages = json.loads(str(batch["work"][0]))
        work = {
            name: StageWork(bytes.fromhex(fp), None if retry is None else dict(retry))
            for name, (fp, retry) in stages.items()
        }
        return cls(int(batch["block"][0]), image_ids, uris, states, work)


class Rows:
    """The index's rows in a store's blocks, taken out of the table once."""

    def __init__(self, index: DatasetIndex, store: LatentStore) -> None:
        self.image_ids, self.uris, self.states = index.image_ids, index.uris, index.states
        self._slices = [store.block_slice(block) for block in range(store.n_blocks)]

    def identity(self, block: int) -> list[tuple[str, str]]:
        """(image_id, state) of a block's rows, for its fingerprint."""
        rows = self._slices[block]
        return list(zip(self.image_ids[rows], self.states[rows], strict=True))

    def work(self, block: int, stages: Mapping[str, StageWork]) -> BlockWork:
        """What is sent to a worker."""
        rows = self._slices[block]
        return BlockWork(
            block, self.image_ids[rows], self.uris[rows], self.states[rows], dict(stages)
        )

    def count(self, block: int) -> int:
        """Rows of a block."""
        rows = self._slices[block]
        return rows.stop - rows.start


class StageState:
    """What a store holds of one stage now: commits and reasons, read once."""

    def __init__(self, store: LatentStore, stage: str) -> None:
        self._store = store
        self._commits = store.committed(stage)
        self._reasons = store.reason(stage)

    def commit(self, block: int) -> bytes | None:
        """The fingerprint that a block is committed with; None when it is not."""
        fp: bytes = self._commits[block].tobytes()
        return fp if any(fp) else None

    def needs(
        self, block: int, fp: bytes, retry: frozenset[Reason] = TRANSIENT
    ) -> StageWork | None:
        """What a block needs to be committed with ``fp``; None when it is done.

        retry : reasons that may be gone by now. Rows that did not fit into memory need the whole
            block again; unreadable ones are looked at first.
        """
        if self._commits[block].tobytes() != fp:
            return StageWork(fp)
        reasons = self._reasons[self._store.block_slice(block)]
        found = {int(i): int(reasons[i]) for i in np.flatnonzero(np.isin(reasons, list(retry)))}
        if not found:
            return None
        return StageWork(fp, None if Reason.OUT_OF_MEMORY in found.values() else found)


# ---------------------------------------------------------------------------------------------
# Reading images


class Batch(NamedTuple):
    """Images of consecutive rows of a block, at the model's resolution.

    start : offset of the first row in the block.
    images : uint8 (batch_size, R, R, 3); after ``count`` rows the last one is repeated.
    status, reason : uint8 (count,); rows that are not OK hold grey.
    """

    start: int
    count: int
    images: NDArray[np.uint8]
    status: NDArray[np.uint8]
    reason: NDArray[np.uint8]

    @property
    def rows(self) -> slice:
        """Offsets of the rows in the block."""
        return slice(self.start, self.start + self.count)


class BlockImages:
    """Reads, checks, decodes and fits a block's images in threads, one batch ahead.

    A bad image is a reason in its row and nothing more. Batches begin at the block's first row
    and have exactly ``batch_size`` images whatever they hold, so that a row's place in its batch,
    and with it every bit of its result, depends on nothing but its place in the block.
    """

    def __init__(
        self, source: Source, resolution: int, crop: str, max_pixels: int, threads: int = 1
    ) -> None:
        self.source = source
        self.resolution = resolution
        self.crop = crop
        self.max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="decode")

    def image(self, work: BlockWork, offset: int) -> tuple[NDArray[np.uint8] | None, Reason]:
        """The image of one row, uint8 (R, R, 3), or why there is none."""
        try:
            data = read_checked(self.source, work.uris[offset], work.image_ids[offset])
            return fit(decode(data, self.max_pixels), self.resolution, self.crop), Reason.NONE
        except Quarantine as e:
            return None, e.reason
        except InputError:  # a uri that no dataset of this kind gives, or that leaves its root
            return None, Reason.UNSUPPORTED
        except MemoryError:
            return None, Reason.OUT_OF_MEMORY

    def still_failing(self, work: BlockWork, stage: str) -> bool:
        """Whether all rows that the stage would try again still cannot be read, as before."""
        retry = work.stages[stage].retry
        if not retry:
            return False
        now = self._pool.map(lambda offset: self.image(work, offset)[1], retry)
        return all(found == before for found, before in zip(now, retry.values(), strict=True))

    def batches(self, work: BlockWork, batch_size: int) -> Iterator[Batch]:
        """All rows of a block in batches, in order."""
        starts = range(0, len(work), batch_size)
        ahead = self._submit(work, starts[0], batch_size) if starts else []
        for start in starts:
            current = ahead
            following = start + batch_size
            ahead = self._submit(work, following, batch_size) if following < len(work) else []
            yield self._batch(work, start, current, batch_size)

    def _submit(
        self, work: BlockWork, start: int, batch_size: int
    ) -> list[Future[tuple[NDArray[np.uint8] | None, Reason]] | None]:
        return [
            None if work.states[i] == REMOVED else self._pool.submit(self.image, work, i)
            for i in range(start, min(start + batch_size, len(work)))
        ]

    def _batch(
        self,
        work: BlockWork,
        start: int,
        pending: Sequence[Future[tuple[NDArray[np.uint8] | None, Reason]] | None],
        batch_size: int,
    ) -> Batch:
        count, side = len(pending), self.resolution
        images = np.full((batch_size, side, side, 3), FILLER, np.uint8)
        status = np.full(count, Status.OK, np.uint8)
        reason = np.zeros(count, np.uint8)
        for i, future in enumerate(pending):
            if future is None:
                status[i] = Status.REMOVED
                continue
            image, why = future.result()
            if image is None:
                status[i], reason[i] = Status.QUARANTINED, why
            else:
                images[i] = image
        images[count:] = images[count - 1]
        return Batch(start, count, images, status, reason)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def padded(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """``rows`` (n, ...) with the last one repeated up to ``size`` rows; n is at least 1."""
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])


# ---------------------------------------------------------------------------------------------
# Memory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of numpy, torch or onnxruntime says that an allocation failed."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    phrases = ("out of memory", "can't allocate memory", "failed to allocate memory")
    return any(phrase in text for phrase in phrases)


def in_halves(
    compute: Callable[[slice], T], rows: slice, give_up: Callable[[int], None]
) -> tuple[list[tuple[slice, T]], bool]:
    """``compute(rows)``, in halves where memory does not suffice.

    give_up : called with each single row that does not fit by itself.
    Returns (rows, result) pairs in order, and whether anything had to be halved (the results then
    agree with the whole batch's up to rounding only).
    """
    try:
        return [(rows, compute(rows))], False
    except Exception as e:  # torch and onnxruntime have their own error types for this
        if not is_out_of_memory(e):
            raise
    if rows.stop - rows.start == 1:
        give_up(rows.start)
        return [], True
    middle = (rows.start + rows.stop) // 2
    first, _ = in_halves(compute, slice(rows.start, middle), give_up)
    second, _ = in_halves(compute, slice(middle, rows.stop), give_up)
    return first + second, True


# ---------------------------------------------------------------------------------------------
# Workers


class Worker(Protocol):
    """Makes blocks: what a `Task` builds once in an actor."""

    def process(self, work: BlockWork) -> dict[str, Any]:
        """Make, write and commit one block; returns its receipt."""
        ...


class Task(Protocol):
    """A small picklable description from which an actor builds its worker."""

    def build(self, guard: Guard) -> Worker:
        """Load the models. Called once in each process."""
        ...


class BlockActor:
    """The Ray callable: builds the worker at the first block, then makes one block a call.

    Building is left to the first call because an error there (an unreadable checkpoint) ends the
    run at once with its own message, while an actor that dies in its constructor is started again.
    """

    def __init__(self, task: Task, guard: Guard) -> None:
        self._task, self._guard = task, guard
        self._worker: Worker | None = None
        guard.watch()

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            receipt = self._make(BlockWork.from_batch(batch))
        except LatentflowError as e:  # travels as data: through Ray it would lose its class
            known = next(k for k in type(e).__mro__ if k.__module__ == errors.__name__)
            receipt = {"error": known.__name__, "message": str(e)}
        return {"receipt": np.array([json.dumps(receipt)])}

    def _make(self, work: BlockWork) -> dict[str, Any]:
        if self._guard.stopping():
            return {"block": work.block, "rows": len(work), "not_begun": True}
        started = time.monotonic()
        if self._worker is None:
            self._worker = self._task.build(self._guard)
        loaded = time.monotonic()
        return {
            **self._worker.process(work),
            "block": work.block,
            "rows": len(work),
            "load_s": round(loaded - started, 3),
            "seconds": round(time.monotonic() - loaded, 3),
            "pid": os.getpid(),
        }


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


class Engine(Protocol):
    """What the driver asks of `pipelines.ray_engine.RayEngine`."""

    gpus_per_actor: float

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
    """An engine without Ray: one worker in this process, blocks in order (or in reverse)."""

    gpus_per_actor: float = 0.0
    backwards: bool = False

    def map_blocks(
        self,
        actor: type,
        arguments: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]],
        actors: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """See `Engine`; ``actors`` is not used."""
        worker = actor(**arguments)
        for item in reversed(items) if self.backwards else items:
            batch = worker({name: np.array([value]) for name, value in item.items()})
            yield {name: column[0] for name, column in batch.items()}


@dataclass
class Done:
    """Receipts of a run, added up.

    blocks_done counts blocks that were made, blocks_skipped those that were complete already;
    shrunk says that a batch had to be halved for memory, so that results agree with an
    undisturbed run's up to rounding only.
    """

    blocks_done: int = 0
    blocks_skipped: int = 0
    bytes_read: int = 0
    shrunk: bool = False
    load_s: float = 0.0
    busy_s: float = 0.0
    workers: set[int] = field(default_factory=set)

    def add(self, receipt: Mapping[str, Any]) -> None:
        """Take one receipt in."""
        self.blocks_skipped += bool(receipt.get("unchanged"))
        self.blocks_done += not receipt.get("unchanged")
        self.bytes_read += int(receipt.get("bytes", 0))
        self.shrunk |= bool(receipt.get("shrunk"))
        self.load_s += float(receipt["load_s"])
        self.busy_s += float(receipt["seconds"])
        self.workers.add(int(receipt["pid"]))


def run_blocks(
    engine: Engine,
    task: Task,
    work: Sequence[BlockWork],
    lock: StoreLock,
    *,
    n_blocks: int,
    n_rows: int,
    actors: int | None,
    progress: Progress | None,
) -> Done:
    """Send all work through the engine and watch over it.

    progress : called with (rows done, rows in all) at the start and after each block.
    Raises LockedError when another run took the store over, RunInterruptedError when this one was
    asked to stop (after the blocks in hand), and what the workers raise.
    """
    done = Done(blocks_skipped=n_blocks - len(work))
    rows_done = n_rows - sum(len(w) for w in work)
    if progress is not None:
        progress(rows_done, n_rows)
    if not work:
        return done
    arguments = {"task": task, "guard": Guard.of(lock)}
    items = [w.to_item() for w in work]
    for result in engine.map_blocks(BlockActor, arguments, items, actors):
        receipt = json.loads(str(result["receipt"]))
        if "error" in receipt:
            raise getattr(errors, receipt["error"])(receipt["message"])
        lock.check()
        if receipt.get("not_begun"):
            continue
        done.add(receipt)
        rows_done += int(receipt["rows"])
        if progress is not None:
            progress(rows_done, n_rows)
    if lock.stopping:
        raise RunInterruptedError(
            f"the run was asked to stop with {done.blocks_done!r} of {len(work)!r} blocks made: "
            "run the same command again to go on"
        )
    return done


def counts_of(store: LatentStore, stage: str) -> dict[str, Any]:
    """{"ok", "quarantined", "removed", "pending", "reasons": {name: rows}} of one stage."""
    status, reason = store.status(stage), store.reason(stage)
    counts: dict[str, Any] = {
        member.name.lower(): int((status == member).sum()) for member in Status
    }
    reasons = reason[status == Status.QUARANTINED]
    counts["reasons"] = {
        member.name.lower(): int((reasons == member).sum())
        for member in Reason
        if (reasons == member).any()
    }
    return counts
