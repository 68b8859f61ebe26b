"""Conditional projection: a direction with others taken out, so that the edit leaves them alone."""

from __future__ import annotations

import numpy as np

from schemas.errors import DataError, UsageError


def project_out(
    direction: np.ndarray, conditions: np.ndarray, *, normalise: bool = True
) -> np.ndarray:
    """Part of a direction that is orthogonal to any number of others, by least squares.

    p - N' x with x = argmin |p - N' x|, that is N N' x = N p (Shen et al. 2020, InterFaceGAN, eq. 8
    for one condition; the same projection for the h-space of diffusion models). One condition c of
    unit length gives p - (p.c) c.

    direction : (...), or (k, ...) for several at once; any layout of coordinates, flattened
    conditions : (m, ...), need be neither orthogonal nor unit, may depend on one another
    normalise : scale the result to unit norm, as InterFaceGAN does; else leave its length

    Returns float64 of the direction's shape. Raises DataError where nothing is left: the direction
    is a combination of the conditions.
    """
    p, others = np.asarray(direction, np.float64), np.asarray(conditions, np.float64)
    several = p.ndim == others.ndim
    if others.ndim < 2 or others.shape[1:] != p.shape[int(several) :]:
        raise UsageError(
            f"direction has shape {p.shape!r} and conditions {others.shape!r}: give conditions as "
            "(count, ...) with the direction's own shape"
        )
    if not (np.isfinite(p).all() and np.isfinite(others).all()):
        raise DataError("direction or conditions hold NaN or infinite values: correct them")
    flat = p.reshape(len(p) if several else 1, -1)
    table = others.reshape(len(others), flat.shape[1])
    lengths = np.linalg.norm(table, axis=1)
    table = table[lengths > 0] / lengths[lengths > 0, None]
    _, singular, basis = np.linalg.svd(table, full_matrices=False)
    basis = basis[singular > 1e-10 * singular[:1].sum()]
    left = flat - (flat @ basis.T) @ basis
    left -= (left @ basis.T) @ basis  # once more: what rounding left behind
    norms, before = np.linalg.norm(left, axis=1), np.linalg.norm(flat, axis=1)
    if (norms <= 1e-10 * before).any():
        raise DataError(
            f"direction {int(np.argmax(norms <= 1e-10 * before))!r} is a combination of the "
            f"{len(others)!r} conditions: nothing is left of it; condition on fewer"
        )
    if normalise:
        left /= norms[:, None]
    return left.reshape(p.shape)
