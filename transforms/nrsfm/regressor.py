"""From latent codes to landmark parameters and back: the regressor of Paper III, linear.

phi(w) = intercept + W'(w - mean) predicts the attribute vector q; its loss is that of the
re-projected landmarks, |R(phi(w)) - X|^2 (eq. 12), plus a ridge. The start is ridge regression on
the parameters of the landmark model; then Gauss-Newton steps with the Kronecker product of the
codes' second moment and the mean square of R's Jacobian, which is the exact Hessian where R is
linear. The sums add up over blocks of rows, so the codes are never held in memory together.

phi is linear, so its Jacobian is W' everywhere, and the analytic edit w + J^+ (q - q_0) (eq. 14)
reaches the parameters it is asked for in one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import (
    DEFAULT_BLOCK_ROWS,
    TRANSFORMS,
    Accumulator,
    ArrayBlocks,
    Arrays,
    Sums,
    flatten_rows,
)
from transforms.accumulate.moments import Moments
from transforms.accumulate.passes import PassRequest, expect, run_passes
from transforms.nrsfm.landmark_map import landmark_jacobian, landmarks_of, parameter_names
from transforms.nrsfm.model import SequenceModel, ShapeModel

CHUNK = 512  # rows whose Jacobians are held at once


@dataclass(frozen=True)
class LatentShape:
    """A regressor from codes to landmark parameters.

    rigid (3, L), basis (K, 3, L) : of the landmark model;  mean : (D,), of the codes
    weights : float64 (D, 8 + K);  intercept : (8 + K,);  code_shape : of one code, D in all
    rms : root mean square distance of the re-projected coordinates, in the points' unit
    rms_start : the same at the start;  n_rows : rows used;  converged : steps had settled
    """

    rigid: np.ndarray
    basis: np.ndarray
    mean: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    code_shape: tuple[int, ...]
    rms: float
    rms_start: float
    n_rows: int
    converged: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return parameter_names(len(self.basis))

    @cached_property
    def inverse(self) -> np.ndarray:
        """J^+, float64 (D, 8 + K), the Moore-Penrose pseudo-inverse of the Jacobian (8 + K, D)."""
        return np.linalg.pinv(self.weights.T)

    def parameters(self, codes: np.ndarray) -> np.ndarray:
        """phi(w), float64 (n, 8 + K), of codes (n, ...)."""
        return np.asarray((self._flat(codes) - self.mean) @ self.weights + self.intercept)

    def landmarks(self, codes: np.ndarray) -> np.ndarray:
        """R(phi(w)), points (n, 2, L), y up, in the unit of the points of the fit."""
        return landmarks_of(self.parameters(codes), self.rigid, self.basis)

    def edit(self, codes: np.ndarray, changes: Mapping[str, float | np.ndarray]) -> np.ndarray:
        """Codes whose predicted parameters differ by `changes` and otherwise stay (eq. 14).

        codes : (n, ...);  changes : name -> amount, one for all rows or (n,), angles in radians
        """
        delta = np.zeros((len(codes), len(self.names)))
        for name, amount in changes.items():
            delta[:, self._columns((name,))[0]] = amount
        return self._moved(codes, delta)

    def transfer(
        self, source: np.ndarray, target: np.ndarray, names: Sequence[str] | None = None
    ) -> np.ndarray:
        """Codes `target` with the parameters `names` of the codes `source` (Paper III, 4.4).

        source, target : (n, ...);  names : default all but the translation
        """
        columns = self._columns(self.names[:-2] if names is None else names)
        delta = np.zeros((len(target), len(self.names)))
        difference = self.parameters(source) - self.parameters(target)
        delta[:, columns] = difference[:, columns]
        return self._moved(target, delta)

    def direction(self, name: str) -> np.ndarray:
        """Change of a code for one unit of a parameter, the others unchanged: `code_shape`."""
        return np.asarray(self.inverse[:, self._columns((name,))[0]].reshape(self.code_shape))

    def _moved(self, codes: np.ndarray, delta: np.ndarray) -> np.ndarray:
        flat = self._flat(codes) + delta @ self.inverse.T
        return np.asarray(flat.reshape(len(flat), *self.code_shape))

    def _flat(self, codes: np.ndarray) -> np.ndarray:
        flat = flatten_rows(np.asarray(codes, np.float64))
        if flat.shape[1] != len(self.mean):
            raise UsageError(
                f"codes have shape {np.shape(codes)!r} but the regressor reads "
                f"{self.code_shape!r}: give (n, {', '.join(map(str, self.code_shape))})"
            )
        return flat

    def _columns(self, names: Sequence[str]) -> list[int]:
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise UsageError(f"parameters {unknown!r} are none of {list(self.names)!r}")
        return [self.names.index(name) for name in names]


@dataclass(frozen=True)
class ParameterMoments:
    """Joint moments of codes x and the parameters of points, rows whose parameters are known."""

    kind = f"{TRANSFORMS}.latent_shape.ParameterMoments"

    model: ShapeModel | SequenceModel
    token: str = "latent-shape-moments"

    def prepare(self, arrays: Arrays) -> Arrays:
        """x and parameters side by side (m', D + 8 + K)."""
        q = self.model.fit(arrays["points"]).parameters()[1]
        use = np.isfinite(q).all(axis=1)
        x = flatten_rows(arrays["x"])
        return {"joint": np.concatenate([x[use], q[use]], axis=1, dtype=np.float64)}

    def statistic(self, prepared: Arrays) -> Moments:
        """`Moments` of the block."""
        return Moments.of(prepared["joint"])


@dataclass(frozen=True)
class ProjectionRequest:
    """Value, gradient and Gauss-Newton square of the re-projection loss.

    rigid (3, L), basis (K, 3, L);  mean (D,), weights (D, 8 + K), intercept (8 + K,)
    """

    kind = f"{TRANSFORMS}.latent_shape.ProjectionRequest"

    rigid: np.ndarray
    basis: np.ndarray
    mean: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    token: str = "latent-shape"

    def prepare(self, arrays: Arrays) -> Arrays:
        """x (m', D) and points of the rows with 4 seen points or more."""
        points = np.asarray(arrays["points"], np.float64)
        use = np.isfinite(points).all(axis=1).sum(axis=1) >= 4
        return {"x": flatten_rows(arrays["x"])[use], "points": points[use]}

    def statistic(self, prepared: Arrays) -> Sums:
        """loss, gradient (D, P), offset (P,), square (P, P), seen coordinates, rows."""
        total = Sums.zero()
        for start in range(0, max(len(prepared["x"]), 1), CHUNK):
            part = slice(start, start + CHUNK)
            total = total.merge(self._part(prepared["x"][part], prepared["points"][part]))
        return total

    def _part(self, x: np.ndarray, points: np.ndarray) -> Sums:
        centred = x.astype(np.float64) - self.mean
        q = centred @ self.weights + self.intercept
        left = landmarks_of(q, self.rigid, self.basis) - points
        seen = np.isfinite(left)
        residual = np.where(seen, left, 0.0).reshape(len(x), 2 * points.shape[2])
        jacobian = landmark_jacobian(q, self.rigid, self.basis)
        jacobian *= seen.reshape(len(x), 2 * points.shape[2], 1)
        slope = np.einsum("fip,fi->fp", jacobian, residual)
        flat = jacobian.reshape(-1, jacobian.shape[2])
        return Sums(
            {
                "loss": (residual**2).sum(),
                "gradient": centred.T @ slope,
                "offset": slope.sum(axis=0),
                "square": flat.T @ flat,
                "seen": seen.sum(),
                "rows": np.array(len(x)),
            }
        )


@dataclass(frozen=True)
class LatentShapeSolver:
    """The regression as a machine of passes (a `PassSolver`) over arrays x (m, ...) and points.

    model : landmark model, whose `fit` gives the parameters to start from
    ridge : penalty on weights, times the mean variance of the codes' coordinates and the rows
    tol : relative change of the loss at which it has settled
    """

    model: ShapeModel | SequenceModel
    ridge: float = 0.01
    max_rounds: int = 20
    tol: float = 1e-5
    phase: str = "moments"
    round_: int = 0
    moments: Moments = field(default_factory=lambda: Moments.zero(0))
    penalty: float = 0.0
    shape: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    weights: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    intercept: np.ndarray = field(default_factory=lambda: np.zeros(0))
    best: tuple[np.ndarray, ...] = ()
    towards: tuple[np.ndarray, ...] = ()
    stride: float = 1.0
    cost: float = np.inf
    rms: float = np.nan
    rms_start: float = np.nan
    n_rows: int = 0
    converged: bool = False

    def __post_init__(self) -> None:
        if self.ridge < 0:
            raise UsageError(f"ridge is {self.ridge!r}: give 0 or more")
        if self.max_rounds < 0:
            raise UsageError(f"max_rounds is {self.max_rounds!r}: give 0 (no steps) or more")

    @property
    def done(self) -> bool:
        """The regressor is complete."""
        return self.phase == "done"

    def request(self) -> PassRequest:
        """What the next pass computes."""
        if self.phase == "moments":
            return ParameterMoments(self.model)
        n = len(self.weights)
        return ProjectionRequest(
            self.model.rigid, self.model.basis, self.moments.mean[:n], self.weights, self.intercept
        )

    def step(self, total: Accumulator) -> LatentShapeSolver:
        """State after a pass."""
        if isinstance(total, Moments):
            return self._started(total)
        total = expect(total, Sums)
        n, rows = len(self.weights), int(total["rows"])
        metric = total["square"] / rows if not self.shape.size else self.shape
        lean = 1e-9 * np.trace(metric) / len(metric) * np.eye(len(metric))
        penalised = self.penalty * (self.weights @ (metric + lean))
        cost = float(total["loss"]) + float((penalised * self.weights).sum())
        if not cost <= self.cost:
            if self.round_ >= self.max_rounds or self.stride < 1e-3:
                return replace(self, phase="done", converged=self.stride < 1e-3)
            return self._towards(0.5 * self.stride)
        rms = float(np.sqrt(total["loss"] / max(float(total["seen"]), 1.0)))
        first = not self.shape.size
        kept = replace(
            self,
            shape=metric,
            cost=cost,
            rms=rms,
            rms_start=rms if first else self.rms_start,
            n_rows=rows,
            best=(self.weights, self.intercept),
        )
        settled = self.cost - cost <= self.tol * cost
        if settled or self.round_ >= self.max_rounds:
            return replace(kept, phase="done", converged=bool(settled))
        curve = total["square"] / rows + lean
        hessian = self.moments.second[:n, :n] + self.penalty * np.eye(n)
        step = cho_solve(cho_factor(hessian), total["gradient"] + penalised)
        towards = (
            -np.linalg.solve(curve, step.T).T,
            -np.linalg.solve(curve, total["offset"]) / rows,
        )
        return replace(kept, towards=towards)._towards(min(1.0, 2 * self.stride))

    def _towards(self, stride: float) -> LatentShapeSolver:
        (weights, intercept), (turn, shift) = self.best, self.towards
        return replace(
            self,
            weights=weights + stride * turn,
            intercept=intercept + stride * shift,
            stride=stride,
            round_=self.round_ + 1,
        )

    def _started(self, moments: Moments) -> LatentShapeSolver:
        """Ridge regression of the parameters on the codes."""
        moments.check(3)
        n_parameters = 8 + len(self.model.basis)
        n = len(moments.mean) - n_parameters
        second = moments.second[:n, :n]
        rank = max(min(n, moments.count - 1), 1)
        penalty = max(self.ridge, 1e-12) * np.trace(second) / rank
        if not penalty > 0:
            raise DataError("the codes do not vary: give codes of different images")
        matrix = second + penalty * np.eye(n)
        weights = cho_solve(cho_factor(matrix), moments.second[:n, n:])
        return replace(
            self,
            phase="steps",
            moments=moments,
            penalty=float(penalty),
            weights=weights,
            intercept=moments.mean[n:],
        )

    def regressor(self, code_shape: Sequence[int] | None = None) -> LatentShape:
        """The learned regressor; UsageError before the passes are done."""
        if not self.done or not self.best:
            raise UsageError("the regression is not done: drive it with run_passes")
        weights, intercept = self.best
        n = len(weights)
        return LatentShape(
            rigid=self.model.rigid,
            basis=self.model.basis,
            mean=self.moments.mean[:n],
            weights=weights,
            intercept=intercept,
            code_shape=tuple(code_shape or (n,)),
            rms=self.rms,
            rms_start=self.rms_start,
            n_rows=self.n_rows,
            converged=self.converged,
        )


def fit_latent_shape(
    codes: np.ndarray,
    points: np.ndarray,
    model: ShapeModel | SequenceModel,
    *,
    ridge: float = 0.01,
    max_rounds: int = 20,
    block_rows: int = DEFAULT_BLOCK_ROWS,
) -> LatentShape:
    """Regressor from codes (n, ...) to the parameters of points (n, 2, L), y up, NaN not seen.

    Where there are fewer rows than coordinates, the codes' row space stands in for them: ridge
    regression has no weights outside it. See `LatentShapeSolver` for the other arguments.
    """
    codes = np.asarray(codes)
    flat = flatten_rows(codes)
    if len(flat) != len(points):
        raise UsageError(f"{len(flat)!r} codes for {len(points)!r} frames of points: give as many")
    if len(flat) >= flat.shape[1]:
        source = ArrayBlocks({"x": flat, "points": points}, block_rows)
        solver = run_passes(LatentShapeSolver(model, ridge, max_rounds), source)
        return solver.regressor(codes.shape[1:])
    mean = flat.mean(axis=0, dtype=np.float64)
    centred = flat - mean
    values, vectors = np.linalg.eigh(centred @ centred.T)
    keep = values > 1e-10 * values[-1]
    rows = (vectors[:, keep] / np.sqrt(values[keep])).T @ centred  # (R, D), orthonormal
    source = ArrayBlocks({"x": centred @ rows.T, "points": points}, block_rows)
    found = run_passes(LatentShapeSolver(model, ridge, max_rounds), source).regressor()
    return replace(
        found,
        mean=mean + found.mean @ rows,
        weights=rows.T @ found.weights,
        code_shape=tuple(codes.shape[1:]),
    )
