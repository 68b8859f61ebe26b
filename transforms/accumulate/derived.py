"""Codes of another space than the stored one, made block by block where they are read.

A single pass makes a block's codes and forgets them. What reads its source again and again is given
a scratch folder, in which every block is kept once it has been made: whoever wants it next, in this
process or another, for this analysis or another, reads the file. A file is there in whole or not at
all, and holds what would be made again, so that it does not matter who made it or what was killed
meanwhile; whoever names the folder deletes it. It has a folder of its own for each change.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from schemas.atomic import replacing
from schemas.fingerprint import digest
from transforms.accumulate.blocks import Arrays
from transforms.accumulate.spilled import rebuilt

T = TypeVar("T")


class Change(Protocol):
    """Makes codes of one space from codes of another; small and picklable."""

    @property
    def key(self) -> str:
        """What the result depends on beside what the source's blocks hold."""

    def __call__(self, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Codes (m, *shape) of rows (m,) -> codes (m, *shape of the other space), each row by
        itself."""


class PartSource(Protocol):
    """A source that can tell what some of its blocks hold, such as `StoreBlocks`."""

    @property
    def key(self) -> str: ...

    @property
    def n_blocks(self) -> int: ...

    def part_key(self, blocks: range) -> str: ...

    def row_range(self, blocks: range) -> slice: ...

    def read(self, block: int) -> tuple[np.ndarray, Arrays]: ...


class WholeSource(PartSource, Protocol):
    """One that can tell which rows a block has without reading them."""

    def rows_of(self, block: int) -> np.ndarray: ...


@dataclass(frozen=True)
class DerivedBlocks:
    """A source with one array more, made of one that it has.

    stored, made : names of the two
    whole : source of the stored array alone, with every row that it has: what is kept of a block is
        of these, so that it serves sources of other rows too, and `source` need not read the array.
        Default: `source`
    scratch : folder that keeps what was made, None for none; see `with_scratch`
    """

    source: PartSource
    stored: str
    made: str
    change: Change
    whole: WholeSource | None = None
    scratch: str | None = None

    @property
    def key(self) -> str:
        """The source's key, and what is made of it."""
        return digest([self.source.key, self.stored, self.made, self.change.key])

    def part_key(self, blocks: range) -> str:
        """The source's, and what is made of these blocks."""
        return digest([self.source.part_key(blocks), self.stored, self.made, self.change.key])

    def row_range(self, blocks: range) -> slice:
        """Row numbers that these blocks can hold."""
        return self.source.row_range(blocks)

    @property
    def n_blocks(self) -> int:
        """Blocks of the source."""
        return self.source.n_blocks

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Row numbers and arrays of the block, the made one among them."""
        rows, arrays = self.source.read(block)

        def stored() -> tuple[np.ndarray, np.ndarray]:
            """Every row of the block and what it has stored."""
            if self.whole is None:
                return rows, arrays[self.stored]
            every, held = self.whole.read(block)
            return every, held[self.stored]

        return rows, arrays | {self.made: self._codes(block, rows, stored)}

    def _codes(
        self, block: int, rows: np.ndarray, stored: Callable[[], tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        if self.scratch is None:
            every, codes = stored()
            chosen = slice(None) if len(every) == len(rows) else np.searchsorted(every, rows)
            return self.change(codes[chosen], rows)
        whole = self.source if self.whole is None else self.whole
        held = [whole.part_key(range(block, block + 1)), self.stored]
        path = Path(self.scratch, folder_of(self.change.key), f"{digest(held)[:32]}.npy")
        try:
            made = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            every = rows if self.whole is None else self.whole.rows_of(block)
        except FileNotFoundError:
            every, codes = stored()
            made = self.change(codes, every)
            with replacing(path, durable=False) as file:
                np.save(file, made, allow_pickle=False)
        return made if len(every) == len(rows) else made[np.searchsorted(every, rows)]


def folder_of(change_key: str) -> str:
    """The folder, in a scratch folder, of what one change made."""
    return digest(change_key)[:32]


@dataclass(frozen=True)
class PartsOfBlocks:
    """A source whose blocks are cut into parts, each a block of its own: of what is made of a part
    there is less at a time.

    rows : row numbers of a part.  parts : of each block
    """

    source: WholeSource
    rows: int
    parts: int

    @property
    def key(self) -> str:
        """The source's key and the cut."""
        return digest([self.source.key, self.rows, self.parts])

    def part_key(self, blocks: range) -> str:
        """The source's, and which parts of its blocks these are."""
        first, last = blocks.start // self.parts, (blocks.stop - 1) // self.parts
        within = [block - first * self.parts for block in (blocks.start, blocks.stop)]
        return digest([self.source.part_key(range(first, last + 1)), self.rows, within])

    def row_range(self, blocks: range) -> slice:
        """Row numbers that these parts can hold."""
        return slice(self._rows(blocks.start).start, self._rows(blocks.stop - 1).stop)

    def _rows(self, block: int) -> slice:
        whole, part = divmod(block, self.parts)
        rows = self.source.row_range(range(whole, whole + 1))
        starts = (rows.start + at * self.rows for at in (part, part + 1))
        return slice(*(min(start, rows.stop) for start in starts))

    def rows_of(self, block: int) -> np.ndarray:
        """Row numbers of the part."""
        rows = self.source.rows_of(block // self.parts)
        return rows[self._within(block, rows)]

    def _within(self, block: int, rows: np.ndarray) -> slice:
        """Where those of a part stand among all rows of its block."""
        own = self._rows(block)
        return slice(*np.searchsorted(rows, (own.start, own.stop)))

    @property
    def n_blocks(self) -> int:
        """Parts of all blocks of the source."""
        return self.source.n_blocks * self.parts

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Row numbers and arrays of the part."""
        rows, arrays = self.source.read(block // self.parts)
        part = self._within(block, rows)
        return rows[part], {name: array[part] for name, array in arrays.items()}


@dataclass(frozen=True)
class LayersOf:
    """A source with some layers only of some of its arrays (m, layers, ...).

    arrays : their names.  layers : (start, stop)
    """

    source: PartSource
    arrays: tuple[str, ...]
    layers: tuple[int, int]

    @property
    def key(self) -> str:
        """The source's key and the layers."""
        return digest([self.source.key, list(self.arrays), list(self.layers)])

    def part_key(self, blocks: range) -> str:
        """The source's and the layers."""
        return digest([self.source.part_key(blocks), list(self.arrays), list(self.layers)])

    def row_range(self, blocks: range) -> slice:
        """Row numbers that these blocks can hold."""
        return self.source.row_range(blocks)

    @property
    def n_blocks(self) -> int:
        """Blocks of the source."""
        return self.source.n_blocks

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Row numbers and arrays of the block, some of them cut."""
        rows, arrays = self.source.read(block)
        part = slice(*self.layers)
        return rows, arrays | {name: np.array(arrays[name][:, part]) for name in self.arrays}


def with_scratch(
    source: T, folder: str | os.PathLike[str], keeps: Callable[[str], bool] = lambda key: True
) -> T:
    """A source of any make, whose `DerivedBlocks`, however deep, keep what they made in a folder.

    folder : one that all workers see; it need not exist.
    keeps : whether to keep what a change made, by its key
    """
    place = os.fspath(folder)

    def kept(value: Any) -> Any:
        if isinstance(value, DerivedBlocks) and keeps(value.change.key):
            return dataclasses.replace(value, scratch=place)
        return value

    found: T = rebuilt(source, kept)
    return found
