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
from transforms.blocks import DEFAULT_BLOCK_ROWS, Accumulator, ArrayBlocks, Sums
from transforms.cameras import (
    IBUG68_NOSE,
    angles_of_rotation,
    decompose_cameras,
    mean_rotation,
    metric_upgrade,
)
from transforms.nrsfm_passes import (
    AxisRequest,
    CameraRequest,
    GramRequest,
    camera_frames,
    centre_points,
    unit_axes,
)
from transforms.passes import PassRequest, run_passes
from transforms.signs import fix_signs

Phase = Literal["gram", "metric", "gauge", "axes", "done"]
# Least ridge, as a share of the mean |M_f d_k|^2: where an axis lies within about 6 degrees of the
# line of sight its coefficient is not seen, whatever the noise estimate says.
RIDGE_FLOOR = 1e-2
_MIRROR = np.diag([1.0, 1.0, -1.0])


@dataclass(frozen=True)
class ShapeModel:
    """What the factorisation learns from all frames; frames' parameters follow in closed form.

    rigid : float64 (3, L), B_0, centred, facing the camera, in the points' unit of length
    axes : float64 (K, 3), unit d_k;  modes : float64 (K, L), orthonormal b_k
    readout : float64 (L, 3), a centred frame's camera is X_f @ readout
    ridge : float64 (K,), penalty on a coefficient: noise variance over coefficient variance
    noise : standard deviation of a coordinate that the model does not explain
    n_frames : complete frames used
    flags : metric_clipped (the metric upgrade was not definite), depth_sign ('front': by the hint,
        'arbitrary': mirror images in depth fit equally well), left_out (frames with missing
        points), converged
    """

    rigid: np.ndarray
    axes: np.ndarray
    modes: np.ndarray
    readout: np.ndarray
    ridge: np.ndarray
    noise: float
    n_frames: int
    flags: dict[str, bool | int | str]

    @property
    def basis(self) -> np.ndarray:
        """B_k = d_k b_k', float64 (K, 3, L)."""
        return self.axes[:, :, None] * self.modes[:, None, :]

    def fit(self, points: np.ndarray) -> NRSfM:
        """Parameters of frames, seen or unseen (Paper III, eq. 11), in closed form.

        points : (F, 2, L), y up. Frames with a point that is not finite get NaN parameters.
        """
        points = np.asarray(points, np.float64)
        if points.ndim != 3 or points.shape[2] != self.rigid.shape[1]:
            raise UsageError(
                f"points have shape {points.shape!r} but the model has {self.rigid.shape[1]!r} "
                "landmarks: give (frames, 2, landmarks)"
            )
        centred, shift, complete = centre_points(points)
        camera = centred @ self.readout
        projected = np.einsum("fij,kj->fki", camera, self.axes)
        y = np.einsum("fil,kl->fki", centred, self.modes)
        square = (projected**2).sum(axis=2)
        size = np.maximum(square + self.ridge, np.finfo(float).tiny)
        cameras = np.full((len(points), 2, 3), np.nan)
        coefficients = np.full((len(points), len(self.axes)), np.nan)
        translation = np.full((len(points), 2), np.nan)
        cameras[complete] = camera
        coefficients[complete] = (projected * y).sum(axis=2) / size
        translation[complete] = shift
        return NRSfM(self, cameras, coefficients, translation)


