"""What one pass of the landmark factorisation computes from a block of frames."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from schemas.errors import UsageError
from transforms.accumulate.blocks import TRANSFORMS, Arrays, Sums
from transforms.nrsfm.cameras import metric_conditions, nearest_scaled_rotation
from transforms.nrsfm.frames import LEAST_POINTS, fit_cameras, seen_points

STRIP = 2048  # frames whose products fit the processor's cache
# A symmetric 3 x 3 matrix as its six entries, and back.
ROWS, COLUMNS = (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)
FULL = (0, 1, 2, 1, 3, 4, 2, 4, 5)


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
    if seen.all() and seen.shape[1] >= LEAST_POINTS:
        return values - values.mean(axis=2, keepdims=True), seen, np.ones(len(values), bool)
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

    kind = f"{TRANSFORMS}.nrsfm_passes.GramRequest"

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

    kind = f"{TRANSFORMS}.nrsfm_passes.CameraRequest"

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
    curved : also sum what Newton steps on the axes need
    """

    kind = f"{TRANSFORMS}.nrsfm_passes.AxisRequest"

    readout: np.ndarray
    modes: np.ndarray
    axes: np.ndarray
    ridge: np.ndarray
    curved: bool = False

    @property
    def token(self) -> str:
        """Names fill, readout and modes, which the preparation depends on."""
        content = self.fill.tobytes() + self.readout.tobytes() + self.modes.tobytes()
        return f"nrsfm-{hashlib.sha256(content).hexdigest()}"

    def prepare(self, arrays: Arrays) -> Arrays:
        """M'M (6, m), M'y (K, 3, m), sum of |y|^2 (K,)."""
        points = fill_points(arrays["points"], self.fill)[0]
        cameras = points @ self.readout
        y = points @ self.modes.T
        square = (cameras[:, :, ROWS] * cameras[:, :, COLUMNS]).sum(axis=1)
        across = np.einsum("fik,fij->kjf", y, cameras, optimize=True)
        return {
            "mm": np.ascontiguousarray(square.T),
            "my": np.ascontiguousarray(across),
            "yy": np.einsum("fik,fik->k", y, y),
        }

    def statistic(self, prepared: Arrays) -> Sums:
        """normal (S, K, 3, 3), right (S, K, 3), cost (S, K), and what the ridge is made of.

        With p = M_f d and a = p.y / s, s = |p|^2 + ridge, the cost is sum |y|^2 - (p.y)^2 / s; its
        gradient is 2 (normal d - right) and its Hessian 2 (normal - curve), curve (S, K, 3, 3)
        where `curved`.
        """
        n = prepared["mm"].shape[1]
        sums = Sums.zero()
        for start in range(0, max(n, 1), STRIP):
            strip = slice(start, start + STRIP)
            sums = sums.merge(self._strip(prepared["mm"][:, strip], prepared["my"][:, :, strip]))
        return sums.merge(Sums({**_zeros(sums), "cost": prepared["yy"] + 0 * sums["cost"]}))

    def _strip(self, mm: np.ndarray, my: np.ndarray) -> Sums:
        """Sums over frames of M'M (6, m) and M'y (K, 3, m)."""
        starts, k, _ = self.axes.shape
        d = np.ascontiguousarray(self.axes.swapaxes(0, 1))  # (K, S, 3)
        full = np.stack([mm[list(FULL[3 * i : 3 * i + 3])] for i in range(3)])
        turned = (d.reshape(-1, 3) @ full).reshape(3, k, starts, -1)  # M'M d
        pp = np.einsum("kSi,ikSm->kSm", d, turned)
        py = d @ my
        s = pp + self.ridge.T[:, :, None]
        a = py / s
        weights = a * a
        normal = (weights.reshape(k * starts, -1) @ mm.T).reshape(k, starts, 6).swapaxes(0, 1)
        found = {
            "normal": normal[..., FULL].reshape(starts, k, 3, 3),
            "right": (a @ my.swapaxes(1, 2)).swapaxes(0, 1),
            "cost": -np.einsum("kSm,kSm->Sk", a, py),
            "pp": pp.sum(axis=2).T,
            "pp_squares": np.einsum("kSm,kSm->Sk", pp, pp),
            "py_squares": np.einsum("kSm,kSm->Sk", py, py),
        }
        if self.curved:
            twice, size = 2 * a, 1 / np.sqrt(s)
            slope = [(my[:, i, None] - twice * turned[i]) * size for i in range(3)]
            pairs = zip(ROWS, COLUMNS, strict=True)
            curve = [np.einsum("kSm,kSm->Sk", slope[i], slope[j]) for i, j in pairs]
            found["curve"] = np.stack(curve, axis=-1)[..., FULL].reshape(starts, k, 3, 3)
        return Sums(found)


def _zeros(sums: Sums) -> Arrays:
    return {name: np.zeros_like(array) for name, array in sums.arrays.items()}


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


def newton_axes(
    axes: np.ndarray, normal: np.ndarray, right: np.ndarray, curve: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(axes (..., 3), convex bool (...)) after a Newton step on the sphere.

    From the sums of `AxisRequest` at unit axes; where the cost is not convex there, the step is
    not to be taken.
    """
    gradient = np.einsum("...ij,...j->...i", normal, axes) - right
    inward = (gradient * axes).sum(axis=-1)
    project = np.eye(3) - axes[..., :, None] * axes[..., None, :]
    hessian = project @ (normal - curve - inward[..., None, None] * np.eye(3)) @ project
    size = np.maximum(np.trace(normal, axis1=-2, axis2=-1), np.finfo(float).tiny)
    values, vectors = np.linalg.eigh(hessian / size[..., None, None] + 10 * (np.eye(3) - project))
    convex = values[..., 0] > 1e-8
    slope = np.einsum("...ij,...i->...j", vectors, gradient / size[..., None])
    step = np.einsum("...ij,...j->...i", vectors, slope / np.maximum(values, 1e-8))
    moved = axes - np.einsum("...ij,...j->...i", project, step)
    return moved / np.linalg.norm(moved, axis=-1, keepdims=True), convex


def camera_frames(cameras: np.ndarray) -> np.ndarray:
    """(n, 3, 3): the camera's two rows, then the depth row s r_3 of its nearest scaled rotation."""
    scale, rotations = nearest_scaled_rotation(cameras)
    return np.concatenate([cameras, scale[:, None, None] * rotations[:, 2:]], axis=1)
