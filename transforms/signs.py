"""The sign rule of unsupervised vectors."""

from __future__ import annotations

import numpy as np


def fix_signs(vectors: np.ndarray) -> np.ndarray:
    """Rows of `vectors` (k, D), each with its sign fixed.

    The first loading whose magnitude is within 1e-6 (relative) of the row's largest becomes
    positive, so that neither row order nor block split can flip a sign. Zero rows stay as they are.
    """
    return vectors * signs_of(vectors)[:, None]


def signs_of(vectors: np.ndarray) -> np.ndarray:
    """The factors -1.0 or 1.0 (k,) that `fix_signs` multiplies the rows by."""
    if vectors.size == 0:
        return np.ones(len(vectors))
    magnitude = np.abs(vectors)
    near_largest = magnitude >= magnitude.max(axis=1, keepdims=True) * (1 - 1e-6)
    first = near_largest.argmax(axis=1)
    return np.where(vectors[np.arange(len(vectors)), first] < 0, -1.0, 1.0)
