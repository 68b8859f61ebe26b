"""The Fréchet distance of two Gaussians: FID, where the rows are Inception's features.

Heusel et al. (2017), "GANs trained by a two time-scale update rule": |m_1 - m_2|^2 +
tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), of sample covariances (n - 1).
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh, svdvals

from schemas.errors import UsageError
from transforms.accumulate.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """Fréchet distance of the Gaussians with these moments, at least 0.

    No matrix root is taken: tr (C_1 C_2)^(1/2) is the sum of the singular values of R_1' R_2, with
    C = R R' of the rank that the rows have. So covariances of fewer rows than features are as exact
    as others. Raises DataError for fewer than 2 rows, or values that are not finite.
    """
    a.check(2)
    b.check(2)
    if a.second.shape != b.second.shape or a.diagonal:
        raise UsageError(
            f"moments have second moments of shapes {a.second.shape!r} and {b.second.shape!r}: "
            "give whole ones of the same features"
        )
    difference = a.mean - b.mean
    roots = [_root(moments) for moments in (a, b)]
    shared = svdvals(roots[0].T @ roots[1]).sum() if min(r.shape[1] for r in roots) else 0.0
    traces = sum(float(m.second.trace()) / (m.count - 1) for m in (a, b))
    return max(float(difference @ difference) + traces - 2 * float(shared), 0.0)


def _root(moments: Moments) -> np.ndarray:
    """R (D, rank) with R R' the covariance."""
    values, vectors = eigh(moments.second / (moments.count - 1))
    rank = min(moments.count - 1, len(values))
    values, vectors = values[len(values) - rank :], vectors[:, len(vectors) - rank :]
    kept = values > values.max(initial=0.0) * len(vectors) * np.finfo(float).eps
    root: np.ndarray = vectors[:, kept] * np.sqrt(values[kept])
    return root
