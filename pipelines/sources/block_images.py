"""Reading the images of a store's row blocks, and computing on them where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from generators.annotators.input_output import resized
from pipelines.engine.blocks import BlockWork, StageWork
from pipelines.sources.base import Source, read_checked
from schemas.errors import InputError, is_out_of_memory
from schemas.index import REMOVED
from schemas.store.reasons import Reason, Status
from transforms.images.preprocess import cropped, decode
from transforms.images.quarantine import Quarantine

T = TypeVar("T")
Views = tuple["View", ...]
Images = tuple[NDArray[np.uint8], ...]

#: What unreadable and removed rows hold in a batch, so that the others keep their places.
FILLER = 128


@dataclass(frozen=True)
class View:
    """How a model wants to see an image, after the crop.

    size : (height, width) in pixels. resize : "antialias", "bilinear", "bicubic" or "nearest".
    """

    size: tuple[int, int]
    resize: str = "antialias"

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A cropped image uint8 (h, w, 3) -> (*size, 3)."""
        return resized(image[None], self.size, self.resize)[0]


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of consecutive rows of a block, or of a part of one.

    start : offset of the first row among the work's.
    views : view -> uint8 (batch_size, *size, 3); after ``count`` rows the last one is repeated.
    status, reason : uint8 (count,); rows that are not OK hold grey.
    """

    start: int
    count: int
    views: Mapping[View, NDArray[np.uint8]]
    status: NDArray[np.uint8]
    reason: NDArray[np.uint8]

    @property
    def images(self) -> NDArray[np.uint8]:
        """The only view, or the first of several."""
        return next(iter(self.views.values()))

    @property
    def rows(self) -> slice:
        """Offsets of the rows among the work's."""
        return slice(self.start, self.start + self.count)


class BlockImages:
    """Reads, checks, decodes and fits a block's images in threads, one batch ahead.

    size : (height, width) in pixels of the generator's images, whose aspect ratio crops have.

    A bad image is a reason in its row and nothing more. Batches begin at the block's first row (a
    part has whole batches of it) and have exactly ``batch_size`` images whatever they hold, so that
    a row's place in its batch, and with it every bit of its result, depends on nothing but its
    place in the block.
    """

    def __init__(
        self,
        source: Source,
        size: tuple[int, int],
        crop: str,
        max_pixels: int,
        threads: int = 1,
    ) -> None:
        self.source = source
        self.size = size
        self.views: Views = (View(size),)
        self.crop = crop
        self.max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="decode")
        self._failing: dict[bytes, bool] = {}

    def image(self, work: BlockWork, offset: int) -> tuple[NDArray[np.uint8] | None, Reason]:
        """The image of one row, uint8 (*size, 3), or why there is none."""
        images, reason = self._look(work.image_ids[offset], work.uris[offset], self.views)
        return (images[0] if images else None), reason

    def _look(self, image_id: str, uri: str, views: Views) -> tuple[Images, Reason]:
        """The views of one row's image, which is decoded once; none, and why not."""
        try:
            data = read_checked(self.source, uri, image_id)
            image = cropped(decode(data, self.max_pixels), self.crop, self.size)
            return tuple(view.of(image) for view in views), Reason.NONE
        except Quarantine as e:
            return (), e.reason
        except InputError:  # a uri that no dataset of this kind gives, or that leaves its root
            return (), Reason.UNSUPPORTED
        except MemoryError:
            return (), Reason.OUT_OF_MEMORY

    def still_failing(self, work: StageWork) -> bool:
        """Whether all rows that the stage would try again still cannot be read, as before. Asked
        once for all parts of a block."""
        if not work.retry:
            return False
        if work.fp not in self._failing:
            now = self._pool.map(lambda row: self._look(row[0], row[1], self.views)[1], work.retry)
            before = [reason for *_, reason in work.retry]
            self._failing[work.fp] = all(a == b for a, b in zip(now, before, strict=True))
        return self._failing[work.fp]

    def batches(
        self, work: BlockWork, batch_size: int, views: Views | None = None
    ) -> Iterator[Batch]:
        """All rows of the work in batches, in order; by default at the given size."""
        views = self.views if views is None else views
        starts = range(0, len(work), batch_size)
        ahead = self._submit(work, starts[0], batch_size, views) if starts else []
        for start in starts:
            current, following = ahead, start + batch_size
            more = following < len(work)
            ahead = self._submit(work, following, batch_size, views) if more else []
            yield self._batch(start, current, batch_size, views)

    def _submit(
        self, work: BlockWork, start: int, batch_size: int, views: Views
    ) -> list[Future[tuple[Images, Reason]] | None]:
        return [
            None
            if work.states[i] == REMOVED
            else self._pool.submit(self._look, work.image_ids[i], work.uris[i], views)
            for i in range(start, min(start + batch_size, len(work)))
        ]

    def _batch(
        self,
        start: int,
        pending: Sequence[Future[tuple[Images, Reason]] | None],
        batch_size: int,
        views: Views,
    ) -> Batch:
        count = len(pending)
        sheets = {view: np.full((batch_size, *view.size, 3), FILLER, np.uint8) for view in views}
        status = np.full(count, Status.OK, np.uint8)
        reason = np.zeros(count, np.uint8)
        for i, future in enumerate(pending):
            if future is None:
                status[i] = Status.REMOVED
                continue
            images, why = future.result()
            if not images:
                status[i], reason[i] = Status.QUARANTINED, why
            for sheet, image in zip(sheets.values(), images, strict=False):
                sheet[i] = image
        for sheet in sheets.values():
            sheet[count:] = sheet[count - 1]
        return Batch(start, count, sheets, status, reason)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def set_aside(work: BlockWork, batch: Batch) -> None:
    """Quarantine the rows of a batch that have no class, where the generator has classes, or no
    entry, where the method looks rows up."""
    for numbers, why in ((work.labels, Reason.NO_LABEL), (work.entries, Reason.NO_CODE)):
        if numbers is not None:
            lost = (np.asarray(numbers[batch.rows]) < 0) & (batch.status == Status.OK)
            batch.status[lost], batch.reason[lost] = Status.QUARANTINED, why


def padded(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """``rows`` (n, ...) with the last one repeated up to ``size`` rows; n is at least 1."""
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])


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
