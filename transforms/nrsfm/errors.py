"""How far reconstructed shapes are from true ones."""

from __future__ import annotations

import numpy as np

from schemas.errors import UsageError


def _centred(shapes: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shapes, truth = np.asarray(shapes, np.float64), np.asarray(truth, np.float64)
    if shapes.shape != truth.shape or shapes.ndim != 3 or shapes.shape[1] != 3:
        raise UsageError(
            f"shapes {shapes.shape!r} and truth {truth.shape!r} must both be (frames, 3, points)"
        )
    return (
        shapes - shapes.mean(axis=2, keepdims=True),
        truth - truth.mean(axis=2, keepdims=True),
    )


def similarity_error(
    shapes: np.ndarray, truth: np.ndarray, reflect: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(relative error (F,), aligned shapes (F, 3, L)) after each frame's best similarity.

    shapes, truth : (F, 3, L). Rotation, scale and translation are fitted frame by frame (Umeyama
    1991); the error is |s R X + t - S| / |S - mean S|. `reflect` also allows a mirror image.
    """
    x, s = _centred(shapes, truth)
    u, d, vt = np.linalg.svd(np.einsum("fil,fjl->fij", s, x))
    sign = np.ones_like(d)
    if not reflect:
        sign[:, -1] = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    rotation = (u * sign[:, None]) @ vt
    square = (x**2).sum(axis=(1, 2))
    scale = (d * sign).sum(axis=1) / np.where(square > 0, square, 1.0)
    aligned = scale[:, None, None] * (rotation @ x)
    norm = np.linalg.norm(s, axis=(1, 2))
    error = np.linalg.norm(aligned - s, axis=(1, 2)) / np.where(norm > 0, norm, 1.0)
    return error, aligned + np.asarray(truth, np.float64).mean(axis=2, keepdims=True)


def camera_frame_error(shapes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """|S - X| / |S| per frame (F,), centred, z mirrored where that is better; nothing else fitted.

    The relative Frobenius measure of the non-rigid structure-from-motion literature.
    """
    x, s = _centred(shapes, truth)
    mirrored = x * np.array([1.0, 1.0, -1.0])[:, None]
    norm = np.linalg.norm(s, axis=(1, 2))
    error = np.minimum(
        np.linalg.norm(x - s, axis=(1, 2)), np.linalg.norm(mirrored - s, axis=(1, 2))
    )
    return error / np.where(norm > 0, norm, 1.0)


def structure_error(shapes: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of points over sigma, after one orthogonal map for the whole sequence.

    shapes, truth : (F, 3, L), centred here. sigma is the mean standard deviation of a frame's
    coordinates; the map is the orthogonal factor of truth pinv(shapes); no scale is fitted (the
    e_3D of Akhter, Sheikh, Khan and Kanade 2008).
    """
    x, s = _centred(shapes, truth)
    flat_x, flat_s = (np.swapaxes(v, 0, 1).reshape(3, -1) for v in (x, s))
    u, _, vt = np.linalg.svd(flat_s @ np.linalg.pinv(flat_x))
    sigma = s.std(axis=2).mean()
    distance = np.linalg.norm(s - (u @ vt) @ x, axis=1)
    return float(distance.mean() / (sigma if sigma > 0 else 1.0))
