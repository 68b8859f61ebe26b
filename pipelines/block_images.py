"""Reading the images of a store's row blocks, and computing on them where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.sources import Source, read_checked
from pipelines.work import BlockWork
from schemas.errors import InputError
from schemas.index import REMOVED
from schemas.reasons import Reason, Status
from transforms.preprocess import decode, fit
from transforms.quarantine import Quarantine

T = TypeVar("T")

#: What unreadable and removed rows hold in a batch, so that the others keep their places.
FILLER = 128


@dataclass(frozen=True, eq=False)
class Batch:
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
