"""Cross-validation and the C path of hyperplanes, in the batch that also fits them.

Every fold of every attribute is one more column of labels, zero for the fold's own rows, so that
all folds share the passes of one solve; each further C starts from the solution before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import (
    DEFAULT_BLOCK_ROWS,
    TRANSFORMS,
    Accumulator,
    ArrayBlocks,
    Arrays,
    BlockSource,
    Sums,
    flatten_rows,
)
from transforms.accumulate.passes import PassRequest, expect, run_passes
from transforms.svm.geometry import HyperplaneOptions
from transforms.svm.model import Hyperplanes
from transforms.svm.passes import CentredRequest
from transforms.svm.solver import HyperplaneSolver

RANK_BINS = 4096
MARGIN_EDGES = np.linspace(-4.0, 4.0, 65)


def assign_folds(
    n_rows: int, n_folds: int, seed: int = 0, groups: np.ndarray | None = None
) -> np.ndarray:
    """Fold of each row, int64 (n_rows,): at random, whole groups together.

    groups : integers (n_rows,), such as codes of a person factor; rows with a negative one get
        fold -1 and are never held out. Groups are dealt largest first to the smallest fold.
    """
    if n_folds < 2:
        raise UsageError(f"n_folds is {n_folds!r}: give at least 2")
    rng = np.random.default_rng(np.random.SeedSequence([seed, 29]))
    if groups is None:
        if n_rows < n_folds:
            raise DataError(f"{n_rows!r} rows for {n_folds!r} folds: give fewer folds")
        return rng.permutation(n_rows) % n_folds
    groups = np.asarray(groups)
    if groups.shape != (n_rows,):
        raise UsageError(f"groups have shape {groups.shape!r} for {n_rows!r} rows: one a row")
    levels, sizes = np.unique(groups[groups >= 0], return_counts=True)
    if len(levels) < n_folds:
        raise DataError(f"{len(levels)!r} groups for {n_folds!r} folds: give fewer folds")
    fold_of = np.full(int(levels[-1]) + 1, -1)
    held = np.zeros(n_folds, np.int64)
    shuffled = rng.permutation(len(levels))
    for i in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[levels[i]] = held.argmin()
        held[held.argmin()] += sizes[i]
    return np.where(groups >= 0, fold_of[np.maximum(groups, 0)], -1)


@dataclass(frozen=True)
class FoldBlocks:
    """A source whose labels y (m, A) are followed by those of every fold, (m, A (1 + K)).

    source : with arrays x, y, fold (m,) in -1 .. K - 1, and weight perhaps
    """

    source: BlockSource
    n_folds: int

    @property
    def key(self) -> str:
        """The source's key and the number of folds."""
        return f"{self.source.key}:folds-{self.n_folds}"

    @property
    def n_blocks(self) -> int:
        """Blocks of the source."""
        return self.source.n_blocks

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """As the source's, with the folds' labels beside y."""
        rows, arrays = self.source.read(block)
        y = arrays["y"][:, None] if arrays["y"].ndim == 1 else arrays["y"]
        seen = [np.where(arrays["fold"][:, None] == k, 0, y) for k in range(self.n_folds)]
        return rows, arrays | {"y": np.concatenate([y, *seen], axis=1)}


