"""Cells: rows that share the levels of declared factors, and the sums over each cell.

A *mode* is a factor, or a composite of several (a list); its levels are the combinations of
codes that occur. A cell is one level of every mode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import (
    Arrays,
    BlockSource,
    flatten_rows,
    statistic_kind,
    sum_blocks,
)

Mode = str | Sequence[str]


@dataclass(frozen=True)
class CellGrid:
    """How rows fall into cells.

    modes : for each mode, its factors' names
    levels : for each mode, int64 (I, number of factors): the codes of each level, ascending
    cells : int64 (n,), cell of each row in C order over `shape`; -1 = not in any cell
    """

    modes: list[tuple[str, ...]]
    levels: list[np.ndarray]
    cells: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of levels of each mode."""
        return tuple(len(level) for level in self.levels)

    @property
    def n_cells(self) -> int:
        """Number of cells, present or not."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def filled(self) -> np.ndarray:
        """int64: the cells that have a row, ascending."""
        cells = np.sort(self.cells[self.cells >= 0])  # np.unique would import numpy.ma
        return cells[np.diff(cells, prepend=-1) > 0]

    def mode_index(self, mode: Mode) -> int:
        """Position of a mode, by its factor or factors."""
        names = (mode,) if isinstance(mode, str) else tuple(mode)
        if names not in self.modes:
            raise UsageError(f"mode {names!r} is not one of {self.modes!r}: name one of these")
        return self.modes.index(names)

    def drop_incomplete(self, counts: np.ndarray) -> CellGrid:
        """The grid without the levels of the first mode that lack a cell.

        counts : int (n_cells,), rows of each cell. Raises DataError when fewer than 2 levels stay.
        """
        table = np.asarray(counts).reshape(len(self.levels[0]), -1)
        kept = np.all(table > 0, axis=1)
        if kept.sum() < 2:
            raise DataError(
                f"{int(kept.sum())!r} levels of {self.modes[0]!r} have every cell: complete the "
                "tensor instead, or declare fewer levels"
            )
        return self.keep_first(kept)

    def keep_first(self, kept: np.ndarray) -> CellGrid:
        """The grid with some levels of the first mode only, bool (I_1,)."""
        n_rest = self.n_cells // len(self.levels[0])
        level, rest = np.divmod(self.cells, n_rest)
        position = np.where(kept, np.cumsum(kept) - 1, -1)
        moved = np.where(self.cells >= 0, position[level], -1)
        cells = np.where(moved >= 0, moved * n_rest + rest, -1)
        return CellGrid(self.modes, [self.levels[0][kept], *self.levels[1:]], cells)

    def level_names(
        self, mode: int, categories: Mapping[str, Sequence[str]] | None = None
    ) -> list[str]:
        """Names of a mode's levels, such as 'happy' or 'happy/3'; codes where none are given."""
        categories = categories or {}
        return [
            "/".join(
                str(categories[name][code]) if name in categories else str(code)
                for name, code in zip(self.modes[mode], codes, strict=True)
            )
            for codes in self.levels[mode].tolist()
        ]


MOST_PARAMETERS = 2048


