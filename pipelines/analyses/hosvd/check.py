"""What 'analyse.hosvd' asks for and the data cannot give; the cells that it declares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.analyses.base import Known
from pipelines.analyses.checks import (
    Columns,
    Problems,
    active_rows,
    factor_problems,
    level_code,
    level_problems,
)
from schemas.errors import DataError
from schemas.sections.hosvd import HosvdSpec
from schemas.sections.types import level_named
from schemas.suggest import suggestion
from transforms.accumulate.factor_cells import CellGrid, grid_cells, too_many_ranks


def tensor_grid(index: Columns, own: HosvdSpec) -> CellGrid:
    """The cells of the declared tensor. Raises DataError when no row is in any."""
    modes, where = own.mode_names, active_rows(index).copy()
    for factor, levels in own.where.items():
        allowed = [level_code(index, factor, level) for level in levels]
        where &= np.isin(index.categorical(factor)[0], allowed)
    codes_of = {n: index.categorical(n)[0] for mode in modes for n in mode}
    return grid_cells(modes, codes_of, where)


def hosvd_problems(known: Known, own: HosvdSpec) -> Problems:
    """Factors and levels that are not there, missing cells, more ranks or folds than levels."""
    key, index = "analyse.hosvd", known.index
    wrong = list(factor_problems(f"{key}.modes", [n for m in own.mode_names for n in m], index))
    for factor, levels in own.where.items():
        unknown = list(factor_problems(f"{key}.where", [factor], index))
        absent = () if unknown else level_problems(f"{key}.where", factor, levels, index)
        wrong += [*unknown, *absent]
    if own.stacked and not known.layered(known.space(own)):
        wrong.append(
            f"'{key}.stacked' decomposes layers separately, and codes of {known.space(own)!r} have "
            "none: leave it out, or invert into 'w_plus'"
        )
    if wrong:
        yield from wrong
        return
    try:
        grid = tensor_grid(index, own)
    except DataError:
        yield (
            f"'{key}.modes' and 'where' leave no row that has a level of every factor in "
            f"{own.modes!r}: name fewer factors, or more levels under 'where'"
        )
        return
    yield from pair_problems(index, grid, own)
    filled = grid.filled
    yield from cell_problems(index, grid, filled, own.missing)
    n_first = grid.shape[0]
    if own.missing == "drop_person":
        n_first = int(_complete_levels(grid, filled).sum())
        if n_first < 2:
            return  # told with the cells
    if own.folds:
        fit = [f for f in range(2, n_first + 1) if n_first - -(-n_first // f) >= 2]
        if own.folds not in fit:
            cure = f"{fit[0]!r} to {fit[-1]!r}, or 0 for none" if fit else "0"
            yield (
                f"'{key}.folds' is {own.folds!r} for {n_first!r} levels of the first mode, of "
                f"which 2 or more must stay in each model: give {cure}"
            )
            return
        n_first -= -(-n_first // own.folds)
    if own.missing == "complete" and (len(filled) < grid.n_cells or own.repeats == "weighted"):
        too_many = too_many_ranks(own.ranks, len(filled))
        if too_many is not None:
            yield f"'{key}.missing' is 'complete', and {too_many}"
    for i, rank in enumerate(own.ranks or ()):
        n = n_first if i == 0 else grid.shape[i]
        if rank is not None and rank > n:
            folds = " outside a fold" if i == 0 and own.folds else ""
            yield (
                f"'{key}.ranks' has {rank!r} for mode {'/'.join(grid.modes[i])!r}, which has "
                f"{n!r} levels{folds}: give at most {n!r}, or null to leave it to 'energy'"
            )


def pair_problems(index: Columns, grid: CellGrid, own: HosvdSpec) -> Problems:
    """Pairs of levels of which the tensor lacks one, or that are one level twice."""
    for factor, pairs in own.pairs.items():
        mode = next(i for i, names in enumerate(grid.modes) if factor in names)
        codes = grid.levels[mode][:, grid.modes[mode].index(factor)]
        categories = index.categorical(factor)[1]
        there = [categories[code] for code in np.unique(codes).tolist()]
        for first, second in pairs:
            if first == second:
                yield f"'analyse.hosvd.pairs' pairs level {first!r} with itself: name two levels"
        for level in dict.fromkeys(level for pair in pairs for level in pair):
            if level_named(level, categories) not in there:
                yield (
                    f"'analyse.hosvd.pairs' names level {level!r} of factor {factor!r}, which is "
                    f"without cells in the tensor: {suggestion(level, there)}"
                )


def cell_problems(
    index: Columns, grid: CellGrid, filled: NDArray[np.int64], missing: str
) -> Problems:
    """Cells that no row is in, where these are not asked to be completed.

    filled : the cells that have a row, ascending
    """
    empty = grid.n_cells - len(filled)
    if not empty or missing == "complete":
        return
    complete = int(_complete_levels(grid, filled).sum())
    first, of_levels = "/".join(grid.modes[0]), f"{complete} of {grid.shape[0]} levels"
    if missing == "error":
        drop = (
            f", or to 'drop_person', which keeps {of_levels} of {first!r}" if complete > 1 else ""
        )
        gap = np.flatnonzero(filled != np.arange(len(filled)))
        at = np.unravel_index(int(gap[0]) if len(gap) else len(filled), grid.shape)
        names = {n: index.categorical(n)[1] for mode in grid.modes for n in mode}
        example = [grid.level_names(i, names)[int(level)] for i, level in enumerate(at)]
        yield (
            f"'analyse.hosvd.missing' is 'error', but {empty!r} of {grid.n_cells!r} cells have no "
            f"row, the first {example!r}: set it to 'complete'{drop}; or choose levels that have "
            "all under 'where'"
        )
    elif complete < 2:
        yield (
            f"'analyse.hosvd.missing' is 'drop_person', but {of_levels} of {first!r} have every "
            "cell and 2 are needed: set it to 'complete', or choose fewer levels of the other "
            "modes under 'where'"
        )


def _complete_levels(grid: CellGrid, filled: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Levels of the first mode that have every cell."""
    rest = grid.n_cells // grid.shape[0]
    return np.bincount(filled // rest, minlength=grid.shape[0]) == rest
