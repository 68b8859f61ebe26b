"""What the hyperplane solver is asked for, and the preconditioner made of the rows' moments."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from schemas.errors import UsageError
from transforms.svm.passes import LabelledMoments
from transforms.svm.sample import principal_axes


@dataclass(frozen=True)
class HyperplaneOptions:
    """What the solve is asked for. Raises UsageError for values out of range.

    c : cost of a unit of squared slack
    tol : gradient norm to reach, relative to that of the all-zero normal; the estimated distance
        of the objective from its minimum must also fall below tol / 100 of it
    penalise_intercept : add b^2 / 2 (liblinear's objective with intercept_scaling 1)
    balanced : weigh classes by n / (2 n_class), both counted by weight
    max_newton, max_cg : Newton steps, and conjugate gradient steps in each
    precision : 'float32' or 'float64' products; float32 turns to float64 where it stalls
    degenerate : 'raise' or 'skip' attributes that have one class only
    """

    c: float = 1.0
    tol: float = 1e-5
    penalise_intercept: bool = False
    balanced: bool = False
    max_newton: int = 100
    max_cg: int = 60
    precision: str = "float32"
    degenerate: str = "raise"

    def __post_init__(self) -> None:
        if not (self.c > 0 and np.isfinite(self.c)):
            raise UsageError(f"c is {self.c!r}: give a positive number")
        if not 0 < self.tol < 1:
            raise UsageError(f"tol is {self.tol!r}: give a number between 0 and 1")
        if self.precision not in ("float32", "float64"):
            raise UsageError(f"precision is {self.precision!r}: give 'float32' or 'float64'")
        if self.degenerate not in ("raise", "skip"):
            raise UsageError(f"degenerate is {self.degenerate!r}: give 'raise' or 'skip'")
        if min(self.max_newton, self.max_cg) < 1:
            raise UsageError("max_newton and max_cg must be at least 1")


@dataclass(frozen=True)
class Geometry:
    """The rows' moments and the preconditioner made of them.

    Parameters are theta = (w, b) of shape (D + 1, a). Without a penalty on the intercept, b belongs
    to rows minus their mean; with one, to rows as they are, so that the penalty is simply b^2 / 2.

    centre : float64 (D,), what passes subtract from the rows: their mean, or nothing where that is
        no larger than their spread, which saves a copy of the data
    offset : float64 (D,), from theta's origin to that of the passes
    values, vectors : (r,), (D + 1 or D, r), main axes of the rows' second moment (raw and with a
        column of ones where the intercept is penalised, else centred);  rest : moment along others
    """

    statistic: LabelledMoments
    centre: np.ndarray
    offset: np.ndarray
    penalised: bool
    values: np.ndarray
    vectors: np.ndarray
    rest: float = 0.0

    @classmethod
    def of(cls, statistic: LabelledMoments, penalised: bool, precision: str) -> Geometry:
        """With all axes, where the whole second moment is there, else without any yet."""
        moments = statistic.moments
        mean = moments.mean
        spread = moments.second.sum() if moments.diagonal else np.trace(moments.second)
        centre = mean if moments.count * (mean @ mean) > spread else np.zeros_like(mean)
        if precision == "float32":  # float32 rows minus a float32 number are rounded once
            centre = centre.astype(np.float32).astype(np.float64)
        offset = centre if penalised else centre - mean
        if moments.diagonal:
            rest = float(moments.second.mean())
            none = np.zeros((len(mean) + penalised, 0))
            return cls(statistic, centre, offset, penalised, np.zeros(0), none, rest)
        gram = moments.second
        if penalised:
            row = np.append(mean, 1.0)
            gram = np.pad(gram, (0, 1)) + moments.count * np.outer(row, row)
        values, vectors = np.linalg.eigh(gram)
        diagonal = replace(moments, second=np.diagonal(moments.second).copy())
        statistic = replace(statistic, moments=diagonal)  # the axes say the rest: a small state
        return cls(statistic, centre, offset, penalised, np.maximum(values, 0.0), vectors)

    def with_sample(self, rows: np.ndarray) -> Geometry:
        """With the main axes of sampled rows (k, D), minus the centre."""
        rows = rows + self.offset
        trace, n = float(self.statistic.moments.second.sum()), self.n_rows
        if self.penalised:
            rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
            trace += n * (float(self.mean @ self.mean) + 1)
        values, vectors, rest = principal_axes(rows, n, trace)
        return replace(self, values=values, vectors=vectors, rest=rest)

    @property
    def n_rows(self) -> int:
        """Rows read."""
        return self.statistic.moments.count

    @property
    def mean(self) -> np.ndarray:
        """The rows' mean (D,)."""
        return self.statistic.moments.mean

    def centred(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(weights (D, a), intercepts (a,)) for rows minus the centre."""
        return theta[:-1], theta[-1] + self.offset @ theta[:-1]

    def pull_back(self, weights: np.ndarray, intercepts: np.ndarray) -> np.ndarray:
        """Gradient in theta of a function with the given gradient in the passes' coordinates."""
        weights = weights + np.outer(self.offset, intercepts)
        return np.concatenate([weights, intercepts[None]])

    def ridge(self, theta: np.ndarray) -> np.ndarray:
        """Gradient of the penalty."""
        if self.penalised:
            return theta
        return np.concatenate([theta[:-1], np.zeros_like(theta[-1:])])

    def precondition(self, residual: np.ndarray, active_cost: np.ndarray) -> np.ndarray:
        """Approximate inverse Hessian times residual (D + 1, a)."""
        share = 2 * active_cost / self.n_rows
        size = len(self.vectors)
        head = residual[:size]
        rotated = self.vectors.T @ head
        along = 1 + share * self.values[:, None]
        if self.vectors.shape[1] == size:
            solved = self.vectors @ (rotated / along)
        else:
            others = 1 + share * self.rest
            solved = head / others + self.vectors @ (rotated * (1 / along - 1 / others))
        if self.penalised:
            return solved
        intercept = residual[-1] / np.where(active_cost > 0, 2 * active_cost, 1.0)
        return np.concatenate([solved, intercept[None]])

    def hessian(self, active: np.ndarray) -> np.ndarray:
        """Hessian in theta from a cost-weighted active Gram in the passes' coordinates."""
        hessian = 2 * active
        if self.offset.any():
            shift = np.eye(len(hessian))
            shift[-1, :-1] = self.offset
            hessian = shift.T @ hessian @ shift
        diagonal = np.einsum("ii->i", hessian)
        diagonal += 1.0
        if not self.penalised:
            diagonal[-1] -= 1.0 if active[-1, -1] > 0 else 0.0
        return hessian
