"""Shapes of a sequence that change smoothly in time, seen by cameras that turn as they like.

A frame's points are X_f = (R_f)_{1:2} S_f + t_f 1' and the shapes S_f = sum_j w_fj A_j, w_fj the
cosines of the frame numbers (trajectory space: Akhter, Sheikh, Khan and Kanade 2008). Instead of a
cut-off the terms carry a penalty that grows with the cube of their number:

    sum_f |X_f - R_f S_f - t_f 1'|^2 + smoothness sum_j (j / 20)^3 |A_j|^2.

Given rotations the terms follow from one linear system, whose parts add up over frames; given
terms, each frame's rotation is found by itself. The objective falls in every round, the best
terms are kept. The scale of the cameras is one, a change of scale is part of the shapes; where the
camera zooms, the slow part of the rigid fit's scales is divided out of the points first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from schemas.errors import UsageError
from transforms.accumulate.blocks import TRANSFORMS, Accumulator, Arrays, Sums
from transforms.nrsfm.cameras import complete_rotation
from transforms.nrsfm.frames import (
    Frames,
    completed_frames,
    enough_frames,
    fit_cameras,
    loss_of,
    robust_scale,
    robust_weights,
    seen_points,
)

TERMS = 24
SMOOTHNESS = 4.0
GROWTH, LONGEST = 1.3, 4.0  # of the stride along the alternation's step while it goes well
ZOOM_TERMS = 2  # cosines of the logarithm of a zoom: more of them take up motion, too
REWEIGHTED = 6  # times that cameras and weights of robust or incomplete frames are renewed


def cosines(frames: np.ndarray, n_frames: int, n_terms: int) -> np.ndarray:
    """Orthonormal cosines (m, J) at frame numbers (m,) in 0..F-1: rows of the DCT-II basis."""
    angle = np.pi * (np.asarray(frames, np.float64)[:, None] + 0.5) * np.arange(n_terms) / n_frames
    rows = np.sqrt(2 / n_frames) * np.cos(angle)
    rows[:, 0] = np.sqrt(1 / n_frames)
    return np.asarray(rows)


def zoom_scales(frames: np.ndarray, n_frames: int, zoom: np.ndarray) -> np.ndarray:
    """Scales (m,) of frames by number; zoom (Z,), coefficients of cosines 1..Z of their logarithm.

    Their geometric mean over the sequence is 1, as it is for no coefficients at all.
    """
    return np.asarray(np.exp(cosines(frames, n_frames, len(zoom) + 1)[:, 1:] @ zoom))


def fit_moving(
    points: np.ndarray, weights: np.ndarray, shapes: np.ndarray, noise: float | None
) -> Frames:
    """Cameras of unit scale for frames whose shapes are known.

    points : (m, 2, L), zeros where not seen;  weights : (m, L), 1 where seen
    shapes : (m, 3, L);  noise : scale of robust weights, None for least squares
    """
    seen = weights
    for _ in range(1 if noise is None else REWEIGHTED):
        cameras, translation = fit_cameras(points, weights, shapes, True)
        if noise is not None:
            left = points - translation[:, :, None] - cameras @ shapes
            weights = seen * robust_weights((left**2).sum(axis=1), noise)
    none = np.zeros((len(points), 0))
    return completed_frames(
        points, seen, weights, cameras, none, none[..., None], translation, shapes
    )


def structure_sums(coefficients: np.ndarray, cameras: np.ndarray, points: np.ndarray) -> Arrays:
    """Normal equations of terms A (J, 3, L) in X_f = M_f sum_j c_fj A_j.

    coefficients : (m, J);  cameras : (m, 2, 3);  points : (m, 2, L), complete, centred by t_f.
    Returns normal (J, J, 3, 3) and right (J, 3, L).
    """
    m, j = coefficients.shape
    square = (coefficients[:, :, None] * coefficients[:, None]).reshape(m, j * j)
    across = np.swapaxes(cameras, 1, 2)
    normal = square.T @ (across @ cameras).reshape(m, 9)
    right = coefficients.T @ (across @ points).reshape(m, 3 * points.shape[2])
    return {
        "normal": normal.reshape(j, j, 3, 3),
        "right": right.reshape(j, 3, points.shape[2]),
    }


@dataclass(frozen=True)
class SequenceRequest:
    """One round: rotations of all frames for the terms, and the normal equations of new terms.

    terms : (J, 3, L);  n_frames : F;  noise : scale of robust weights or None
    zoom : (Z,), see `zoom_scales`
    """

    kind = f"{TRANSFORMS}.nrsfm_sequence.SequenceRequest"

    terms: np.ndarray
    n_frames: int
    noise: float | None = None
    zoom: np.ndarray = field(default_factory=lambda: np.zeros(0))
    token: str = "nrsfm-seen"

    def prepare(self, arrays: Arrays) -> Arrays:
        """Points with zeros where not seen, what is seen, and the frame numbers."""
        points, seen = seen_points(arrays["points"])
        return {"points": points, "seen": seen, "frame": arrays["frame"]}

    def statistic(self, prepared: Arrays) -> Sums:
        """normal, right (see `structure_sums`), cost, seen, frames, left_out, rotations (3, 3)."""
        rows = cosines(prepared["frame"], self.n_frames, len(self.terms))
        shapes = (rows @ self.terms.reshape(len(self.terms), -1)).reshape(
            len(rows), *self.terms.shape[1:]
        )
        scales = zoom_scales(prepared["frame"], self.n_frames, self.zoom)
        points = prepared["points"] / scales[:, None, None]
        fit = fit_moving(points, prepared["seen"], shapes, self.noise)
        use = fit.usable
        sums = structure_sums(rows[use], fit.cameras[use], fit.completed[use])
        return Sums(
            {
                **sums,
                "cost": loss_of(fit, prepared["seen"], self.noise)[use].sum(),
                "square": fit.residual[use].sum(),
                "seen": prepared["seen"][use].sum(),
                "frames": use.sum(),
                "left_out": (~use).sum(),
                "rotations": complete_rotation(fit.cameras[use]).sum(axis=0),
            }
        )


@dataclass(frozen=True)
class SequenceSolver:
    """The alternation as a machine of passes (a `PassSolver`) over arrays points and frame.

    rigid : (3, L), shape to start from, facing the camera;  n_frames : F, frames of the sequence,
    numbered 0..F-1 in array frame;  smoothness : weight of the penalty, 0 or more
    zoom : (Z,), the cameras' zoom, see `zoom_scales`
    noise : start of the scale of robust weights, which is estimated again in the first
        `scale_rounds` rounds; None for least squares
    """

    rigid: np.ndarray
    n_frames: int
    smoothness: float = SMOOTHNESS
    max_rounds: int = 20
    noise: float | None = None
    scale_rounds: int = 10
    tol: float = 1e-5
    zoom: np.ndarray = field(default_factory=lambda: np.zeros(0))
    round_: int = 0
    cost: float = np.inf
    terms: np.ndarray = field(default_factory=lambda: np.zeros((0, 3, 0)))
    best: np.ndarray = field(default_factory=lambda: np.zeros((0, 3, 0)))
    plain: np.ndarray = field(default_factory=lambda: np.zeros((0, 3, 0)))
    stride: float = 1.0
    total: Sums = field(default_factory=Sums.zero)
    done: bool = False
    converged: bool = False

    def __post_init__(self) -> None:
        if self.smoothness < 0:
            raise UsageError(f"smoothness is {self.smoothness!r}: give 0 or more")
        if self.max_rounds < 1:
            raise UsageError(f"max_rounds is {self.max_rounds!r}: give at least 1")
        if not len(self.terms):
            terms = np.zeros((min(TERMS, self.n_frames), *self.rigid.shape))
            terms[0] = self.rigid * np.sqrt(self.n_frames)
            object.__setattr__(self, "terms", terms)
            object.__setattr__(self, "best", terms)

    @property
    def penalty(self) -> np.ndarray:
        """Weight of each term's square, float64 (J,)."""
        return self.smoothness * (np.arange(len(self.terms)) / 20) ** 3

    def request(self) -> SequenceRequest:
        """The next round."""
        return SequenceRequest(self.terms, self.n_frames, self.noise, self.zoom)

    def step(self, total: Accumulator) -> SequenceSolver:
        """State after a round; a round that made the objective larger is not taken."""
        total = enough_frames(total)
        cost = float(total["cost"] + (self.penalty[:, None, None] * self.terms**2).sum())
        if self.noise is not None and self.round_ < min(self.scale_rounds, self.max_rounds):
            noise = robust_scale(float(total["square"]), float(total["seen"]))
            terms = self._solved(total)
            return replace(self, noise=noise, terms=terms, best=terms, round_=self.round_ + 1)
        over = self.round_ >= self.max_rounds
        if not cost <= self.cost:
            if self.stride <= 1 or over:
                return replace(self, done=True, converged=not over)
            return replace(self, terms=self.plain, stride=1.0, round_=self.round_ + 1)
        settled = self.stride <= LONGEST and self.cost - cost <= self.tol * cost
        kept = replace(self, cost=cost, best=self.terms, total=total)
        if settled or over:
            return replace(kept, done=True, converged=bool(settled))
        plain, stride = self._solved(total), min(GROWTH * self.stride, LONGEST)
        terms = self.terms + stride * (plain - self.terms)
        return replace(kept, terms=terms, plain=plain, stride=stride, round_=self.round_ + 1)

    def _solved(self, total: Sums) -> np.ndarray:
        normal = np.moveaxis(total["normal"], 2, 1)  # (J, 3, J, 3)
        j, _, n_points = self.terms.shape
        matrix = normal.reshape(3 * j, 3 * j) + np.diag(np.repeat(self.penalty, 3))
        matrix += 1e-10 * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
        solved = np.linalg.solve(matrix, total["right"].reshape(3 * j, n_points))
        terms = solved.reshape(j, 3, n_points)
        return np.asarray(terms - terms.mean(axis=2, keepdims=True))