def most_parameters(n_cells: int) -> int:
    """Most parameters a coordinate of a tensor model that completes `n_cells` present cells."""
    return max(min(MOST_PARAMETERS, n_cells // 2), 1)


def too_many_ranks(ranks: Sequence[int | None] | None, n_cells: int) -> str | None:
    """Why ranks that are given are too many to complete `n_cells` present cells, else None."""
    given = math.prod(1 if rank is None else rank for rank in ranks or ())
    most = most_parameters(n_cells)
    if given <= most:
        return None
    return (
        f"ranks {list(ranks or ())!r} are {given!r} parameters a coordinate, and {n_cells!r} "
        f"present cells tell at most {most!r}: give ranks of a smaller product, or null for those "
        "that 'energy' decides"
    )


def grid_cells(
    modes: Sequence[Mode],
    factors: Mapping[str, np.ndarray],
    where: np.ndarray | None = None,
) -> CellGrid:
    """Assign rows to cells.

    modes : factor names; a list of names is one composite mode
    factors : name -> integer codes (n,), negative = missing
    where : bool (n,), rows to use; default all

    Rows with a missing code in any declared factor are in no cell. Raises UsageError for an
    unknown factor or one used twice, DataError when no row is left.
    """
    named = [(m,) if isinstance(m, str) else tuple(m) for m in modes]
    flat = [name for names in named for name in names]
    if not flat:
        raise UsageError("no modes given: name at least one factor")
    for name in flat:
        if name not in factors:
            raise UsageError(f"factor {name!r} is not one of {sorted(factors)!r}: correct the mode")
        if flat.count(name) > 1:
            raise UsageError(f"factor {name!r} is twice in {named!r}: keep one")
    codes = {name: np.asarray(factors[name]) for name in flat}
    for name, values in codes.items():
        if not np.issubdtype(values.dtype, np.integer):
            raise UsageError(
                f"factor {name!r} has type {values.dtype!r}: modes need categorical factors"
            )
    n_rows = len(next(iter(codes.values())))
    present = np.ones(n_rows, bool) if where is None else np.array(where, bool)
    for values in codes.values():
        present &= values >= 0
    if not present.any():
        raise DataError(
            f"no row has a level of every factor in {flat!r}: check `where` and the factor columns"
        )
    levels, index = [], np.zeros(int(present.sum()), np.int64)
    for names in named:
        level, inverse = _combinations([codes[name][present] for name in names])
        levels.append(level)
        index = index * len(level) + inverse
    cells = np.full(n_rows, -1, np.int64)
    cells[present] = index
    return CellGrid(named, levels, cells)


def _combinations(codes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(the combinations of codes that occur, int64 (I, factors), ascending; of each row its own).

    One sort of whole numbers a factor: np.unique over rows takes seconds for a million.
    """
    levels, inverse = np.zeros((1, 0), np.int64), np.zeros(len(codes[0]), np.int64)
    for column in codes:
        own, at = np.unique(column.astype(np.int64), return_inverse=True)
        pairs, inverse = np.unique(inverse * len(own) + at, return_inverse=True)
        before, last = np.divmod(pairs, len(own))
        levels = np.column_stack([levels[before], own[last]])
    return levels, inverse


@statistic_kind("CellSums")
@dataclass(frozen=True)
class CellSums:
    """Rows and sums of rows for every cell that has any.

    cells : int64 (c,) ascending;  counts : int64 (c,);  sums : float64 (c, D)
    """

    cells: np.ndarray
    counts: np.ndarray
    sums: np.ndarray

    @classmethod
    def zero(cls, n_features: int) -> Self:
        """No cell at all."""
        none = np.zeros(0, np.int64)
        return cls(none, none, np.zeros((0, n_features)))

    @classmethod
    def of(cls, x: np.ndarray, cells: np.ndarray) -> Self:
        """Sums of rows x (m, D) by their cell (m,); rows in cell -1 are left out."""
        if x.ndim != 2 or len(x) != len(cells):
            raise UsageError(
                f"rows {x.shape!r} and cells {cells.shape!r} do not fit: give (m, D) and (m,)"
            )
        order = np.argsort(cells, kind="stable")
        order = order[cells[order] >= 0]
        if not len(order):
            return cls.zero(x.shape[1])
        found, starts, counts = np.unique(cells[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(x[order].astype(np.float64), starts, axis=0)
        return cls(found.astype(np.int64), counts.astype(np.int64), sums)

    def add(self, x: np.ndarray, cells: np.ndarray) -> Self:
        """Sums of these rows and the rows x (m, D) in cells (m,)."""
        return self.merge(type(self).of(x, cells))

    def merge(self, other: Self) -> Self:
        """Sums over both sets of rows."""
        if self.sums.shape[1] != other.sums.shape[1]:
            raise UsageError(
                f"cannot merge sums of {self.sums.shape[1]!r} and {other.sums.shape[1]!r} "
                "features: accumulate one array"
            )
        cells = np.union1d(self.cells, other.cells)
        counts = np.zeros(len(cells), np.int64)
        sums = np.zeros((len(cells), self.sums.shape[1]))
        for part in (self, other):
            at = np.searchsorted(cells, part.cells)
            counts[at] += part.counts
            sums[at] += part.sums
        return type(self)(cells, counts, sums)

    def to_arrays(self) -> Arrays:
        """cells, counts, sums."""
        return {"cells": self.cells, "counts": self.counts, "sums": self.sums}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`."""
        return cls(arrays["cells"], arrays["counts"], arrays["sums"])

    def means(self) -> np.ndarray:
        """Mean of each present cell, float64 (c, D)."""
        means = self.sums / self.counts[:, None]
        if not np.isfinite(means).all():
            bad = self.cells[~np.isfinite(means).all(axis=1)][:5].tolist()
            raise DataError(f"cells {bad!r} hold NaN or infinite rows: leave these rows out")
        return means

    def dense(self, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
        """(means (n_cells, D) with NaN in absent cells, counts int64 (n_cells,))."""
        means = np.full((n_cells, self.sums.shape[1]), np.nan)
        counts = np.zeros(n_cells, np.int64)
        means[self.cells] = self.means()
        counts[self.cells] = self.counts
        return means, counts


def sum_cells(source: BlockSource, x: str = "x", cells: str = "cells") -> CellSums:
    """Cell sums over all blocks of the source; array `x` is flattened to (m, D)."""

    def statistic(block: int) -> CellSums:
        arrays = source.read(block)[1]
        return CellSums.of(flatten_rows(arrays[x]), arrays[cells])

    return sum_blocks(source.n_blocks, statistic)
