"""Non-rigid structure from motion with rank-one basis shapes.

A frame's points are X_f = M_f [B_0 + sum_k a_fk d_k b_k'] + t_f 1' (Haas, thesis eq. 4.5-4.14;
Paper III, eq. 2; Brandt and Ackermann 2019). B_0 spans the first three right singular vectors of
the centred points, b_k are the next ones, and for complete points the objective (Paper III, eq. 10)
separates by basis shape, so each unit axis d_k follows from 3 x 3 normal equations summed over the
frames, alternated with the closed form of its coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import DEFAULT_BLOCK_ROWS, Accumulator, ArrayBlocks, Sums
from transforms.accumulate.passes import PassRequest, expect, run_passes
from transforms.nrsfm.cameras import mean_rotation, metric_upgrade
from transforms.nrsfm.joint import JointSolver
from transforms.nrsfm.model import (
    MIRROR,
    Flags,
    NRSfM,
    SequenceModel,
    ShapeModel,
    default_front,
    depth_flipped,
    depth_sign,
    sequence_model,
)
from transforms.nrsfm.passes import (
    AxisRequest,
    CameraRequest,
    GramRequest,
    newton_axes,
    unit_axes,
)
from transforms.nrsfm.sequence import SMOOTHNESS, SequenceSolver
from transforms.nrsfm.zoom import ZoomSolver
from transforms.signs import fix_signs

Phase = Literal["gram", "fill", "metric", "gauge", "axes", "done"]
# Least ridge, as a share of the mean |M_f d_k|^2: where an axis lies within about 6 degrees of the
# line of sight its coefficient is not seen, whatever the noise estimate says.
RIDGE_FLOOR = 1e-2
START_ROUNDS = 4
RIDGE_ROUNDS = 8
FILL_ROUNDS = 40


@dataclass(frozen=True)
class NRSfMSolver:
    """The factorisation as a machine of passes (a `PassSolver`).

    Passes: the L x L Gram, again with the points filled in that were not seen, until the three
    singular vectors that fill them settle; the metric conditions; scale and mean rotation,
    which set the gauge; then the normal equations of the axes until they settle.

    n_shapes : K >= 0;  front : points nearer to the viewer than the others, or None
    assumed : the hint is taken from the number of points alone
    """

    n_shapes: int
    front: tuple[int, ...] | None = None
    ridge: float | None = None
    assumed: bool = False
    tol: float = 1e-12
    max_rounds: int = 200
    phase: Phase = "gram"
    round_: int = 0
    n_frames: int = 0
    left_out: int = 0
    noise: float = 0.0
    fill: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    clipped: bool = False
    converged: bool = True
    rigid: np.ndarray = field(default_factory=lambda: np.zeros((3, 0)))
    readout: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    modes: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    axes: np.ndarray = field(default_factory=lambda: np.zeros((3, 0, 3)))
    ridges: np.ndarray = field(default_factory=lambda: np.zeros((3, 0)))
    alternated: np.ndarray = field(default_factory=lambda: np.zeros((3, 0, 3)))
    costs: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    best: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if self.n_shapes < 0:
            raise UsageError(f"n_shapes is {self.n_shapes!r}: give 0 (rigid) or more")
        if self.ridge is not None and self.ridge < 0:
            raise UsageError(f"ridge is {self.ridge!r}: give 0 or more, or None to estimate it")

    @property
    def done(self) -> bool:
        """The model is complete."""
        return self.phase == "done"

    def request(self) -> PassRequest:
        """What the next pass computes."""
        if self.phase in ("gram", "fill"):
            return GramRequest(self.fill)
        if self.phase in ("metric", "gauge"):
            return CameraRequest(self.fill, self.readout, self.phase == "metric")
        curved = self.ridge is not None or self.round_ >= RIDGE_ROUNDS
        return AxisRequest(self.fill, self.readout, self.modes, self.axes, self.ridges, curved)

    def step(self, total: Accumulator) -> NRSfMSolver:
        """State after a pass with the summed statistic `total`."""
        total = expect(total, Sums)
        if self.phase in ("gram", "fill"):
            return self._factorised(total)
        if self.phase == "metric":
            upgrade, clipped = metric_upgrade(total["failures"], total["scales"])
            return replace(
                self,
                phase="gauge",
                clipped=clipped,
                readout=self.readout @ upgrade,
                rigid=np.linalg.solve(upgrade, self.rigid),
            )
        return self._placed(total) if self.phase == "gauge" else self._turned(total)

    def _factorised(self, total: Sums) -> NRSfMSolver:
        gram, frames = total["gram"], int(total["frames"])
        n_points = len(gram)
        if n_points < 4 or self.n_shapes > n_points - 4:
            raise UsageError(
                f"{self.n_shapes!r} basis shapes of {n_points!r} landmarks: at most "
                f"{max(n_points - 4, 0)!r} (4 landmarks are needed for the rigid shape)"
            )
        if frames < 3:
            raise DataError(
                f"{frames!r} frames with at least 4 points where at least 3 are needed: add frames"
            )
        if self.front is not None and not all(0 <= i < n_points for i in self.front):
            raise UsageError(f"front is {self.front!r}: give points in 0..{n_points - 1!r}")
        pairs = total["pairs"]
        if self.phase == "gram" and pairs.min() < frames:
            return self._filled(gram * frames / np.maximum(pairs, 1.0))
        values, vectors = np.linalg.eigh(gram)
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        if self.phase == "fill" and self.round_ < FILL_ROUNDS:
            lost = 1 - np.linalg.norm(self.fill.T @ vectors[:, :3], axis=1).min()
            if lost > 1e-10:
                return self._filled(gram)
        if values[2] <= 1e-14 * values[0]:
            raise DataError(
                "the points span fewer than 3 dimensions over all frames: the views do not differ "
                "enough to see depth; add frames that turn"
            )
        k = self.n_shapes
        left = n_points - 4 - k
        tail = values[3 + k : n_points - 1].sum() / max(2 * frames * left, 1) if left else 0.0
        noise = max(tail, 1e-14 * values[0] / (2 * frames * n_points))
        return replace(
            self,
            phase="metric",
            round_=0,
            n_frames=frames,
            left_out=int(total["left_out"]),
            noise=float(np.sqrt(noise)),
            readout=np.ascontiguousarray(vectors[:, :3]),
            rigid=np.ascontiguousarray(vectors[:, :3].T),
            modes=fix_signs(vectors[:, 3 : 3 + k].T),
        )

    def _filled(self, gram: np.ndarray) -> NRSfMSolver:
        """Next round of filling in, with the first three singular vectors."""
        fill = np.ascontiguousarray(np.linalg.eigh(gram)[1][:, ::-1][:, :3])
        return replace(self, phase="fill", fill=fill, round_=self.round_ + 1)

    def _placed(self, total: Sums) -> NRSfMSolver:
        """Gauge: unit mean square scale, mean rotation at zero angles, depth sign by the hint."""
        scale = np.sqrt(total["scale_squares"] / self.n_frames)
        if not scale > 0:
            raise DataError("all points of a frame coincide: leave these frames out")
        turn = mean_rotation(total["rotations"])
        readout, rigid = self.readout @ turn.T / scale, turn @ self.rigid * scale
        if depth_flipped(rigid, self.front):
            readout, rigid = readout @ MIRROR, MIRROR @ rigid
        k = self.n_shapes
        axes = np.broadcast_to(np.eye(3)[:, None], (3, k, 3)).copy()
        ridges = np.full((3, k), self.noise**2 if self.ridge is None else self.ridge)
        return replace(
            self,
            phase="axes" if k else "done",
            readout=np.ascontiguousarray(readout),
            rigid=rigid,
            axes=axes,
            ridges=ridges,
        )

    def _turned(self, total: Sums) -> NRSfMSolver:
        """One round: new axes from the normal equations, at first with the ridge from the noise.

        After some rounds the best of the three starts goes on alone. With the ridge settled the
        steps are Newton's; one that made the cost larger, or where it is not convex, is replaced
        by alternation from the best.
        """
        if self.round_ >= self.max_rounds:
            return self._chosen(total, False)
        axes = unit_axes(total["normal"], total["right"])
        if self.ridge is None and self.round_ < RIDGE_ROUNDS:
            ridges = self._ridges(total)
            solver = replace(self, axes=axes, ridges=ridges, round_=self.round_ + 1)
            return solver._narrowed(total["cost"])
        cost = total["cost"]
        if not self.costs.size:  # the first round with this ridge
            before, alternated = np.full(cost.shape, np.inf), axes
        else:
            before, alternated = self.costs, self.alternated
        worse = ~(cost <= before * (1 + 1e-13))
        newton, convex = newton_axes(self.axes, total["normal"], total["right"], total["curve"])
        best = np.where(worse, before, cost)
        alternated = np.where(worse[..., None], alternated, axes)
        following = np.where((worse | ~convex)[..., None], alternated, newton)
        change = 1 - np.abs(np.einsum("ski,ski->sk", following, self.axes))
        if (change <= self.tol).all():
            return self._chosen(total, True)
        solver = replace(
            self, axes=following, alternated=alternated, costs=best, round_=self.round_ + 1
        )
        return solver._narrowed(best)

    def _narrowed(self, cost: np.ndarray) -> NRSfMSolver:
        """Only the best start of every shape, once the starts have been followed far enough."""
        if len(self.axes) == 1 or self.round_ < START_ROUNDS:
            return self
        at = (cost.argmin(axis=0), np.arange(self.n_shapes))
        narrowed = {"axes": self.axes[at][None], "ridges": self.ridges[at][None]}
        if self.costs.size:
            narrowed |= {"alternated": self.alternated[at][None], "costs": self.costs[at][None]}
        return replace(self, **narrowed)

    def _ridges(self, total: Sums) -> np.ndarray:
        """Noise variance over each coefficient's variance v, by moments.

        y ~ N(0, v p p' + noise I).
        """
        squares = np.maximum(total["pp_squares"], 1e-300)
        variance = (total["py_squares"] - self.noise**2 * total["pp"]) / squares
        least = 1e-3 * total["py_squares"] / squares
        ridges = self.noise**2 / np.maximum(np.maximum(variance, least), 1e-300)
        return np.asarray(np.maximum(ridges, RIDGE_FLOOR * total["pp"] / self.n_frames))

    def _chosen(self, total: Sums, converged: bool) -> NRSfMSolver:
        best = total["cost"].argmin(axis=0)
        return replace(self, phase="done", best=best, converged=converged)

    def model(self) -> ShapeModel:
        """The learned model; UsageError before the passes are done."""
        if not self.done:
            raise UsageError("the factorisation is not done: drive it with run_passes")
        at = (self.best, np.arange(self.n_shapes))
        flags: Flags = {
            "metric_clipped": self.clipped,
            "depth_sign": depth_sign(self.front, self.assumed),
            "left_out": self.left_out,
            "converged": self.converged,
        }
        return ShapeModel(
            rigid=self.rigid,
            axes=fix_signs(self.axes[at]),
            modes=self.modes,
            readout=self.readout,
            ridge=self.ridges[at],
            noise=self.noise,
            n_frames=self.n_frames,
            flags=flags,
        )


def factorise(
    points: np.ndarray,
    n_shapes: int = 0,
    *,
    front: Sequence[int] | None = None,
    ridge: float | None = None,
    temporal: bool = False,
    smoothness: float = SMOOTHNESS,
    zoom: bool = False,
    robust: bool = False,
    refine: bool | None = None,
    max_rounds: int = 20,
    block_rows: int = DEFAULT_BLOCK_ROWS,
) -> NRSfM:
    """Rigid shape, basis shapes, cameras and coefficients of frames of points.

    points : (F, 2, L), x right and y up, any unit, NaN where a point was not seen; frames with
        fewer than 4 seen points are left out, counted in `flags` and get NaN cameras
    n_shapes : K, 0 for the rigid fit, at most L - 4
    front : points that lie nearer to the viewer than the others, on average: decides between the
        two mirror images in depth; default the nose in the order of iBUG when L is 68, and the
        flag "depth_sign" then is "assumed"
    ridge : penalty on coefficients; default noise variance over coefficient variance, at least
        RIDGE_FLOOR of the mean |M_f d_k|^2: coefficients along the line of sight blow up without
    temporal : the frames are a sequence in order, whose shape changes smoothly; basis shapes are
        then the principal shapes of the motion, not rank-one (see `transforms.nrsfm.sequence`)
    smoothness : weight of the penalty on fast changes of a sequence, 0 or more
    zoom : the camera of a sequence zooms, or comes nearer: its scale changes slowly. Without, it
        is one, which tells shapes better where that is true
    robust : Student's t loss with 4 degrees of freedom instead of squares
    refine : refine cameras, coefficients and rank-one shapes jointly (see
        `transforms.nrsfm.joint`); default where points are missing or the loss is robust
    max_rounds : rounds of the joint refinement, or of a sequence's alternation, at most

    Raises DataError for fewer than 3 usable frames or views that do not show depth.
    """
    points = np.asarray(points)
    if points.ndim != 3 or points.shape[1] != 2:
        raise UsageError(f"points have shape {points.shape!r}: give (frames, 2, landmarks)")
    if zoom and not temporal:
        raise UsageError(
            f"zoom is {zoom!r} but temporal {temporal!r}: only a sequence has cameras of unit "
            "scale; leave zoom out, or set temporal"
        )
    frames = np.arange(len(points))
    source = ArrayBlocks({"points": points, "frame": frames}, block_rows)
    assumed, front = front is None, default_front(points.shape[2], front)
    first = NRSfMSolver(0 if temporal else n_shapes, front, ridge, assumed)
    start = run_passes(first, source).model()
    if temporal:
        measured = run_passes(ZoomSolver(start, len(points), done=not zoom), source)
        sequence = SequenceSolver(
            start.rigid, len(points), smoothness, max_rounds, start.noise if robust else None,
            zoom=measured.zoom,
        )  # fmt: skip
        solved = run_passes(sequence, source)
        return sequence_result(solved, n_shapes, front, start.flags).fit(points, frames)
    if refine is None:
        refine = robust or not np.isfinite(points).all()
    if refine:
        start = run_passes(JointSolver(start, robust, max_rounds, front), source).model()
    return start.fit(points)


def sequence_result(
    solver: SequenceSolver, n_shapes: int, front: tuple[int, ...] | None, flags: Flags
) -> SequenceModel:
    """The model of a finished `SequenceSolver`, with the flags of the rigid fit it started from."""
    if n_shapes < 0:
        raise UsageError(f"n_shapes is {n_shapes!r}: give 0 (rigid) or more")
    total = solver.total
    noise = float(np.sqrt(total["square"] / max(2 * float(total["seen"]), 1.0)))
    flags = {
        **flags,
        "left_out": int(total["left_out"]),
        "converged": solver.converged,
        "robust": solver.noise is not None,
        "zoom": bool(solver.zoom.size),
        "rounds": solver.round_,
    }
    scale = noise if solver.noise is None else solver.noise
    return sequence_model(
        solver.best, total["rotations"], solver.n_frames, n_shapes, scale, front, flags,
        solver.zoom,
    )  # fmt: skip
