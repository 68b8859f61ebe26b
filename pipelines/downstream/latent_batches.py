"""Shuffled batches of a run's rows for torch, read a few blocks at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from schemas.errors import UsageError
from transforms.accumulate.blocks import Arrays, BlockSource

Batch = dict[str, torch.Tensor]


class LatentBatches(IterableDataset[Batch]):
    """Batches of the rows of a source, in an order that depends on seed and epoch only.

    source : `FinishedRun.blocks`, or any source of blocks; it holds paths and travels to workers.
    batch_size : rows of a batch; shorter ones end the windows, unless ``drop_last``.
    window : blocks that are read together and shuffled among each other. More of them mix rows
        better; memory holds twice their rows, in every worker.
    shuffle : False keeps the order of the store.

    Yields dicts: ``row`` int64 (m,), and the source's arrays and columns (m, ...), in their own
    types. Give the loader ``batch_size=None``, and any number of workers: every worker takes
    windows of its own, each block is read once an epoch, and the batches are the same ones
    whatever the number of workers is (only their order differs).

    Call `set_epoch` before each epoch for another order; workers that persist see it.

    Raises UsageError for a batch or window of no rows.
    """

    def __init__(
        self,
        source: BlockSource,
        batch_size: int,
        *,
        seed: int = 0,
        window: int = 4,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1 or window < 1:
            raise UsageError(
                f"batch_size is {batch_size!r} and window {window!r}: both must be at least 1"
            )
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.window = window
        self.shuffle = shuffle
        self.drop_last = drop_last
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration gives."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; workers share it."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch = self.epoch
        blocks = np.arange(self.source.n_blocks)
        if self.shuffle:
            blocks = np.random.default_rng([self.seed, epoch]).permutation(blocks)
        windows = range(0, len(blocks), self.window)
        for number, start in list(enumerate(windows))[first::step]:
            chosen = blocks[start : start + self.window]
            yield from self._batches(chosen, np.random.default_rng([self.seed, epoch, number]))

    def _batches(self, blocks: np.ndarray, rng: np.random.Generator) -> Iterator[Batch]:
        rows, arrays = self._read(blocks)
        order = rng.permutation(len(rows)) if self.shuffle else np.arange(len(rows))
        end = len(rows) - (len(rows) % self.batch_size if self.drop_last else 0)
        for start in range(0, end, self.batch_size):
            part = order[start : start + self.batch_size]
            values = {"row": rows, **arrays}
            yield {name: torch.from_numpy(value[part]) for name, value in values.items()}

    def _read(self, blocks: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """Row numbers and arrays of all the blocks' rows."""
        found = [self.source.read(int(block)) for block in blocks]
        rows = np.concatenate([rows for rows, _ in found]).astype(np.int64)
        names = found[0][1]
        return rows, {name: np.concatenate([arrays[name] for _, arrays in found]) for name in names}
