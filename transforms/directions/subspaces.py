"""Leading subspaces of matrices that are known by their products only, and their sparse errors.

For Jacobians: G = J'J is applied, never formed (`transforms.directions.jacobian`), so the cost does
not depend on the number of pixels that are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.signs import fix_signs

Apply = Callable[[np.ndarray], np.ndarray]
"""Rows (b, D) -> rows (b, D): the product of each with a symmetric positive matrix."""


@dataclass(frozen=True)
class Subspace:
    """The leading eigenpairs of a symmetric positive matrix.

    vectors : float64 (k, D), orthonormal rows, signs fixed
    eigenvalues : float64 (k,), descending
    residual : the largest |G v - lambda v| over the largest eigenvalue
    converged : whether the residual met the tolerance
    """

    vectors: np.ndarray
    eigenvalues: np.ndarray
    residual: float
    converged: bool


def subspace_iteration(
    apply: Apply,
    dimension: int,
    k: int,
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 50,
    oversampling: int = 4,
    seed: int = 0,
    avoid: np.ndarray | None = None,
) -> Subspace:
    """The k leading eigenvectors by block power steps with Rayleigh-Ritz.

    avoid : float64 (r, D), orthonormal rows; eigenvectors are of the matrix restricted to their
        orthogonal complement.
    oversampling : further vectors that are carried along, so that close eigenvalues separate.

    Raises UsageError for k outside 1 to the dimension left, DataError when products are not finite.
    """
    free = dimension - (0 if avoid is None else len(avoid))
    if not 1 <= k <= free:
        raise UsageError(f"k is {k!r}; the space has {free!r} dimensions left, give 1 to that")
    width = min(k + oversampling, free)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 31]))
    block = _orthonormal(_outside(rng.standard_normal((width, dimension)), avoid))
    for _ in range(max_iterations):
        product = np.asarray(apply(block), np.float64)
        if not np.isfinite(product).all():
            raise DataError("products of the matrix are not finite; check codes and mask")
        product = _outside(product, avoid)
        small = block @ product.T
        values, turn = np.linalg.eigh((small + small.T) / 2)
        values, turn = values[::-1], turn[:, ::-1]
        vectors, product = turn.T @ block, turn.T @ product
        largest = max(float(values[0]), 0.0)
        errors = np.linalg.norm(product - values[:, None] * vectors, axis=1)[:k]
        residual = float(errors.max()) / largest if largest else 0.0
        if residual <= tolerance:
            break
        block = _orthonormal(product)
    return Subspace(
        fix_signs(vectors[:k]), np.maximum(values[:k], 0.0), residual, residual <= tolerance
    )


def _outside(rows: np.ndarray, avoid: np.ndarray | None) -> np.ndarray:
    return rows if avoid is None else rows - (rows @ avoid.T) @ avoid


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    return np.linalg.qr(rows.T)[0].T


def region_subspace(
    foreground: Apply,
    background: Apply,
    dimension: int,
    k: int,
    *,
    background_rank: int,
    tolerance: float = 1e-4,
    max_iterations: int = 50,
    seed: int = 0,
) -> tuple[Subspace, Subspace]:
    """(directions that change the foreground and hardly the background, the background's own).

    Low-rank subspaces (Zhu et al. 2021, section 3.3): the background's `background_rank` leading
    directions are taken out. There, the foreground's principal vectors are projected on what is
    left; here they are computed within it, so no direction of it changes the foreground more.
    A direction's change of the background is at most that of the next background eigenvector.
    """
    leading = partial(
        subspace_iteration, tolerance=tolerance, max_iterations=max_iterations, seed=seed
    )
    behind = leading(background, dimension, background_rank)
    front = leading(foreground, dimension, k, avoid=behind.vectors)
    return front, behind


@dataclass(frozen=True)
class LowRank:
    """matrix = low_rank + sparse, up to `residual` (relative Frobenius error)."""

    low_rank: np.ndarray
    sparse: np.ndarray
    residual: float
    converged: bool


def robust_pca(
    matrix: np.ndarray,
    weight: float | None = None,
    *,
    tolerance: float = 1e-7,
    max_iterations: int = 1000,
) -> LowRank:
    """Low-rank matrix under sparse errors: minimise |L|_* + weight |S|_1 with L + S = matrix.

    Principal component pursuit (Candes et al. 2011) by the inexact augmented Lagrange method (Lin
    et al. 2010), as low-rank GAN subspaces clean J'J before its rank is read off (Zhu et al. 2021,
    eq. 3, with weight 1/60).

    matrix : (m, n). weight : default 1 / sqrt(max(m, n)).
    """
    data = np.asarray(matrix, np.float64)
    if data.ndim != 2 or 0 in data.shape or not np.isfinite(data).all():
        raise DataError(f"matrix has shape {data.shape!r}; give a finite matrix (m, n)")
    if weight is None:
        weight = 1.0 / np.sqrt(max(data.shape))
    if not weight > 0:
        raise UsageError(f"weight is {weight!r}; give a positive number")
    norm = float(np.linalg.norm(data))
    if norm == 0:
        return LowRank(np.zeros_like(data), np.zeros_like(data), 0.0, True)
    spectral = float(np.linalg.norm(data, 2))
    dual = data / max(spectral, float(np.abs(data).max()) / weight)
    step, sparse = 1.25 / spectral, np.zeros_like(data)
    residual = 1.0
    for _ in range(max_iterations):
        u, values, v = np.linalg.svd(data - sparse + dual / step, full_matrices=False)
        low = (u * np.maximum(values - 1.0 / step, 0.0)) @ v
        rest = data - low + dual / step
        sparse = np.sign(rest) * np.maximum(np.abs(rest) - weight / step, 0.0)
        gap = data - low - sparse
        dual = dual + step * gap
        residual = float(np.linalg.norm(gap)) / norm
        if residual <= tolerance:
            break
        step = min(step * 1.5, 1e7 / spectral)
    return LowRank(low, sparse, residual, residual <= tolerance)
