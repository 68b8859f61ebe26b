"""Where analyses read their rows from: a latent store, with factors and labels joined by row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from schemas.errors import UsageError
from schemas.fingerprint import digest
from schemas.store.handle import open_array
from schemas.store.latent_store import LatentStore
from schemas.store.rows import in_runs
from transforms.accumulate.blocks import DEFAULT_BLOCK_ROWS, Arrays, BlockSource, flatten_rows
from transforms.accumulate.landmarks import points_of_landmarks


@dataclass(frozen=True)
class StoreBlocks:
    """Blocks of a latent store: the rows that are OK in all of `stages`. Only the path travels.

    path : the store;  arrays : "<group>/<name>";  stages : those that write the arrays
    layers : the layers to read of arrays that have a layer axis, as (start, stop); default all
    expected : stage -> hexadecimal commit of every block; blocks committed with another
        fingerprint count as pending. Default: whatever is committed.
    unread : of `arrays`, those that what is read depends on, but that are not read themselves
    """

    path: str
    arrays: tuple[str, ...]
    stages: tuple[str, ...]
    layers: tuple[int, int] | None = None
    expected: Mapping[str, tuple[str, ...]] | None = None
    unread: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.arrays or not self.stages:
            raise UsageError("no arrays or no stages given: name what to read and who writes it")
        if self.layers is not None and not 0 <= self.layers[0] < self.layers[1]:
            raise UsageError(f"layers is {self.layers!r}: give (start, stop) with start < stop")

    @cached_property
    def _store(self) -> LatentStore:
        return LatentStore.open(self.path)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_store", "_contents")}

    @cached_property
    def _contents(self) -> dict[str, list[str]]:
        return {stage: self._store.contents(stage) for stage in self.stages}

    @cached_property
    def key(self) -> str:
        """The store's path, what is read of it, and what every block holds."""
        return digest([self.path, self.part_key(range(self.n_blocks))])

    def part_key(self, blocks: range) -> str:
        """The store, what is read of it, and what these blocks hold."""
        part = slice(blocks.start, blocks.stop)
        return digest(
            {
                "store": self._store.store_fp,
                "arrays": list(self.arrays),
                "layers": list(self.layers) if self.layers else None,
                "expected": {k: list(v[part]) for k, v in (self.expected or {}).items()},
                "contents": {stage: held[part] for stage, held in self._contents.items()},
            }
        )

    def row_range(self, blocks: range) -> slice:
        """Row numbers that these blocks can hold."""
        start = self._store.block_slice(blocks.start).start
        return slice(start, self._store.block_slice(blocks.stop - 1).stop)

    @property
    def n_rows(self) -> int:
        """Rows of the store, OK or not."""
        return self._store.n_rows

    @property
    def n_blocks(self) -> int:
        """Blocks of the store, committed or not."""
        return self._store.n_blocks

    def _expected(self, block: int) -> dict[str, bytes] | None:
        if self.expected is None:
            return None
        return {stage: bytes.fromhex(fps[block]) for stage, fps in self.expected.items()}

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Row numbers and arrays of the block's OK rows."""
        layers = None if self.layers is None else slice(*self.layers)
        arrays = [array for array in self.arrays if array not in self.unread]
        rows = self._store.ok_rows(
            arrays, block, self.stages, fps=self._expected(block), layers=layers
        )
        return rows.rows, rows.arrays

    def rows_of(self, block: int) -> np.ndarray:
        """Row numbers of the block's OK rows, int64, ascending."""
        return self._store.ok_rows((), block, self.stages, fps=self._expected(block)).rows

    def ok_rows(self) -> np.ndarray:
        """Row numbers of all rows that are read, int64, ascending."""
        found = [self.rows_of(block) for block in range(self.n_blocks)]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def left_out(self) -> dict[str, int]:
        """Rows that analyses do not see, by cause, over all blocks."""
        total: dict[str, int] = {}
        for block in range(self.n_blocks):
            found = self._store.ok_rows((), block, self.stages, fps=self._expected(block))
            for cause, count in found.left_out.items():
                total[cause] = total.get(cause, 0) + count
        return total


