"""Landmarks of images as points of the numerics: the one place where y is turned upward."""

from __future__ import annotations

import numpy as np


def points_of_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Points (n, 2, L) with y up, of image landmarks (n, L, 2) with y down; any unit of length."""
    points = np.swapaxes(np.asarray(landmarks, np.float64), 1, 2).copy()
    points[:, 1] *= -1
    return points