@dataclass(frozen=True)
class ScoreRequest(CentredRequest):
    """Scores of every fold's own rows under the hyperplanes that have not seen them.

    weights, intercepts : (K, D, A), (K, A), for rows minus the centre;  spread : (K, A), of scores
    """

    kind = f"{TRANSFORMS}.svm_validation.ScoreRequest"

    weights: np.ndarray
    intercepts: np.ndarray
    spread: np.ndarray

    def statistic(self, prepared: Arrays) -> Sums:
        """correct (K, A), ranks (K, 2, A, RANK_BINS), margins (2, A, bins), counts of rows."""
        n_folds, _, n_attributes = self.weights.shape
        n_margins = len(MARGIN_EDGES) - 1
        correct = np.zeros((n_folds, n_attributes), np.int64)
        ranks = np.zeros((n_folds, 2, n_attributes, RANK_BINS), np.int32)
        margins = np.zeros((2, n_attributes, n_margins), np.int64)
        column = np.arange(n_attributes)
        for k in range(n_folds):
            rows = np.flatnonzero(prepared["fold"] == k)
            along = prepared["x"][rows] @ self.weights[k].astype(self.precision)
            scores = along + self.intercepts[k]
            y = prepared["y"][rows, :n_attributes]
            correct[k] = (scores * y > 0).sum(axis=0)
            relative = along / self.spread[k]
            place = (relative / (1 + np.abs(relative)) + 1) * (RANK_BINS / 2)
            place = np.clip(place, 0, RANK_BINS - 1).astype(np.int64) + column * RANK_BINS
            step = (MARGIN_EDGES[-1] - MARGIN_EDGES[0]) / n_margins
            bins = np.clip((scores * y - MARGIN_EDGES[0]) // step, 0, n_margins - 1)
            bins = bins.astype(np.int64) + column * n_margins
            for side, sign in enumerate((-1, 1)):
                counted = np.bincount(place[y == sign], minlength=n_attributes * RANK_BINS)
                ranks[k, side] = counted.reshape(n_attributes, RANK_BINS)
                counted = np.bincount(bins[y == sign], minlength=n_attributes * n_margins)
                margins[side] += counted.reshape(n_attributes, n_margins)
        return Sums({"correct": correct, "ranks": ranks, "margins": margins})


@dataclass(frozen=True)
class Validated:
    """What K folds tell about hyperplanes of A attributes at one C.

    c : the C;  model : `Hyperplanes` fitted on all rows
    accuracy, auc : float64 (K, A), of held-out rows; NaN where these lack a class (auc) or
        rows (accuracy), or where the others do. The area under the ROC curve counts pairs
        within one of 4096 bins of the score as half: off by 1e-4 at most in practice
    n_rows : int64 (K, 2, A), held-out rows, negatives then positives
    margins : int64 (2, A, 64), histogram of y (x.w + b) over held-out rows, by class, on
        `MARGIN_EDGES`; values beyond the ends count in the outer bins
    converged : bool (K, A), of the folds' own fits
    """

    c: float
    model: Hyperplanes
    accuracy: np.ndarray
    auc: np.ndarray
    n_rows: np.ndarray
    margins: np.ndarray
    converged: np.ndarray

    @property
    def mean_accuracy(self) -> np.ndarray:
        """Share of all held-out rows that are on their side, (A,); NaN without any."""
        usable = np.isfinite(self.accuracy)
        rows = np.where(usable, self.n_rows.sum(axis=1), 0)
        correct = (np.where(usable, self.accuracy, 0) * rows).sum(axis=0)
        return correct / np.where(rows.sum(axis=0) > 0, rows.sum(axis=0), np.nan)

    @property
    def mean_auc(self) -> np.ndarray:
        """Mean over the folds that have one, (A,); NaN without any."""
        there = np.isfinite(self.auc)
        total = np.where(there, self.auc, 0).sum(axis=0)
        return total / np.where(there.any(axis=0), there.sum(axis=0), np.nan)


def area_under_roc(ranks: np.ndarray) -> np.ndarray:
    """AUC (...) from counts by ascending score (..., 2, A, bins) -> (..., A), ties as half."""
    negative, positive = np.moveaxis(ranks.astype(np.float64), -3, 0)
    below = np.cumsum(negative, axis=-1) - negative / 2
    pairs = negative.sum(axis=-1) * positive.sum(axis=-1)
    return (positive * below).sum(axis=-1) / np.where(pairs > 0, pairs, np.nan)


@dataclass(frozen=True)
class ValidationSolver:
    """Hyperplanes at every C of a path, with K folds each (a `PassSolver` over `FoldBlocks`).

    path : values of C, from small to large.  n_folds : 0 measures nothing
    """

    path: tuple[float, ...]
    n_folds: int
    solver: HyperplaneSolver
    found: tuple[Validated, ...] = field(default=())

    @classmethod
    def start(
        cls, options: HyperplaneOptions, path: Sequence[float], n_folds: int
    ) -> ValidationSolver:
        """Raises UsageError for a path that is empty or not ascending, or too few folds."""
        path = tuple(float(c) for c in path)
        if not path or any(b <= a for a, b in zip(path, path[1:], strict=False)):
            raise UsageError(f"path of C is {list(path)!r}: give ascending values, at least one")
        if n_folds < 0:
            raise UsageError(f"n_folds is {n_folds!r}: give 0 or more")
        first = replace(options, c=path[0], degenerate="skip")
        return cls(path, n_folds, HyperplaneSolver(first))

    @property
    def done(self) -> bool:
        """Every C has been solved and scored."""
        return len(self.found) == len(self.path)

    def request(self) -> PassRequest:
        """What the next pass computes."""
        if not self.solver.done:
            return self.solver.request()
        weights, intercepts, spread = self._hyperplanes()
        centre, precision = self.solver.rows_seen
        return ScoreRequest(centre, precision, weights, intercepts, spread)

    def _hyperplanes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        weights, intercepts = self.solver.hyperplanes
        weights = weights.reshape(len(weights), 1 + self.n_folds, -1)[:, 1:]
        model = self.solver.result()
        spread = model.sd * np.linalg.norm(model.coef, axis=1)
        spread = np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)
        folds = (1 + self.n_folds, -1)
        return (
            np.moveaxis(weights, 1, 0),
            intercepts.reshape(folds)[1:],
            spread.reshape(folds)[1:],
        )

    def step(self, total: Accumulator) -> ValidationSolver:
        """State after a pass with the summed statistic `total`."""
        if not self.solver.done:
            stepped = replace(self, solver=self.solver.step(total))
            return stepped if self.n_folds or not stepped.solver.done else stepped._scored(None)
        return self._scored(expect(total, Sums))

    def _scored(self, total: Sums | None) -> ValidationSolver:
        """State after a C was solved and scored. total : of a `ScoreRequest`, None without folds"""
        every = self.solver.result()
        n_attributes = len(every.coef) // (1 + self.n_folds)
        folds = (1 + self.n_folds, n_attributes)
        if total is None:
            total = _nothing_scored(n_attributes)
        fitted = np.isfinite(every.intercepts).reshape(folds)[1:]
        n_rows = total["ranks"].sum(axis=-1, dtype=np.int64)
        kept = n_rows.sum(axis=1)
        accuracy = np.where(fitted & (kept > 0), total["correct"] / np.maximum(kept, 1), np.nan)
        found = Validated(
            c=self.path[len(self.found)],
            model=every.take(np.arange(n_attributes)),
            accuracy=accuracy,
            auc=np.where(fitted, area_under_roc(total["ranks"]), np.nan),
            n_rows=n_rows,
            margins=total["margins"],
            converged=every.converged.reshape(folds)[1:],
        )
        state = replace(self, found=(*self.found, found))
        if state.done:
            return state
        return replace(state, solver=self.solver.restart(self.path[len(state.found)]))


