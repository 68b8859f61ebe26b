"""What one pass of the landmark factorisation computes from a block of frames."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from schemas.errors import UsageError
from transforms.blocks import Arrays, Sums
from transforms.cameras import metric_conditions, nearest_scaled_rotation
from transforms.nrsfm_frames import LEAST_POINTS, fit_cameras, seen_points


def centre_points(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centred (m, 2, L), translation (m, 2), complete bool (m,)) of points (n, 2, L).

    Frames with a point that is not finite are left out (m <= n).
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 3 or points.shape[1] != 2:
        raise UsageError(f"points have shape {points.shape!r}: give (frames, 2, landmarks)")
    complete = np.isfinite(points).all(axis=(1, 2))
    points = points[complete]
    translation = points.mean(axis=2)
    return points - translation[:, :, None], translation, complete


def fill_points(points: np.ndarray, fill: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centred (m, 2, L), seen (m, L), usable bool (n,)) of frames with at least 4 seen points.

    fill : (L, 3), affine shape whose best image stands in for points that were not seen; (0, 3)
        puts zero, the frame's centre, there
    """
    values, seen = seen_points(points)
    usable = seen.sum(axis=1) >= LEAST_POINTS
    values, seen = values[usable], seen[usable]
    holes = np.flatnonzero((seen == 0).any(axis=1))
    if len(holes) and len(fill):
        shapes = np.broadcast_to(fill.T, (len(holes), *fill.T.shape))
        cameras, shift = fit_cameras(values[holes], seen[holes], shapes, False)
        model = cameras @ fill.T + shift[:, :, None]
        values[holes] = np.where(seen[holes, None] > 0, values[holes], model)
        middle = values.mean(axis=2)
    else:
        middle = np.einsum("fil,fl->fi", values, seen) / seen.sum(axis=1)[:, None]
    centred = values - middle[:, :, None]
    return (centred if len(fill) else centred * seen[:, None]), seen, usable


@dataclass(frozen=True)
class FilledRequest:
    """What the requests share: centred points, those not seen filled in.

    fill : (L, 3), see `fill_points`
    """

    fill: np.ndarray

    @property
    def token(self) -> str:
        """Names the fill."""
        return f"nrsfm-filled-{hashlib.sha256(self.fill.tobytes()).hexdigest()}"

    def prepare(self, arrays: Arrays) -> Arrays:
        """points (m, 2, L), pairs (L, L) of seen points unless all were, left_out."""
        points, seen, usable = fill_points(arrays["points"], self.fill)
        return {"points": points, "pairs": seen.T @ seen, "left_out": np.array((~usable).sum())}


@dataclass(frozen=True)
class GramRequest(FilledRequest):
    """L x L Gram of the centred points (the right singular vectors of thesis eq. 4.8)."""

    def statistic(self, prepared: Arrays) -> Sums:
        """gram (L, L), pairs (L, L) of points seen together, frames, left_out."""
        points = prepared["points"]
        flat = points.reshape(-1, points.shape[2])
        return Sums(
            {
                "gram": flat.T @ flat,
                "pairs": prepared["pairs"],
                "frames": np.array(len(points)),
                "left_out": prepared["left_out"],
            }
        )


@dataclass(frozen=True)
class CameraRequest(FilledRequest):
    """Metric conditions of the affine cameras X_f V_0, or, with Q known, scale and rotations.

    readout : (L, 3), cameras are M_f = X_f readout
    """

    readout: np.ndarray
    metric: bool

    def statistic(self, prepared: Arrays) -> Sums:
        """failures and scales (6, 6); or scale_squares and rotations (3, 3)."""
        cameras = prepared["points"] @ self.readout
        if self.metric:
            square = (prepared["points"] ** 2).sum(axis=(1, 2))
            weights = 1 / np.maximum(square, np.finfo(float).tiny)  # frames count equally
            failures, scales = metric_conditions(cameras, weights)
            return Sums({"failures": failures, "scales": scales})
        scale, rotations = nearest_scaled_rotation(cameras)
        return Sums({"scale_squares": (scale**2).sum(), "rotations": rotations.sum(axis=0)})


