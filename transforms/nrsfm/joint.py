"""Joint refinement of rank-one shapes, cameras and coefficients, over the points that were seen.

X_f = M_f [B_0 + sum_k a_fk d_k b_k'] + t_f 1' + noise, with coefficients a_fk of variance v_k:
expectation maximisation (Torresani, Hertzmann and Bregler 2008, with the rank-one shapes of Brandt
and Ackermann 2019 and affine cameras). A pass fits every frame's camera, translation and the
posterior of its coefficients, and sums the normal equations of the shapes, in which points that
were not seen, or that a robust loss distrusts, are completed by the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from schemas.errors import UsageError
from transforms.accumulate.blocks import TRANSFORMS, Accumulator, Arrays, Sums
from transforms.nrsfm.cameras import (
    mean_rotation,
    metric_conditions,
    metric_upgrade,
    nearest_scaled_rotation,
)
from transforms.nrsfm.frames import enough_frames, fit_frames, loss_of, robust_scale, seen_points
from transforms.nrsfm.model import MIRROR, ShapeModel, depth_flipped
from transforms.nrsfm.sequence import structure_sums
from transforms.signs import signs_of

SCALE_ROUNDS = 10  # rounds in which the scale of a robust loss is estimated again
SWEEPS = 4  # alternations of axes and modes on one pass's normal equations


@dataclass(frozen=True)
class JointRequest:
    """One expectation step under a model.

    rigid : (3, L);  axes : (K, 3);  modes : (K, L);  ridge : (K,);  noise : standard deviation of
    a coordinate, or the scale of Student's t where `robust`
    """

    kind = f"{TRANSFORMS}.nrsfm_joint.JointRequest"

    rigid: np.ndarray
    axes: np.ndarray
    modes: np.ndarray
    ridge: np.ndarray
    noise: float
    robust: bool = False
    token: str = "nrsfm-seen-points"

    def prepare(self, arrays: Arrays) -> Arrays:
        """The points as they are."""
        return {"points": np.asarray(arrays["points"], np.float64)}

    def statistic(self, prepared: Arrays) -> Sums:
        """normal (J, J, 3, 3), right (J, 3, L) with J = K + 1; squares (K,) of coefficients; cost.

        trace : degrees of freedom of the coefficients, the expected noise that they take up. The
        rest sets the gauge, as in `transforms.nrsfm.passes.CameraRequest`.
        """
        basis = self.axes[:, :, None] * self.modes[:, None]
        points, seen = prepared["points"], seen_points(prepared["points"])[1]
        noise = self.noise if self.robust else None
        variance = self.noise**2
        fit = fit_frames(
            points, self.rigid, basis, self.ridge, noise=noise, variance=variance, rounds=12
        )
        use = fit.usable
        a, covariance, cameras = fit.coefficients[use], fit.covariance[use], fit.cameras[use]
        sums = structure_sums(np.hstack([np.ones((len(a), 1)), a]), cameras, fit.completed[use])
        k = len(self.axes)
        square = (np.swapaxes(cameras, 1, 2) @ cameras).reshape(-1, 9)
        spread = variance * covariance.reshape(len(a), k * k).T @ square
        sums["normal"][1:, 1:] += spread.reshape(k, k, 3, 3)
        own = np.diagonal(covariance, axis1=1, axis2=2)
        penalty = (a * a * self.ridge).sum(axis=1)
        volume = np.linalg.slogdet(covariance)[1] + np.log(self.ridge).sum()
        loss = loss_of(fit, seen, noise)[use] + penalty
        size = np.maximum((fit.completed[use] ** 2).sum(axis=(1, 2)), np.finfo(float).tiny)
        failures, scales = metric_conditions(cameras, 1 / size)
        scale, rotations = nearest_scaled_rotation(cameras)
        return Sums(
            {
                **sums,
                "cost": (loss / variance - volume).sum(),
                "squares": (a * a + variance * own).sum(axis=0),
                "trace": (1 - self.ridge * own).sum(),
                "square": fit.residual[use].sum(),
                "failures": failures,
                "scales": scales,
                "scale_squares": (scale**2).sum(),
                "rotations": rotations.sum(axis=0),
                "seen": seen[use].sum(),
                "frames": use.sum(),
                "left_out": (~use).sum(),
            }
        )


def solve_rank_one(
    normal: np.ndarray, right: np.ndarray, axes: np.ndarray, modes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rigid (3, L), axes (K, 3) unit, modes (K, L)) of least squares on sums of `structure_sums`.

    Alternates rigid shape and modes given axes, which is linear, with axes given them.
    """
    k = len(axes)
    matrix = np.moveaxis(normal, 2, 1).reshape(3 * (k + 1), 3 * (k + 1))
    stacked = right.reshape(3 * (k + 1), -1)
    for _ in range(SWEEPS):
        spread = np.zeros((3 * (k + 1), 3 + k))
        spread[:3, :3] = np.eye(3)
        for i, axis in enumerate(axes):
            spread[3 * (i + 1) : 3 * (i + 2), 3 + i] = axis
        small = spread.T @ matrix @ spread
        small += 1e-12 * np.trace(small) / len(small) * np.eye(len(small))
        rows = np.linalg.solve(small, spread.T @ stacked)
        rigid, modes = rows[:3], rows[3:]
        if not k:
            break
        inner = modes @ modes.T
        blocks = (normal[1:, 1:] * inner[:, :, None, None]).swapaxes(1, 2).reshape(3 * k, 3 * k)
        left = right[1:] - np.einsum("kij,jl->kil", normal[1:, 0], rigid)
        target = np.einsum("kil,kl->ki", left, modes).reshape(3 * k)
        blocks += 1e-12 * np.trace(blocks) / len(blocks) * np.eye(len(blocks))
        axes = np.linalg.solve(blocks, target).reshape(k, 3)
        length = np.maximum(np.linalg.norm(axes, axis=1), np.finfo(float).tiny)
        axes, modes = axes / length[:, None], modes * length[:, None]
    return rigid, axes, modes


