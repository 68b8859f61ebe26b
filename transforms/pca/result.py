"""Principal components as a result: fewer of them, saved, merged with those of other rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from scipy.linalg import qr

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import Arrays
from transforms.signs import fix_signs

RANDOM_DIRECTIONS = 16
"""Random orthonormal directions whose standard deviations stand beside the components'."""


@dataclass(frozen=True)
class PCA:
    """Principal components, largest variance first (definitions as scikit-learn's).

    mean : float64 (D,)
    components : float64 (k, D), orthonormal rows, sign by `fix_signs`
    explained_variance : float64 (k,), eigenvalues of the sample covariance (divisor n - 1)
    explained_variance_ratio : float64 (k,), share of the total variance
    singular_values : float64 (k,), of the centred rows
    noise_variance : mean of the eigenvalues left out, up to the rank min(n, D)
    n_rows : number of rows
    random_sd : float64 (min(16, D),), standard deviation of the projections on the orthonormal
        directions of `random_frame`: what a direction without meaning explains. None after a merge
    converged : whether an iterative solver met its tolerance; True for the direct ones
    """

    mean: np.ndarray
    components: np.ndarray
    explained_variance: np.ndarray
    explained_variance_ratio: np.ndarray
    singular_values: np.ndarray
    noise_variance: float
    n_rows: int
    random_sd: np.ndarray | None = None
    converged: bool = True

    @property
    def sd(self) -> np.ndarray:
        """Standard deviation of the projections of the fit's rows, float64 (k,)."""
        return np.sqrt(self.explained_variance)

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Coordinates of rows x (m, D) -> float64 (m, k)."""
        return (np.asarray(x, np.float64) - self.mean) @ self.components.T

    def inverse_transform(self, coordinates: np.ndarray) -> np.ndarray:
        """Rows (m, D) with the given coordinates (m, k)."""
        return np.asarray(coordinates) @ self.components + self.mean

    def truncate(self, n_components: int) -> PCA:
        """The first `n_components` components of this result, noise variance included."""
        check_components(n_components, len(self.components))
        left_out = self.explained_variance[n_components:].sum()
        rank = min(self.n_rows, len(self.mean))
        beyond = self.noise_variance * (rank - len(self.components))
        left = rank - n_components
        return replace(
            self,
            components=self.components[:n_components],
            explained_variance=self.explained_variance[:n_components],
            explained_variance_ratio=self.explained_variance_ratio[:n_components],
            singular_values=self.singular_values[:n_components],
            noise_variance=float((left_out + beyond) / left) if left > 0 else 0.0,
        )

    @property
    def total_variance(self) -> float:
        """Sum of the variances of all features (divisor n - 1)."""
        left = min(self.n_rows, len(self.mean)) - len(self.components)
        return float(self.explained_variance.sum() + self.noise_variance * left)

    def merge(self, other: PCA, n_components: int | None = None) -> PCA:
        """PCA of the rows of both, from the two results alone (Hall, Marshall, Martin 2000).

        Exact where both hold all components that their rows have (`n_components` was None);
        otherwise what a result left out stays left out, as in scikit-learn's IncrementalPCA, and
        counts only in the total variance. `Moments` merge exactly at any time.

        n_components : default as many as the larger of the two holds
        """
        if self.mean.shape != other.mean.shape:
            raise UsageError(
                f"cannot merge results of {len(self.mean)!r} and {len(other.mean)!r} features: "
                "fit both on the same space and layers"
            )
        n_rows = self.n_rows + other.n_rows
        delta = other.mean - self.mean
        between = np.sqrt(self.n_rows * (other.n_rows / n_rows)) * delta
        stack = [r.singular_values[:, None] * r.components for r in (self, other)]
        squares, vectors = np.linalg.svd(
            np.concatenate([*stack, between[None]]), full_matrices=False
        )[1:]
        squares = squares**2
        total = sum((r.n_rows - 1) * r.total_variance for r in (self, other)) + between @ between
        most = min(len(squares), n_rows, len(self.mean))
        wanted = max(len(self.components), len(other.components))
        wanted = min(wanted, most) if n_components is None else n_components
        check_components(wanted, most)
        mean = self.mean + delta * (other.n_rows / n_rows)
        components = fix_signs(vectors[:wanted])
        found = assemble(mean, components, squares[:wanted], float(total), n_rows)
        return replace(found, converged=self.converged and other.converged)

    def to_arrays(self) -> Arrays:
        """The fields by their names; `random_sd` only where there is one."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: np.asarray(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`."""
        values: dict[str, Any] = {
            f.name: np.asarray(arrays[f.name]) for f in fields(cls) if f.name in arrays
        }
        for name, kind in (("noise_variance", float), ("n_rows", int), ("converged", bool)):
            values[name] = kind(values[name])
        return cls(**values)


def check_components(n_components: int, most: int) -> None:
    """Raise UsageError unless 1 <= n_components <= most."""
    if not 1 <= n_components <= most:
        raise UsageError(
            f"n_components is {n_components!r} but must lie in 1..{most!r} (the smaller of rows "
            "and features): lower it"
        )


def check_rows(n_rows: int) -> None:
    """Raise DataError unless there are 2 rows."""
    if n_rows < 2:
        raise DataError(f"{n_rows!r} rows where at least 2 are needed: add rows")


def check_finite(*values: np.ndarray) -> None:
    """Raise DataError where a statistic is not finite."""
    if not all(np.isfinite(value).all() for value in values):
        raise DataError("rows hold NaN or infinite values: leave these rows out")


def assemble(
    mean: np.ndarray,
    components: np.ndarray,
    squares: np.ndarray,
    total: float,
    n_rows: int,
    random_squares: np.ndarray | None = None,
) -> PCA:
    """A PCA from squared singular values (k,), the total sum of squares and those along the
    random directions."""
    n_components = len(components)
    squares = np.maximum(squares, 0.0)
    left = min(n_rows, len(mean)) - n_components
    return PCA(
        mean=mean,
        components=np.ascontiguousarray(components),
        explained_variance=squares / (n_rows - 1),
        explained_variance_ratio=squares / total if total > 0 else np.zeros(n_components),
        singular_values=np.sqrt(squares),
        noise_variance=max(total - squares.sum(), 0.0) / (n_rows - 1) / left if left > 0 else 0.0,
        n_rows=n_rows,
        random_sd=None
        if random_squares is None
        else np.sqrt(np.maximum(random_squares, 0.0) / (n_rows - 1)),
    )


def random_frame(
    n_features: int, n_directions: int = RANDOM_DIRECTIONS, seed: int = 0
) -> np.ndarray:
    """Random orthonormal directions (n_features, min(n_directions, n_features)), float64.

    More directions begin with those that fewer have, so that every solver measures the same ones.
    """
    n_directions = min(n_directions, n_features)
    normal = np.random.default_rng(seed).standard_normal((n_directions, n_features))
    q, r = qr(normal.T, mode="economic")
    return q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