@dataclass(frozen=True)
class NRSfM:
    """A shape model and the parameters of F frames.

    cameras : float64 (F, 2, 3);  coefficients : float64 (F, K);  translation : float64 (F, 2)
    """

    model: ShapeModel
    cameras: np.ndarray
    coefficients: np.ndarray
    translation: np.ndarray

    @property
    def rigid(self) -> np.ndarray:
        """B_0, float64 (3, L)."""
        return self.model.rigid

    @property
    def basis(self) -> np.ndarray:
        """B_k, float64 (K, 3, L)."""
        return self.model.basis

    @property
    def flags(self) -> dict[str, bool | int | str]:
        """See `ShapeModel`."""
        return self.model.flags

    @property
    def scale(self) -> np.ndarray:
        """Size of each frame relative to the rigid shape, sqrt(k11 k22), float64 (F,)."""
        k = decompose_cameras(self.cameras)[0]
        return np.sqrt(k[:, 0, 0] * k[:, 1, 1])

    @property
    def angles(self) -> np.ndarray:
        """(pitch, yaw, roll) in radians, float64 (F, 3); zero faces the camera."""
        return angles_of_rotation(decompose_cameras(self.cameras)[1])

    def world_shapes(self) -> np.ndarray:
        """B_0 + sum_k a_fk B_k before the cameras, float64 (F, 3, L)."""
        moved = np.einsum("fk,kj,kl->fjl", self.coefficients, self.model.axes, self.model.modes)
        return self.rigid + moved

    def shapes(self) -> np.ndarray:
        """Shapes in the camera frame, centred, float64 (F, 3, L).

        x and y are the modelled points; z is scaled as the camera scales the image.
        """
        shapes = np.full((len(self.cameras), 3, self.rigid.shape[1]), np.nan)
        complete = np.isfinite(self.cameras).all(axis=(1, 2))
        shapes[complete] = camera_frames(self.cameras[complete]) @ self.world_shapes()[complete]
        return shapes

    def project(self) -> np.ndarray:
        """Modelled points (F, 2, L), translation included (Paper III, eq. 2)."""
        return self.cameras @ self.world_shapes() + self.translation[:, :, None]

    def parameters(self) -> tuple[list[str], np.ndarray]:
        """(names, float64 (F, 8 + K)): q = (k, theta, alpha, t) of Paper III, angles in radians."""
        k, rotations = decompose_cameras(self.cameras)
        names = ["k11", "k12", "k22", "pitch", "yaw", "roll"]
        names += [f"alpha{i}" for i in range(self.coefficients.shape[1])] + ["tx", "ty"]
        camera = np.stack([k[:, 0, 0], k[:, 0, 1], k[:, 1, 1]], axis=1)
        angles = angles_of_rotation(rotations)
        return names, np.hstack([camera, angles, self.coefficients, self.translation])