def _nothing_scored(n_attributes: int) -> Sums:
    """The statistic of a `ScoreRequest` of no folds."""
    bins = len(MARGIN_EDGES) - 1
    return Sums(
        {
            "correct": np.zeros((0, n_attributes), np.int64),
            "ranks": np.zeros((0, 2, n_attributes, RANK_BINS), np.int32),
            "margins": np.zeros((2, n_attributes, bins), np.int64),
        }
    )


def cross_validate(
    x: np.ndarray,
    y: np.ndarray,
    path: Sequence[float] = (1.0,),
    *,
    n_folds: int = 5,
    groups: np.ndarray | None = None,
    seed: int = 0,
    sample_weight: np.ndarray | None = None,
    block_rows: int = DEFAULT_BLOCK_ROWS,
    **options: Any,
) -> list[Validated]:
    """Hyperplanes of all attributes at every C of a path, each with K-fold cross-validation.

    x : (n, D) or (n, ...), flattened;  y : (n,) or (n, A), values -1, 0 (unlabelled) or 1
    path : ascending values of C, each solved from the solution of the one before
    groups : integers (n,), rows of one group are held out together (a person's, say)
    seed : of the folds;  options : of `HyperplaneOptions`

    Attributes with one class only have NaN everywhere. Raises DataError when all are so.
    """
    x, y = flatten_rows(np.asarray(x)), np.asarray(y)
    options.setdefault("precision", "float64" if x.dtype == np.float64 else "float32")
    arrays = {"x": x, "y": y, "fold": assign_folds(len(x), n_folds, seed, groups)}
    if sample_weight is not None:
        arrays["weight"] = np.asarray(sample_weight)
    solver = ValidationSolver.start(HyperplaneOptions(**options), path, n_folds)
    source = FoldBlocks(ArrayBlocks(arrays, block_rows), n_folds)
    return list(run_passes(solver, source).found)
