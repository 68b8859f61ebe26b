"""Rows of two sources that hold the same images, side by side."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from schemas.errors import UsageError
from schemas.fingerprint import digest
from transforms.accumulate.blocks import Arrays, BlockSource, flatten_rows

_KEPT_BLOCKS = 2


def pair_rows(old_ids: Sequence[str], new_ids: Sequence[str]) -> np.ndarray:
    """For every new row the old row of the same image, int64 (n_new,), -1 without one.

    The k-th row of an image that occurs several times is paired with its k-th old row.
    """
    waiting: dict[str, deque[int]] = defaultdict(deque)
    for row, image in enumerate(old_ids):
        waiting[image].append(row)
    found = [waiting[image].popleft() if waiting.get(image) else -1 for image in new_ids]
    return np.array(found, np.int64).reshape(-1)


def image_part(ids: Sequence[str], parts: int = 5, salt: str = "") -> np.ndarray:
    """A number from 0 to ``parts - 1`` for each image, int64 (n,), the same wherever it stands.

    For splits that depend neither on the order of rows nor on what else is in the data set; rows of
    one image fall on the same side.
    """
    numbers = [hashlib.sha256(f"{salt}{image}".encode()).digest()[:8] for image in ids]
    return np.array([int.from_bytes(n, "big") % parts for n in numbers], np.int64).reshape(-1)


@dataclass(frozen=True)
class PairedBlocks:
    """Codes of the old space as `x` (m, D) beside those of the new one as `targets` (m, D').

    old, new : sources with an array `x`; blocks are those of `new`
    old_block_rows : rows a block of `old`, to find a row's block by its number
    partner : int64 (rows of new,), the old row of each new row, -1 for none (`pair_rows`)
    where : bool (rows of new,), rows to use; default all

    Rows that either source lacks are left out. The names are those of
    `transforms.accumulate.requests.JointMoments`.
    """

    old: BlockSource
    new: BlockSource
    old_block_rows: int
    partner: np.ndarray
    where: np.ndarray | None = None
    _kept: dict[int, tuple[np.ndarray, Arrays]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.old_block_rows < 1:
            raise UsageError(f"old_block_rows is {self.old_block_rows!r}: give at least 1")
        if self.where is not None and len(self.where) != len(self.partner):
            raise UsageError(
                f"where has {len(self.where)!r} rows and partner {len(self.partner)!r}: give one "
                "value a row of the new source"
            )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": {}}

    @cached_property
    def key(self) -> str:
        """Both sources' keys, the pairing and the choice of rows."""
        columns = [self.partner, np.zeros(0) if self.where is None else self.where]
        contents = [hashlib.sha256(np.ascontiguousarray(c).tobytes()).hexdigest() for c in columns]
        return digest({"old": self.old.key, "new": self.new.key, "columns": contents})

    @property
    def n_blocks(self) -> int:
        """Blocks of the new source."""
        return self.new.n_blocks

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """New row numbers, x and targets of the block's pairs."""
        rows, arrays = self.new.read(block)
        partner = self.partner[rows]
        wanted = partner >= 0
        if self.where is not None:
            wanted &= np.asarray(self.where, bool)[rows]
        y = flatten_rows(arrays["x"])
        found = np.zeros(len(rows), bool)
        x: np.ndarray | None = None
        for number in np.unique(partner[wanted] // self.old_block_rows).tolist():
            old_rows, old_arrays = self._old(number)
            codes = flatten_rows(old_arrays["x"])
            if x is None:
                x = np.zeros((len(rows), codes.shape[1]), codes.dtype)
            here = wanted & (partner // self.old_block_rows == number)
            place = np.searchsorted(old_rows, partner)
            place = np.minimum(place, max(len(old_rows) - 1, 0))
            if len(old_rows):
                here &= old_rows[place] == partner
                x[here] = codes[place[here]]
                found |= here
        if x is None:
            x = np.zeros((len(rows), flatten_rows(self._old(0)[1]["x"]).shape[1]), y.dtype)
        return rows[found], {"x": x[found], "targets": y[found]}

    def _old(self, block: int) -> tuple[np.ndarray, Arrays]:
        if block not in self._kept:
            while len(self._kept) >= _KEPT_BLOCKS:
                del self._kept[next(iter(self._kept))]
            self._kept[block] = self.old.read(block)
        return self._kept[block]
