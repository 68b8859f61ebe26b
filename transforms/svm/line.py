"""Line search for many convex functions at once, from values and slopes at chosen points."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

_BELOW_ONE = np.array([1 / 256, 1 / 64, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8])
_ABOVE_ONE = np.array([1.25, 1.5, 2, 3, 4, 6, 8, 16, 64, 256])


@dataclass(frozen=True)
class LineSearch:
    """Brackets around the minima of a convex functions phi(t), t > 0, phi'(0) < 0.

    lengths : (T, a), the points to evaluate next
    slope0, value0 : (a,), phi'(0) and phi(0)
    low, high : (a,), phi' < 0 at low and >= 0 at high (infinite while unknown)
    low_slope, high_slope : (a,), phi' there
    best, best_slope, best_value : (a,), the point with the smallest |phi'| that lowers phi
    """

    lengths: np.ndarray
    slope0: np.ndarray
    value0: np.ndarray
    low: np.ndarray
    high: np.ndarray
    low_slope: np.ndarray
    high_slope: np.ndarray
    best: np.ndarray
    best_slope: np.ndarray
    rounds: int = 0
    max_rounds: int = 6
    accept: float = 0.1

    @classmethod
    def start(cls, slope0: np.ndarray, value0: np.ndarray, slope1: np.ndarray) -> LineSearch:
        """Begin from the slopes at 0 and at 1."""
        beyond = slope1 < 0
        return cls(
            lengths=np.where(beyond, _ABOVE_ONE[:, None], _BELOW_ONE[:, None]),
            slope0=slope0,
            value0=value0,
            low=np.where(beyond, 1.0, 0.0),
            high=np.where(beyond, np.inf, 1.0),
            low_slope=np.where(beyond, slope1, slope0),
            high_slope=np.where(beyond, np.nan, slope1),
            best=np.zeros_like(slope0),
            best_slope=np.abs(slope0),
        )

    def narrow(self, value: np.ndarray, slope: np.ndarray) -> LineSearch:
        """Take in phi and phi' (T, a) at `lengths` and choose the next points."""
        below = slope < 0
        low_points = np.where(below, self.lengths, -np.inf)
        high_points = np.where(below, np.inf, self.lengths)
        at_low, at_high = low_points.argmax(axis=0), high_points.argmin(axis=0)
        column = np.arange(len(self.low))
        new_low, new_high = low_points[at_low, column], high_points[at_high, column]
        low_slope = np.where(new_low > self.low, slope[at_low, column], self.low_slope)
        high_slope = np.where(new_high < self.high, slope[at_high, column], self.high_slope)
        low, high = np.maximum(self.low, new_low), np.minimum(self.high, new_high)
        size = np.where(value <= self.value0, np.abs(slope), np.inf)
        at = size.argmin(axis=0)
        better = size[at, column] < self.best_slope
        best = np.where(better, self.lengths[at, column], self.best)
        best_slope = np.where(better, size[at, column], self.best_slope)
        bounded = np.isfinite(high)
        top = np.where(bounded, high, low * 256)
        share = np.linspace(0, 1, len(self.lengths) + 1)[1:-1, None]
        inner = low + share * (top - low)
        wide = low * np.geomspace(2, 256, len(self.lengths) - 1)[:, None]
        span = high_slope - low_slope
        usable = bounded & (span > 0)
        secant = low - low_slope * (top - low) / np.where(usable, span, 1.0)
        secant = np.where(usable, np.clip(secant, low, top), top)
        lengths = np.concatenate([np.where(bounded, inner, wide), secant[None]])
        return replace(
            self,
            lengths=lengths,
            low=low,
            high=high,
            low_slope=low_slope,
            high_slope=high_slope,
            best=best,
            best_slope=best_slope,
            rounds=self.rounds + 1,
        )

    @property
    def settled(self) -> bool:
        """Every function is near its minimum, or the rounds are used up."""
        near = self.best_slope <= self.accept * np.abs(self.slope0)
        return bool(near.all()) or self.rounds >= self.max_rounds

    def choice(self) -> tuple[np.ndarray, np.ndarray]:
        """(step lengths (a,), whether each lowers its function (a,))."""
        return self.best, (self.best > 0) & (self.best_slope < np.abs(self.slope0))
