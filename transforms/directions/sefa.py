"""Closed-form semantic factorisation of a generator's first linear layers.

Shen and Zhou, "Closed-form factorization of latent semantics in GANs" (2021), eq. 5: the
directions n that change A n most are the eigenvectors of A'A for the largest eigenvalues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.signs import fix_signs


@dataclass(frozen=True)
class Sefa:
    """vectors : float64 (k, D), orthonormal rows. eigenvalues : float64 (k,), descending, of A'A.

    explained_ratio : float64 (k,), eigenvalues over their sum, the share of |A|^2
    """

    vectors: np.ndarray
    eigenvalues: np.ndarray
    explained_ratio: np.ndarray


def sefa(
    weights: Sequence[np.ndarray], n_components: int | None = None, *, normalise: bool = True
) -> Sefa:
    """Directions of the latent that change the given layers most.

    weights : matrices (channels, D) of the layers that read the latent, without biases; the layers
        of a range are stacked
    n_components : default all D
    normalise : every channel's row is divided by its norm, as the authors' code does, so that
        layers of many or large weights do not drown the others; False takes A as it is

    Raises UsageError for matrices of different D or too many components, DataError for a zero
    channel under `normalise` or values that are not finite.
    """
    widths = sorted({np.shape(w)[1] if np.ndim(w) == 2 else -1 for w in weights})
    if len(widths) != 1 or widths[0] < 1:
        raise UsageError(
            f"weights have shapes {[np.shape(w) for w in weights]!r}; give matrices (channels, D) "
            "of one latent"
        )
    stacked = np.concatenate([np.asarray(w, np.float64) for w in weights])
    if not np.isfinite(stacked).all():
        raise DataError("weights hold values that are not finite; check the checkpoint")
    if normalise:
        norms = np.linalg.norm(stacked, axis=1, keepdims=True)
        if not norms.all():
            raise DataError(
                f"{int((norms == 0).sum())!r} channels have zero weights and cannot be "
                "normalised; pass normalise=False"
            )
        stacked = stacked / norms
    most = stacked.shape[1]
    k = most if n_components is None else n_components
    if not 1 <= k <= most:
        raise UsageError(f"n_components is {n_components!r}; give 1 to {most!r}")
    _, values, vectors = np.linalg.svd(stacked, full_matrices=len(stacked) < most)
    squares = np.zeros(most)
    squares[: len(values)] = values**2
    total = float(squares.sum())
    return Sefa(fix_signs(vectors[:k]), squares[:k], squares[:k] / (total or 1.0))
