"""Perceptual path length: how much a picture changes along a short step between two codes.

Karras et al. (2019), "A style-based generator architecture for generative adversarial networks",
section 4.1: the mean of d(G(x_t), G(x_(t + epsilon))) / epsilon^2 over pairs of codes, d a squared
distance of features (LPIPS), without the smallest and the largest percent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.errors import DataError
from transforms.accumulate.blocks import TRANSFORMS, Arrays, Parts, statistic_kind

TRIMMED = 1.0
"""Percent left out at either end."""


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Codes (n, D) on the great circles from a to b (n, D) at t (n,), float64.

    The direction is that of the official definition, for models that see the direction of a code
    alone; the length goes evenly from that of a to that of b, for those that see it, too.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    at = np.asarray(t, np.float64)[:, None]
    lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    start, end = a / lengths[0], b / lengths[1]
    cosine = (start * end).sum(axis=1, keepdims=True)
    angle = at * np.arccos(np.clip(cosine, -1.0, 1.0))
    across = end - cosine * start
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), np.finfo(float).tiny)
    direction = start * np.cos(angle) + across * np.sin(angle)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    found: np.ndarray = direction * (lengths[0] + at * (lengths[1] - lengths[0]))
    return found


def lerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Codes (n, ...) on the lines from a to b (n, ...) at t (n,), float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    found: np.ndarray = a + (b - a) * np.asarray(t, np.float64).reshape(-1, *[1] * (a.ndim - 1))
    return found


def trimmed_mean(distances: np.ndarray, percent: float = TRIMMED) -> float:
    """Mean of the `trimmed_part` of distances (n,)."""
    return float(trimmed_part(distances, percent).mean())


def trimmed_part(distances: np.ndarray, percent: float = TRIMMED) -> np.ndarray:
    """Of distances (n,) those between two percentiles, which are themselves distances and count.

    Raises DataError for none, or for one that is not finite.
    """
    distances = np.asarray(distances, np.float64)
    if not len(distances) or not np.isfinite(distances).all():
        bad = int((~np.isfinite(distances)).sum())
        raise DataError(
            f"{bad!r} of {len(distances)!r} path lengths are not finite: look at what the "
            "generator draws and at the network that measures it"
        )
    low = np.percentile(distances, percent, method="lower")
    high = np.percentile(distances, 100 - percent, method="higher")
    kept: np.ndarray = distances[(distances >= low) & (distances <= high)]
    return kept


@statistic_kind("generator_metrics.PathLengths")
@dataclass(frozen=True)
class PathLengths(Parts):
    """Path lengths of each block by its number."""

    @property
    def distances(self) -> np.ndarray:
        """float64 (n,), of all blocks in their order."""
        parts = [self.parts[number]["distance"] for number in sorted(self.parts)]
        return np.concatenate([np.zeros(0), *parts])


@dataclass(frozen=True)
class CollectPathLengths:
    """Array ``distance`` (m,) of each block, kept side by side; ``block`` (1,) is its number."""

    kind = f"{TRANSFORMS}.generator_metrics.CollectPathLengths"

    token: str = "distance"

    def prepare(self, arrays: Arrays) -> Arrays:
        """As they are."""
        return arrays

    def statistic(self, prepared: Arrays) -> PathLengths:
        """`PathLengths` of the block."""
        number = int(prepared["block"][0])
        return PathLengths({number: {"distance": prepared["distance"].astype(np.float64)}})