def transformed(model: ShapeModel, matrix: np.ndarray) -> ShapeModel:
    """The model whose shapes are `matrix` (3, 3) times the model's; cameras take its inverse."""
    axes = model.axes @ matrix.T
    length = np.maximum(np.linalg.norm(axes, axis=1), np.finfo(float).tiny)
    return replace(
        model,
        rigid=matrix @ model.rigid,
        axes=axes / length[:, None],
        ridge=model.ridge / length**2,
    )


@dataclass(frozen=True)
class JointSolver:
    """The refinement of a `ShapeModel` as a machine of passes (a `PassSolver`) over array points.

    The likelihood grows from round to round; a round that lowers it ends the refinement, and the
    best model is kept. Two more passes upgrade its cameras to metric ones and set the gauge.

    front : as in `transforms.nrsfm.fit.NRSfMSolver`
    """

    start: ShapeModel
    robust: bool = False
    max_rounds: int = 20
    front: tuple[int, ...] | None = None
    tol: float = 1e-5
    phase: Literal["refine", "metric", "gauge", "done"] = "refine"
    round_: int = 0
    cost: float = np.inf
    model_: ShapeModel = None  # type: ignore[assignment]  # the start
    best: ShapeModel = None  # type: ignore[assignment]
    left_out: int = 0
    clipped: bool = False
    converged: bool = False

    def __post_init__(self) -> None:
        if self.max_rounds < 1:
            raise UsageError(f"max_rounds is {self.max_rounds!r}: give at least 1")
        if self.model_ is None:
            object.__setattr__(self, "model_", self.start)
            object.__setattr__(self, "best", self.start)

    @property
    def done(self) -> bool:
        """The model is complete."""
        return self.phase == "done"

    def request(self) -> JointRequest:
        """The next expectation step."""
        m = self.model_
        return JointRequest(m.rigid, m.axes, m.modes, m.ridge, m.noise, self.robust)

    def step(self, total: Accumulator) -> JointSolver:
        """The maximisation step."""
        total = enough_frames(total)
        if self.phase == "metric":
            upgrade, clipped = metric_upgrade(total["failures"], total["scales"])
            model = transformed(self.best, np.linalg.inv(upgrade))
            return replace(self, phase="gauge", model_=model, clipped=clipped)
        if self.phase == "gauge":
            return replace(self, phase="done", best=self._placed(total))
        n_seen = float(total["seen"])
        cost = float(total["cost"]) + 2 * n_seen * np.log(self.model_.noise**2)
        searching = self.robust and self.round_ < min(SCALE_ROUNDS, self.max_rounds)
        if not (searching or cost <= self.cost):
            return replace(self, phase="metric", model_=self.best, converged=True)
        settled = not searching and self.cost - cost <= self.tol * 2 * n_seen
        kept = replace(self, best=self.model_, left_out=int(total["left_out"]))
        if settled or self.round_ >= self.max_rounds:
            return replace(kept, phase="metric", converged=bool(settled))
        kept = replace(kept, cost=np.inf if searching else cost, round_=self.round_ + 1)
        return replace(kept, model_=self._improved(total, searching))

    def _improved(self, total: Sums, searching: bool) -> ShapeModel:
        old = self.model_
        rigid, axes, modes = solve_rank_one(total["normal"], total["right"], old.axes, old.modes)
        length = np.maximum(np.linalg.norm(modes, axis=1), np.finfo(float).tiny)
        variance = total["squares"] / float(total["frames"]) * length**2
        square, n_seen = float(total["square"]), float(total["seen"])
        expected = square + old.noise**2 * float(total["trace"])
        noise = old.noise
        if not self.robust:
            noise = float(np.sqrt(expected / (2 * n_seen)))
        elif searching:
            noise = robust_scale(expected, n_seen)
        noise = max(noise, 1e-9 * float(np.abs(rigid).max()))
        modes = modes / length[:, None]
        return replace(
            old,
            rigid=rigid - rigid.mean(axis=1, keepdims=True),
            axes=axes,
            modes=modes - modes.mean(axis=1, keepdims=True),
            ridge=noise**2 / np.maximum(variance, 1e-300),
            noise=noise,
        )

    def _placed(self, total: Sums) -> ShapeModel:
        scale = np.sqrt(total["scale_squares"] / float(total["frames"]))
        found = transformed(self.model_, mean_rotation(total["rotations"]) * scale)
        if depth_flipped(found.rigid, self.front):
            found = transformed(found, MIRROR)
        signs = signs_of(found.axes)[:, None]
        return replace(found, axes=found.axes * signs, modes=found.modes * signs)

    def model(self) -> ShapeModel:
        """The best model; its frames' parameters follow by `ShapeModel.fit`."""
        flags = {
            **self.start.flags,
            "metric_clipped": self.clipped,
            "left_out": self.left_out,
            "converged": self.converged,
            "robust": self.robust,
        }
        return replace(self.best, readout=np.zeros((0, 3)), flags=flags)
