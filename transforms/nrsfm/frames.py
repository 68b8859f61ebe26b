"""Parameters of frames of points, given the shapes: cameras, coefficients, translation, weights.

Points that were not seen have weight zero, and with a robust scale those far from the model have
little; `completed` holds the model's prediction in their place, in the share that their weight
lacks. Least squares on completed points is a bound of the weighted one (Dempster, Laird and Rubin
1977), so the solvers that read them need no weights of their own and never get worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import Accumulator, Sums
from transforms.accumulate.passes import expect
from transforms.nrsfm.cameras import fit_views

LEAST_POINTS = 4  # three columns of an affine camera and the translation
FREEDOM = 4.0  # degrees of freedom of the Student t distribution of robust fits
CHUNK = 1024  # frames whose design matrices are held at once


def enough_frames(total: Accumulator) -> Sums:
    """The pass' sums; DataError unless at least 3 frames had enough points."""
    total = expect(total, Sums)
    if int(total["frames"]) < 3:
        raise DataError(
            f"{int(total['frames'])!r} frames with enough points where at least 3 are needed: "
            "add frames"
        )
    return total


@dataclass(frozen=True)
class Frames:
    """Frames of points against a model.

    cameras : float64 (n, 2, 3);  coefficients : (n, K);  covariance : (n, K, K) of coefficients,
        over the noise variance;  translation : (n, 2);  weights : (n, L) in 0..1
    completed : (n, 2, L), points less translation, with the model where they lack weight
    residual : float64 (n,), weighted squares of what the model does not explain
    usable : bool (n,), frames with at least LEAST_POINTS points; others have NaN parameters
    """

    cameras: np.ndarray
    coefficients: np.ndarray
    covariance: np.ndarray
    translation: np.ndarray
    weights: np.ndarray
    completed: np.ndarray
    residual: np.ndarray
    usable: np.ndarray