@dataclass(frozen=True)
class ZarrBlocks:
    """Plain Zarr arrays (n, ...) cut into blocks; only the paths travel to workers.

    paths : name for the analysis -> absolute path or URL of an array that does not change meanwhile
    block_rows : best a multiple of the arrays' chunk
    """

    paths: Mapping[str, str]
    block_rows: int = DEFAULT_BLOCK_ROWS

    def __post_init__(self) -> None:
        lengths = {name: array.shape[0] for name, array in self._arrays.items()}
        if len(set(lengths.values())) != 1 or self.block_rows < 1:
            raise UsageError(
                f"arrays have {lengths!r} rows and block_rows is {self.block_rows!r}: give at "
                "least one array, equal lengths, and at least 1"
            )

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        return {name: open_array(path) for name, path in self.paths.items()}

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_arrays"}

    @cached_property
    def key(self) -> str:
        """Paths, shapes and types."""
        arrays = {n: [str(a.store), list(a.shape), str(a.dtype)] for n, a in self._arrays.items()}
        return digest({"zarr": arrays, "paths": dict(self.paths), "block_rows": self.block_rows})

    @property
    def n_rows(self) -> int:
        """Rows in all blocks."""
        return int(next(iter(self._arrays.values())).shape[0])

    @property
    def n_blocks(self) -> int:
        """Number of blocks, the last one possibly short."""
        return -(-self.n_rows // self.block_rows)

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Rows ``block * block_rows`` onward, read into memory."""
        start = block * self.block_rows
        stop = min(start + self.block_rows, self.n_rows)
        arrays = {name: np.asarray(array[start:stop]) for name, array in self._arrays.items()}
        return np.arange(start, stop), arrays


@dataclass(frozen=True)
class SelectBlocks:
    """A source seen by an analysis: arrays renamed, columns joined by row number, rows chosen.

    arrays : name for the analysis ('x', 'points') -> array of the source
    columns : name -> array (n_rows of the whole dataset, ...): labels, cells, targets; or a
        `transforms.accumulate.spilled.StoredColumn`
    where : bool (n_rows,), rows to use; default all
    landmarks : names of arrays (m, L, 2), y down, to be turned into points (m, 2, L), y up
    """

    source: BlockSource
    arrays: Mapping[str, str]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    where: np.ndarray | None = None
    landmarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        twice = sorted(set(self.arrays) & set(self.columns))
        if twice:
            raise UsageError(f"names {twice!r} are both an array's and a column's: rename one")
        lengths = {len(column) for column in self.columns.values()}
        lengths |= set() if self.where is None else {len(self.where)}
        if len(lengths) > 1:
            raise UsageError(f"columns have {sorted(lengths)!r} rows: give one value a row")

    @cached_property
    def key(self) -> str:
        """The source's key and what is made of it."""
        parts: dict[str, object] = {
            "source": self.source.key,
            "arrays": dict(self.arrays),
            "landmarks": list(self.landmarks),
        }
        return digest(parts | self._joined(slice(None)))

    def part_key(self, blocks: range) -> str:
        """The source's, and what is made of these blocks; of a `StoreBlocks` only."""
        parts: dict[str, object] = {
            "source": self.source.part_key(blocks),  # type: ignore[attr-defined]
            "arrays": dict(self.arrays),
            "landmarks": list(self.landmarks),
        }
        rows: slice = self.source.row_range(blocks)  # type: ignore[attr-defined]
        return digest(parts | self._joined(rows))

    def _joined(self, rows: slice) -> dict[str, object]:
        parts: dict[str, object] = {}
        for name, column in [*self.columns.items(), ("where", self.where)]:
            if column is not None:
                array = np.ascontiguousarray(column[rows])
                content = hashlib.sha256(array.tobytes()).hexdigest()
                parts[f"column:{name}"] = [str(array.dtype), list(array.shape), content]
        return parts

    @property
    def n_blocks(self) -> int:
        """Blocks of the source."""
        return self.source.n_blocks

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Row numbers and arrays of the block's chosen rows."""
        rows, found = self.source.read(block)
        if self.where is not None:
            chosen = np.asarray(self.where, bool)[rows]
            if not chosen.all():
                rows = rows[chosen]
                found = {name: array[chosen] for name, array in found.items()}
        arrays = {name: found[array] for name, array in self.arrays.items()}
        for name in self.landmarks:
            arrays[name] = points_of_landmarks(arrays[name])
        return rows, arrays | {name: column[rows] for name, column in self.columns.items()}


@dataclass(frozen=True)
class ColumnBlocks:
    """Some of the features of array `x`, flattened to (m, stop - start): a slab of a source."""

    source: BlockSource
    start: int
    stop: int

    @property
    def key(self) -> str:
        """The source's key and the range."""
        return f"{self.source.key}[{self.start}:{self.stop}]"

    def part_key(self, blocks: range) -> str:
        """The source's and the range."""
        own: str = self.source.part_key(blocks)  # type: ignore[attr-defined]
        return digest([own, self.start, self.stop])

    @property
    def n_blocks(self) -> int:
        """Blocks of the source."""
        return self.source.n_blocks

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """As the source's, with `x` cut to the range."""
        rows, arrays = self.source.read(block)
        flat = flatten_rows(arrays["x"])
        return rows, arrays | {"x": flat[:, self.start : self.stop]}


def ok_rows(store: LatentStore) -> np.ndarray:
    """Row numbers that inversion finished, int64, ascending."""
    parts = [store.ok_rows([], block, ["invert"]).rows for block in range(store.n_blocks)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def codes_of(store: LatentStore, space: str, rows: np.ndarray) -> np.ndarray:
    """Codes float32 (m, *row_shape) of the given rows, in their order; NaN where there is none."""
    array = store.array(f"latents/{space}")
    return in_runs(lambda run: np.asarray(array[run]), rows)