@dataclass(frozen=True)
class NRSfMSolver:
    """The factorisation as a machine of passes (a `PassSolver`).

    Passes: the L x L Gram; the metric conditions; scale and mean rotation, which set the gauge;
    then the normal equations of the axes until they settle.

    n_shapes : K >= 0;  front : points nearer to the viewer than the others, or None
    """

    n_shapes: int
    front: tuple[int, ...] | None = None
    ridge: float | None = None
    tol: float = 1e-12
    max_rounds: int = 200
    phase: Phase = "gram"
    round_: int = 0
    n_frames: int = 0
    left_out: int = 0
    noise: float = 0.0
    clipped: bool = False
    converged: bool = True
    rigid: np.ndarray = field(default_factory=lambda: np.zeros((3, 0)))
    readout: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    modes: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    axes: np.ndarray = field(default_factory=lambda: np.zeros((3, 0, 3)))
    ridges: np.ndarray = field(default_factory=lambda: np.zeros((3, 0)))
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
        if self.phase == "gram":
            return GramRequest()
        if self.phase in ("metric", "gauge"):
            return CameraRequest(self.readout, self.phase == "metric")
        return AxisRequest(self.readout, self.modes, self.axes, self.ridges)

    def step(self, total: Accumulator) -> NRSfMSolver:
        """State after a pass with the summed statistic `total`."""
        if not isinstance(total, Sums):
            raise UsageError(f"a pass returned {type(total).__name__!r}: give it this request")
        if self.phase == "gram":
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
            raise DataError(f"{frames!r} complete frames where at least 3 are needed: add frames")
        if self.front is not None and not all(0 <= i < n_points for i in self.front):
            raise UsageError(f"front is {self.front!r}: give points in 0..{n_points - 1!r}")
        values, vectors = np.linalg.eigh(gram)
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
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
            n_frames=frames,
            left_out=int(total["left_out"]),
            noise=float(np.sqrt(noise)),
            readout=np.ascontiguousarray(vectors[:, :3]),
            rigid=np.ascontiguousarray(vectors[:, :3].T),
            modes=fix_signs(vectors[:, 3 : 3 + k].T),
        )

    def _placed(self, total: Sums) -> NRSfMSolver:
        """Gauge: unit mean square scale, mean rotation at zero angles, depth sign by the hint."""
        scale = np.sqrt(total["scale_squares"] / self.n_frames)
        if not scale > 0:
            raise DataError("all points of a frame coincide: leave these frames out")
        turn = mean_rotation(total["rotations"])
        readout, rigid = self.readout @ turn.T / scale, turn @ self.rigid * scale
        if self.front is not None:
            nearer = np.zeros(rigid.shape[1], bool)
            nearer[list(self.front)] = True
            flip = rigid[2, nearer].mean() < rigid[2, ~nearer].mean()
        else:  # no hint: a fixed rule, so that equal data give equal results
            flip = bool(fix_signs(rigid[2:])[0] @ rigid[2] < 0)
        if flip:
            readout, rigid = readout @ _MIRROR, _MIRROR @ rigid
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
        """One round: new axes from the normal equations, and the ridge from the noise."""
        if self.round_ >= self.max_rounds:
            return self._chosen(total, False)
        axes = unit_axes(total["normal"], total["right"])
        change = 1 - np.abs(np.einsum("ski,ski->sk", axes, self.axes))
        settled = bool((change <= self.tol).all())
        ridges = self.ridges
        if self.ridge is None and self.round_ < 10:
            # y ~ N(0, v p p' + noise I): the moment estimate of a coefficient's variance v.
            explained = total["py_squares"] - self.noise**2 * total["pp"]
            variance = explained / np.maximum(total["pp_squares"], np.finfo(float).tiny)
            least = 1e-3 * total["py_squares"] / np.maximum(total["pp_squares"], 1e-300)
            ridges = self.noise**2 / np.maximum(np.maximum(variance, least), 1e-300)
            ridges = np.maximum(ridges, RIDGE_FLOOR * total["pp"] / self.n_frames)
            settled = False
        if settled:
            return self._chosen(total, True)
        return replace(self, axes=axes, ridges=ridges, round_=self.round_ + 1)

    def _chosen(self, total: Sums, converged: bool) -> NRSfMSolver:
        best = total["cost"].argmin(axis=0)
        return replace(self, phase="done", best=best, converged=converged)

    def model(self) -> ShapeModel:
        """The learned model; UsageError before the passes are done."""
        if not self.done:
            raise UsageError("the factorisation is not done: drive it with run_passes")
        at = (self.best, np.arange(self.n_shapes))
        flags: dict[str, bool | int | str] = {
            "metric_clipped": self.clipped,
            "depth_sign": "arbitrary" if self.front is None else "front",
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


def default_front(n_points: int, front: Sequence[int] | None) -> tuple[int, ...] | None:
    """The hint as given; the nose for 68 (iBUG) points; else none."""
    if front is not None:
        return tuple(int(i) for i in front)
    return IBUG68_NOSE if n_points == 68 else None


def factorise(
    points: np.ndarray,
    n_shapes: int = 0,
    *,
    front: Sequence[int] | None = None,
    ridge: float | None = None,
    block_rows: int = DEFAULT_BLOCK_ROWS,
) -> NRSfM:
    """Rigid shape, rank-one basis shapes, cameras and coefficients of frames of points.

    points : (F, 2, L), x right and y up, any unit; frames with a point that is not finite are left
        out of the model, counted in `flags` and get NaN parameters
    n_shapes : K, 0 for the rigid fit, at most L - 4
    front : points that lie nearer to the viewer than the others, on average: decides between the
        two mirror images in depth; default the nose when L is 68
    ridge : penalty on coefficients; default noise variance over coefficient variance, at least
        RIDGE_FLOOR of the mean |M_f d_k|^2: coefficients along the line of sight blow up without

    Raises DataError for fewer than 3 complete frames or views that do not show depth.
    """
    points = np.asarray(points)
    if points.ndim != 3 or points.shape[1] != 2:
        raise UsageError(f"points have shape {points.shape!r}: give (frames, 2, landmarks)")
    solver = NRSfMSolver(n_shapes, default_front(points.shape[2], front), ridge)
    return run_passes(solver, ArrayBlocks({"points": points}, block_rows)).model().fit(points)