def seen_points(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(points float64 with zeros where not finite (n, 2, L), seen float64 (n, L) of 0 and 1)."""
    points = np.asarray(points, np.float64)
    if points.ndim != 3 or points.shape[1] != 2:
        raise UsageError(f"points have shape {points.shape!r}: give (frames, 2, landmarks)")
    seen = np.isfinite(points).all(axis=1)
    if seen.all():
        return points, np.ones(seen.shape)
    return np.where(seen[:, None], points, 0.0), seen.astype(np.float64)


def robust_weights(square: np.ndarray, noise: float) -> np.ndarray:
    """1 / (1 + |r|^2 / (FREEDOM noise^2)) of squared residuals: Student t, weight 1 at zero."""
    return 1 / (1 + square / max(FREEDOM * noise**2, np.finfo(float).tiny))


def robust_scale(square: float, n_seen: float) -> float:
    """Scale of the Student t distribution from the weighted squares of `n_seen` points' residuals.

    One step of its expectation maximisation, for two coordinates a point.
    """
    return float(np.sqrt((FREEDOM + 2) / FREEDOM * square / max(2 * n_seen, 1.0)))


def loss_of(fit: Frames, seen: np.ndarray, noise: float | None) -> np.ndarray:
    """What fits minimise, float64 (n,): squares, or FREEDOM noise^2 sum log(1 + |r|^2 / ...)."""
    if noise is None:
        return fit.residual
    lost = np.log(np.maximum(fit.weights, np.finfo(float).tiny))
    return np.asarray(-FREEDOM * noise**2 * np.where(seen > 0, lost, 0.0).sum(axis=1))


def fit_cameras(
    points: np.ndarray,
    weights: np.ndarray,
    shapes: np.ndarray,
    metric: bool,
    spread: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(cameras (n, 2, 3), translation (n, 2)) of least weighted squares |X_f - M_f S_f - t_f 1'|^2.

    metric : cameras are two rows of a rotation, else affine
    spread : (n, 3, 3), added to S_f S_f': what the shapes' uncertainty adds
    """
    total = np.maximum(weights.sum(axis=1), np.finfo(float).tiny)[:, None]
    middle = np.einsum("fil,fl->fi", points, weights) / total
    centre = np.einsum("fil,fl->fi", shapes, weights) / total
    turned = (shapes - centre[:, :, None]) * weights[:, None]
    gram = turned @ np.swapaxes(shapes, 1, 2)
    cross = (points - middle[:, :, None]) @ np.swapaxes(turned, 1, 2)
    if spread is not None:
        gram = gram + spread
    if metric:
        cameras = fit_views(gram, cross)[:, :2]
    else:
        floor = 1e-12 * np.trace(gram, axis1=1, axis2=2)[:, None, None] + 1e-200
        solved = np.linalg.solve(gram + floor * np.eye(3), np.swapaxes(cross, 1, 2))
        cameras = np.swapaxes(solved, 1, 2)
    return cameras, middle - np.einsum("fij,fj->fi", cameras, centre)


def fit_frames(
    points: np.ndarray,
    rigid: np.ndarray,
    basis: np.ndarray,
    ridge: np.ndarray,
    *,
    metric: bool = False,
    noise: float | None = None,
    variance: float = 0.0,
    rounds: int = 20,
) -> Frames:
    """Parameters of frames by alternating least squares (Paper III, eq. 11, with a ridge).

    points : (n, 2, L), NaN where not seen;  rigid : (3, L);  basis : (K, 3, L)
    ridge : (K,), noise variance over the variance of each coefficient
    metric : cameras are rotations of unit scale, else affine
    noise : scale of the Student t distribution of robust fits; None for least squares
    variance : noise variance with which cameras allow for the uncertainty of the coefficients
        (the expectation step of `transforms.nrsfm.joint`); 0 takes coefficients as known
    """
    values, seen = seen_points(points)
    parts = [
        _fit_chunk(values[i : i + CHUNK], seen[i : i + CHUNK], rigid, basis, ridge, metric, noise,
                   variance, rounds)
        for i in range(0, max(len(values), 1), CHUNK)
    ]  # fmt: skip
    return Frames(*(np.concatenate([getattr(p, name) for p in parts]) for name in _FIELDS))


_FIELDS = tuple(Frames.__dataclass_fields__)


def _fit_chunk(
    values: np.ndarray,
    seen: np.ndarray,
    rigid: np.ndarray,
    basis: np.ndarray,
    ridge: np.ndarray,
    metric: bool,
    noise: float | None,
    variance: float,
    rounds: int,
) -> Frames:
    n, k, points = len(values), len(basis), rigid.shape[1]
    flat = basis.reshape(k, rigid.size)
    coefficients, covariance = np.zeros((n, k)), np.zeros((n, k, k))
    weights, spread = seen, None
    overlaps = np.einsum("kil,jml->kjim", basis, basis, optimize=True).reshape(k * k, 9)
    for step in range(rounds):
        before = coefficients
        shapes = rigid + (coefficients @ flat).reshape(n, *rigid.shape)
        cameras, translation = fit_cameras(values, weights, shapes, metric, spread)
        if k:
            design = np.einsum("fij,kjl->fkil", cameras, basis, optimize=True)
            left = values - translation[:, :, None] - cameras @ rigid
            heavy = (design * weights[:, None, None]).reshape(n, k, 2 * points)
            normal = heavy @ np.swapaxes(design.reshape(n, k, 2 * points), 1, 2) + np.diag(ridge)
            covariance = np.linalg.inv(normal)
            right = heavy @ left.reshape(n, 2 * points, 1)
            coefficients = (covariance @ right)[..., 0]
            if variance:
                spread = variance * (covariance.reshape(n, k * k) @ overlaps).reshape(n, 3, 3)
            shapes = rigid + (coefficients @ flat).reshape(n, *rigid.shape)
        if noise is not None:
            square = ((values - translation[:, :, None] - cameras @ shapes) ** 2).sum(axis=1)
            weights = seen * robust_weights(square, noise)
        change = np.abs(coefficients - before).max(initial=0.0)
        if step and noise is None and change <= 1e-9 * np.abs(coefficients).max(initial=0.0):
            break
    return completed_frames(
        values, seen, weights, cameras, coefficients, covariance, translation, shapes
    )


def completed_frames(
    values: np.ndarray,
    seen: np.ndarray,
    weights: np.ndarray,
    cameras: np.ndarray,
    coefficients: np.ndarray,
    covariance: np.ndarray,
    translation: np.ndarray,
    shapes: np.ndarray,
) -> Frames:
    """`Frames` of fitted parameters, NaN where too few points were seen."""
    usable = seen.sum(axis=1) >= LEAST_POINTS
    model = cameras @ shapes
    residual = values - translation[:, :, None] - model
    completed = model + weights[:, None] * residual
    square = (weights[:, None] * residual**2).sum(axis=(1, 2))

    def masked(array: np.ndarray) -> np.ndarray:
        return np.where(usable.reshape(-1, *[1] * (array.ndim - 1)), array, np.nan)

    return Frames(
        masked(cameras),
        masked(coefficients),
        covariance,
        masked(translation),
        weights,
        completed,
        square,
        usable,
    )
