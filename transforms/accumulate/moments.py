"""Mean and centred second moment in float64, merged by Chan's update.

Never E[xx'] - mm': on float32 rows with a column mean of 1000 that formula loses positive
definiteness. Every block is centred near its own mean before its products are taken, and blocks are
combined by Chan, Golub, LeVeque (1979), eq. 2.1:
S = S_a + S_b + (m_b - m_a)(m_b - m_a)' n_a n_b / (n_a + n_b).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.linalg.blas import dsyr, dsyrk

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import (
    Arrays,
    BlockSource,
    flatten_rows,
    statistic_kind,
    sum_blocks,
)

# A batch of centred rows in float64 stays in the processor's cache, yet is long enough for DSYRK.
_BATCH_VALUES = 1 << 20
_BATCH_ROWS = (1024, 8192)
_SHIFT_STRIDE = 16


def second_moment(centred: np.ndarray) -> np.ndarray:
    """X'X of a float64 matrix (m, D), symmetric to the bit: half the products, then mirrored."""
    upper = dsyrk(1.0, centred.T) if centred.shape[1] else np.zeros((0, 0))
    return _mirror(upper)


def _mirror(upper: np.ndarray) -> np.ndarray:
    """The symmetric matrix of an upper triangle with zeros below."""
    product = upper + upper.T
    np.fill_diagonal(product, upper.diagonal())
    return product


def row_batches(n_rows: int, n_features: int) -> list[slice]:
    """Rows in batches whose float64 copy is small: all work on raw rows goes by these."""
    least, most = _BATCH_ROWS
    size = min(max(_BATCH_VALUES // max(n_features, 1), least), most)
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def centred_batches(x: np.ndarray, shift: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, float64 rows minus `shift`) of x (m, D); the next batch overwrites the last."""
    batches = row_batches(*x.shape)
    buffer = np.empty((batches[0].stop if batches else 0, x.shape[1]))
    for rows in batches:
        part = buffer[: rows.stop - rows.start]
        np.subtract(x[rows], shift, out=part)
        yield rows, part


@statistic_kind("Moments")
@dataclass(frozen=True)
class Moments:
    """Count, mean and centred second moment of rows.

    count : number of rows
    mean : float64 (D,)
    second : float64 (D, D), the sum of (x - mean)(x - mean)'; (D,) when only its diagonal is kept
    """

    count: int
    mean: np.ndarray
    second: np.ndarray

    @classmethod
    def zero(cls, n_features: int, diagonal: bool = False) -> Self:
        """Moments of no rows at all."""
        shape = (n_features,) if diagonal else (n_features, n_features)
        return cls(0, np.zeros(n_features), np.zeros(shape))

    @classmethod
    def of(cls, x: np.ndarray, diagonal: bool = False) -> Self:
        """Moments of rows x (m, D), any float type."""
        if x.ndim != 2:
            raise UsageError(f"rows have shape {x.shape!r}: reshape them to (rows, features)")
        if len(x) == 0:
            return cls.zero(x.shape[1], diagonal)
        n_features = x.shape[1]
        # Any shift near the mean will do, for what is left of it is taken out below. With d the
        # distance of every 16th row's mean from that of all, these n/16 rows alone make S at least
        # d^2 n/16, so that taking out n d^2 costs at most a factor 17 of the last digit.
        shift = x[::_SHIFT_STRIDE].mean(axis=0, dtype=np.float64)
        rest = np.zeros(n_features)
        second = np.zeros(n_features) if diagonal else np.zeros((n_features,) * 2, order="F")
        for _, part in centred_batches(x, shift):
            rest += part.sum(axis=0)  # not by NumPy's BLAS: its threads would fight SciPy's
            if diagonal:
                second += np.einsum("ij,ij->j", part, part)
            elif n_features:
                second = dsyrk(1.0, part.T, beta=1.0, c=second, overwrite_c=1)
        rest /= len(x)
        if diagonal:
            return cls(len(x), shift + rest, np.maximum(second - len(x) * rest * rest, 0.0))
        if n_features:
            second = dsyr(-float(len(x)), rest, a=second, overwrite_a=1)
        return cls(len(x), shift + rest, _mirror(second))

    @property
    def diagonal(self) -> bool:
        """Whether only the diagonal of the second moment is kept."""
        return self.second.ndim == 1

    def add(self, x: np.ndarray) -> Self:
        """Moments of these rows and the rows x (m, D)."""
        return self.merge(type(self).of(x, self.diagonal))

    def merge(self, other: Self) -> Self:
        """Moments of both sets of rows (Chan)."""
        if self.second.shape != other.second.shape:
            raise UsageError(
                f"cannot merge moments of shapes {self.second.shape!r} and "
                f"{other.second.shape!r}: accumulate one array with one setting"
            )
        if other.count == 0:
            return self
        if self.count == 0:
            return other
        count = self.count + other.count
        delta = other.mean - self.mean
        weight = self.count * (other.count / count)
        cross = delta * delta if self.diagonal else np.outer(delta, delta)
        cross *= weight
        cross += self.second
        cross += other.second
        return type(self)(count, self.mean + delta * (other.count / count), cross)

    def without(self, other: Self) -> Self:
        """Moments of these rows less some of them: the inverse of `merge`."""
        count = self.count - other.count
        if count <= 0 or other.count == 0:
            return self if other.count == 0 else self.zero(len(self.mean), self.diagonal)
        mean = self.mean + (self.mean - other.mean) * (other.count / count)
        delta = mean - other.mean
        cross = delta * delta if self.diagonal else np.outer(delta, delta)
        second = self.second - other.second - cross * (count * (other.count / self.count))
        return type(self)(count, mean, second)

    def to_arrays(self) -> Arrays:
        """count int64 (), mean (D,), second (D, D) or (D,)."""
        return {"count": np.array(self.count, np.int64), "mean": self.mean, "second": self.second}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`."""
        return cls(
            int(arrays["count"]),
            np.asarray(arrays["mean"], np.float64),
            np.asarray(arrays["second"], np.float64),
        )

    def check(self, at_least: int = 1) -> None:
        """Raise DataError unless there are `at_least` rows and every number is finite."""
        if self.count < at_least:
            raise DataError(
                f"{self.count!r} rows where at least {at_least!r} are needed: add rows, or widen "
                "the selection"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.second).all()):
            bad = np.flatnonzero(~np.isfinite(self.mean))[:5].tolist()
            raise DataError(
                f"rows hold NaN or infinite values (features {bad!r}): leave these rows out"
            )

    def variance_along(self, directions: np.ndarray) -> np.ndarray:
        """Sample variance (n - 1) of the projections on directions (A, D) -> float64 (A,)."""
        self.check(2)
        v = np.asarray(directions, np.float64)
        if self.diagonal:
            raise UsageError("only the diagonal of the second moment was kept: keep the whole one")
        return np.maximum(np.einsum("ad,de,ae->a", v, self.second, v, optimize=True), 0) / (
            self.count - 1
        )


def moments_of(source: BlockSource, name: str = "x") -> Moments:
    """Moments of array `name` (m, ...), flattened to (m, D), over all blocks of the source."""

    def statistic(block: int) -> Moments:
        x = source.read(block)[1][name]
        return Moments.of(flatten_rows(x))

    return sum_blocks(source.n_blocks, statistic)


def join_targets(x: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Rows (m', D + T) float64 for joint moments; rows with a NaN target are left out."""
    x = flatten_rows(x)
    present = np.isfinite(targets).all(axis=1)
    return np.concatenate([x[present], targets[present]], axis=1, dtype=np.float64)
