"""Directions as differences of group means, plain or paired, and their continuous counterpart.

Everything is solved from two additive statistics: sums per cell for categorical factors, joint
moments of rows and factor values for continuous ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import DEFAULT_BLOCK_ROWS, ArrayBlocks
from transforms.accumulate.factor_cells import CellGrid, CellSums, grid_cells, sum_cells
from transforms.accumulate.moments import Moments, join_targets, moments_of


@dataclass(frozen=True)
class MeanDifferences:
    """One difference vector for each level of a mode.

    vectors : float64 (I, D), mean(level) - mean(reference); NaN for a level without rows or pairs
    levels : int64 (I, number of factors), the codes of each level
    n_level, n_reference : int64 (I,), rows on either side
    n_pairs : int64 (I,), pairs averaged; 0 when not paired
    agreement : float64 (I,), mean cosine between a pair's difference and the vector; NaN when
        not paired
    """

    vectors: np.ndarray
    levels: np.ndarray
    n_level: np.ndarray
    n_reference: np.ndarray
    n_pairs: np.ndarray
    agreement: np.ndarray

    @property
    def norms(self) -> np.ndarray:
        """Frobenius norms of the vectors, float64 (I,)."""
        return np.linalg.norm(self.vectors, axis=1)


def _level_index(levels: np.ndarray, reference: int | Sequence[int]) -> int:
    wanted = np.atleast_1d(np.asarray(reference, np.int64))
    found = np.zeros(0, np.int64)
    if wanted.size == levels.shape[1]:
        found = np.flatnonzero((levels == wanted).all(axis=1))
    if len(found) == 0:
        raise UsageError(
            f"reference level {reference!r} is not one of {levels.tolist()!r}: name one of these"
        )
    return int(found[0])


def solve_mean_differences(
    sums: CellSums,
    grid: CellGrid,
    reference: int | Sequence[int] | None = None,
    paired: bool = False,
) -> MeanDifferences:
    """Differences for every level of the grid's first mode, from its cell sums.

    sums : over the cells of `grid`; modes after the first tell the pairs apart (the same person
        and view, say)
    reference : code (or codes, of a composite mode) of the level to subtract; default the mean of
        all other levels
    paired : average the differences of cell means over the combinations of the other modes that
        have both sides, each combination counting once; else rows count once

    Raises UsageError for an unknown reference, DataError when fewer than two levels have rows.
    """
    shape = grid.shape
    n_levels = shape[0]
    n_groups = int(np.prod(shape[1:], dtype=np.int64))
    at = None if reference is None else _level_index(grid.levels[0], reference)
    level, group = np.divmod(sums.cells, n_groups)
    means = sums.means()
    n_level = np.bincount(level, sums.counts, minlength=n_levels).astype(np.int64)
    if (n_level > 0).sum() < 2:
        raise DataError(
            f"{int((n_level > 0).sum())!r} level of {grid.modes[0]!r} has rows where at least 2 "
            "are needed: widen the selection"
        )
    n_features = means.shape[1]
    vectors = np.full((n_levels, n_features), np.nan)
    n_reference = np.zeros(n_levels, np.int64)
    n_pairs = np.zeros(n_levels, np.int64)
    agreement = np.full(n_levels, np.nan)
    for i in range(n_levels):
        own = level == i
        other = (level == at) if at is not None else (level != i)
        if i == at or not own.any() or not other.any():
            continue
        if not paired:
            n_reference[i] = sums.counts[other].sum()
            vectors[i] = sums.sums[own].sum(axis=0) / n_level[i]
            vectors[i] -= sums.sums[other].sum(axis=0) / n_reference[i]
            continue
        differences = []
        for g in np.intersect1d(group[own], group[other]):
            side = other & (group == g)
            n_reference[i] += sums.counts[side].sum()
            differences.append(means[own & (group == g)][0] - means[side].mean(axis=0))
        if not differences:
            continue
        table = np.stack(differences)
        n_pairs[i] = len(table)
        vectors[i] = table.mean(axis=0)
        scale = np.linalg.norm(table, axis=1) * np.linalg.norm(vectors[i])
        cosines = table @ vectors[i] / np.where(scale > 0, scale, 1.0)
        agreement[i] = cosines.mean()
    return MeanDifferences(vectors, grid.levels[0], n_level, n_reference, n_pairs, agreement)


def mean_differences(
    x: np.ndarray,
    codes: np.ndarray,
    *,
    pair_by: Sequence[np.ndarray] = (),
    reference: int | None = None,
    where: np.ndarray | None = None,
    block_rows: int = DEFAULT_BLOCK_ROWS,
) -> MeanDifferences:
    """Difference of means for each level of a categorical factor.

    x : (n, D) or (n, ...), flattened
    codes : integers (n,), the level of each row; negative = missing, the row is left out
    pair_by : further integer columns (n,); differences are then taken within each combination of
        them (Haas, Paper V: pairs of one person) and averaged
    reference : level to subtract, default the mean of all others
    """
    factors = {"level": np.asarray(codes)}
    factors |= {f"pair{i}": np.asarray(column) for i, column in enumerate(pair_by)}
    grid = grid_cells(list(factors), factors, where)
    source = ArrayBlocks({"x": np.asarray(x), "cells": grid.cells}, block_rows)
    return solve_mean_differences(sum_cells(source), grid, reference, paired=bool(pair_by))


@dataclass(frozen=True)
class Regressions:
    """Directions of continuous factors.

    slopes : float64 (T, D), change of the row for one unit of each target with the other targets
        held fixed: the multiple regression of x on all targets, the continuous mean difference
    coefficients : float64 (T, D), with intercepts (T,) the ridge prediction x . w + b of a target
    r2 : float64 (T,), share of the target's variance that the prediction explains in the fit
    n_rows : rows with every target present
    """

    slopes: np.ndarray
    coefficients: np.ndarray
    intercepts: np.ndarray
    r2: np.ndarray
    n_rows: int


def r2_on(rows: Moments, found: Regressions) -> np.ndarray:
    """Share of a target's variance over these rows that the prediction explains, float64 (T,).

    rows : joint moments of codes and targets of rows that the regressions have not seen. It is
    negative where the rows' own mean would predict better, NaN where a target does not vary.
    """
    n_features = found.coefficients.shape[1]
    weights, second = found.coefficients, rows.second
    xx, tx = second[:n_features, :n_features], second[n_features:, :n_features]
    variation = np.diag(second)[n_features:]
    miss = rows.mean[n_features:] - weights @ rows.mean[:n_features] - found.intercepts
    wrong = variation - 2 * np.einsum("td,td->t", weights, tx) + rows.count * miss**2
    wrong = wrong + np.einsum("td,de,te->t", weights, xx, weights, optimize=True)
    varies = variation > 0
    return np.where(varies, 1 - wrong / np.where(varies, variation, 1), np.nan)


def solve_regressions(moments: Moments, n_targets: int, ridge: float = 1e-3) -> Regressions:
    """Regression directions from the joint moments of rows and targets (D + T features).

    ridge : penalty on coefficients, as a multiple of the mean feature variance times n

    Raises DataError when a target does not vary, or targets depend on one another linearly.
    """
    if ridge < 0:
        raise UsageError(f"ridge is {ridge!r}: give 0 or more")
    moments.check(n_targets + 2)
    n_features = len(moments.mean) - n_targets
    xx = moments.second[:n_features, :n_features]
    tx = moments.second[n_features:, :n_features]
    tt = moments.second[n_features:, n_features:]
    variances = np.diag(tt)
    scale = np.maximum(np.abs(moments.mean[n_features:]), 1e-300)
    constant = np.flatnonzero(variances <= moments.count * (1e-12 * scale) ** 2)
    if len(constant):
        raise DataError(f"targets {constant.tolist()!r} do not vary: leave them out")
    sd = np.sqrt(variances)
    correlation = tt / np.outer(sd, sd)
    if np.linalg.cond(correlation) > 1e10:
        raise DataError("targets depend on one another linearly: leave one of them out")
    slopes = np.linalg.solve(correlation, tx / sd[:, None]) / sd[:, None]
    penalty = ridge * max(np.trace(xx) / n_features, np.finfo(float).tiny)
    penalised = xx + penalty * np.eye(n_features)
    try:
        coefficients = cho_solve(cho_factor(penalised), tx.T).T
    except np.linalg.LinAlgError as e:
        raise DataError(
            f"the features' second moment is singular under ridge {ridge!r}: raise it"
        ) from e
    explained = 2 * np.einsum("td,td->t", coefficients, tx)
    explained -= np.einsum("td,de,te->t", coefficients, xx, coefficients, optimize=True)
    intercepts = moments.mean[n_features:] - coefficients @ moments.mean[:n_features]
    return Regressions(slopes, coefficients, intercepts, explained / variances, moments.count)


def fit_regressions(
    x: np.ndarray,
    targets: np.ndarray,
    *,
    ridge: float = 1e-3,
    block_rows: int = DEFAULT_BLOCK_ROWS,
) -> Regressions:
    """Directions of continuous factors such as yaw or age.

    x : (n, D) or (n, ...), flattened
    targets : float (n,) or (n, T); rows with a NaN in any target are left out
    """
    x = np.asarray(x)
    targets = np.asarray(targets, np.float64)
    targets = targets[:, None] if targets.ndim == 1 else targets
    source = ArrayBlocks({"joint": join_targets(x, targets)}, block_rows)
    if source.n_rows == 0:
        raise DataError("no row has every target: choose fewer targets")
    return solve_regressions(moments_of(source, "joint"), targets.shape[1], ridge)