@dataclass(frozen=True)
class AxisRequest(FilledRequest):
    """Normal equations of every basis shape's axis d_k, for several starts at once.

    With complete points the objective (Paper III, eq. 10) separates by k: y_fk = X_f b_k and
    minimise sum_f |y_fk - a_fk M_f d_k|^2 + ridge_k a_fk^2.

    readout : (L, 3);  modes : (K, L), b_k;  axes : (S, K, 3), d_k;  ridge : (S, K)
    """

    readout: np.ndarray
    modes: np.ndarray
    axes: np.ndarray
    ridge: np.ndarray

    @property
    def token(self) -> str:
        """Names fill, readout and modes, which the preparation depends on."""
        content = self.fill.tobytes() + self.readout.tobytes() + self.modes.tobytes()
        return f"nrsfm-{hashlib.sha256(content).hexdigest()}"

    def prepare(self, arrays: Arrays) -> Arrays:
        """M'M (m, 3, 3), M'y (m, K, 3), |y|^2 (m, K)."""
        points = fill_points(arrays["points"], self.fill)[0]
        cameras = points @ self.readout
        y = points @ self.modes.T
        return {
            "mm": np.einsum("fij,fik->fjk", cameras, cameras),
            "my": np.einsum("fij,fik->fkj", cameras, y),
            "yy": np.einsum("fik,fik->fk", y, y),
        }

    def statistic(self, prepared: Arrays) -> Sums:
        """normal (S, K, 3, 3), right (S, K, 3), cost (S, K) and the sums the ridge is made of."""
        mm, my = prepared["mm"], prepared["my"]
        md = np.einsum("fij,skj->fski", mm, self.axes)
        pp = np.einsum("ski,fski->fsk", self.axes, md)
        py = np.einsum("ski,fki->fsk", self.axes, my)
        a = py / (pp + self.ridge)
        weights = a * a
        cost = prepared["yy"][:, None] - 2 * a * py + weights * (pp + self.ridge)
        return Sums(
            {
                "normal": np.einsum("fsk,fij->skij", weights, mm, optimize=True),
                "right": np.einsum("fsk,fki->ski", a, my, optimize=True),
                "cost": cost.sum(axis=0),
                "pp": pp.sum(axis=0),
                "pp_squares": (pp * pp).sum(axis=0),
                "py_squares": (py * py).sum(axis=0),
            }
        )


def unit_axes(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Minimisers of d'Hd - 2 g'd over unit vectors d (..., 3), for H (..., 3, 3), g (..., 3).

    (H + mu I) d = g with the mu > -lambda_min at which |d| = 1, by bisection.
    """
    values, vectors = np.linalg.eigh(normal)
    g = np.einsum("...ij,...i->...j", vectors, right)
    size = np.linalg.norm(g, axis=-1, keepdims=True)
    low = -values[..., :1] + np.abs(g[..., :1])  # |d| >= 1 here
    high = -values[..., :1] + size  # |d| <= 1 here
    for _ in range(80):
        middle = (low + high) / 2
        length = np.linalg.norm(g / np.maximum(values + middle, np.finfo(float).tiny), axis=-1)
        longer = (length > 1)[..., None]
        low, high = np.where(longer, middle, low), np.where(longer, high, middle)
    d = g / np.maximum(values + high, np.finfo(float).tiny)
    d = np.einsum("...ij,...j->...i", vectors, d)
    norm = np.linalg.norm(d, axis=-1, keepdims=True)
    return np.where(norm > 0, d / np.where(norm > 0, norm, 1.0), vectors[..., :, 0])


def camera_frames(cameras: np.ndarray) -> np.ndarray:
    """(n, 3, 3): the camera's two rows, then the depth row s r_3 of its nearest scaled rotation."""
    scale, rotations = nearest_scaled_rotation(cameras)
    return np.concatenate([cameras, scale[:, None, None] * rotations[:, 2:]], axis=1)
