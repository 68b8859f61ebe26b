"""Principal components from additive statistics.

Two statistics lead to the same result: the centred second moment (D x D), and, when rows are
fewer than features, the Gram matrix of the rows. Another number of components is another solve of
the saved moments, with no pass over the data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.linalg import eigh

from schemas.errors import DataError, UsageError
from transforms.blocks import DEFAULT_BLOCK_ROWS, ArrayBlocks, BlockSource, flatten_rows, sum_blocks
from transforms.moments import Moments, second_moment
from transforms.signs import fix_signs, signs_of

COVARIANCE_MAX_FEATURES = 4096
GRAM_MAX_ROWS = 12_000

Solver = Literal["auto", "covariance", "gram"]


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
    """

    mean: np.ndarray
    components: np.ndarray
    explained_variance: np.ndarray
    explained_variance_ratio: np.ndarray
    singular_values: np.ndarray
    noise_variance: float
    n_rows: int

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
        _check_components(n_components, len(self.components))
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


def _check_components(n_components: int, most: int) -> None:
    if not 1 <= n_components <= most:
        raise UsageError(
            f"n_components is {n_components!r} but must lie in 1..{most!r} (the smaller of rows "
            "and features): lower it"
        )


def _result(
    mean: np.ndarray, components: np.ndarray, squares: np.ndarray, total: float, n_rows: int
) -> PCA:
    """Assemble a PCA from squared singular values (k,) and the total sum of squares."""
    n_components = len(components)
    squares = np.maximum(squares, 0.0)
    rank = min(n_rows, len(mean))
    left = rank - n_components
    variance = squares / (n_rows - 1)
    return PCA(
        mean=mean,
        components=components,
        explained_variance=variance,
        explained_variance_ratio=squares / total if total > 0 else np.zeros(n_components),
        singular_values=np.sqrt(squares),
        noise_variance=max(total - squares.sum(), 0.0) / (n_rows - 1) / left if left > 0 else 0.0,
        n_rows=n_rows,
    )


def solve_pca(moments: Moments, n_components: int | None = None) -> PCA:
    """PCA from saved moments; no pass over the data.

    moments : of n >= 2 rows; raises DataError for fewer, or when a value is not finite
    n_components : default min(n, D)
    """
    moments.check(2)
    n_features = len(moments.mean)
    most = min(moments.count, n_features)
    n_components = most if n_components is None else n_components
    _check_components(n_components, most)
    # The partial solver is faster only when few of many components are wanted.
    subset = (n_features - n_components, n_features - 1) if 4 * n_components < n_features else None
    values, vectors = eigh(moments.second, subset_by_index=subset, check_finite=False)
    components = fix_signs(vectors.T[::-1][:n_components])
    return _result(
        moments.mean,
        np.ascontiguousarray(components),
        values[::-1][:n_components].copy(),
        float(np.trace(moments.second)),
        moments.count,
    )


def centre_gram(gram: np.ndarray) -> np.ndarray:
    """Gram matrix of rows minus their mean, from that of shifted rows (n, n).

    Exact when the rows were first shifted near their mean; else digits cancel, which is why
    callers shift by the first block's mean.
    """
    row_means = gram.mean(axis=0)
    centred = gram - row_means - row_means[:, None] + row_means.mean()
    return (centred + centred.T) / 2


def _read(source: BlockSource, block: int, name: str) -> np.ndarray:
    x = source.read(block)[1][name]
    return flatten_rows(x)


def first_shift(source: BlockSource, name: str = "x") -> np.ndarray:
    """Mean (D,) float64 of the first block that has rows: near enough to the mean to centre by."""
    for block in range(source.n_blocks):
        x = _read(source, block, name)
        if len(x):
            return x.mean(axis=0, dtype=np.float64)
    raise DataError("the source has no rows: widen the selection")


def gram_block(x: np.ndarray, y: np.ndarray | None, shift: np.ndarray) -> np.ndarray:
    """Products (m, p) of shifted rows x (m, D) with shifted rows y (p, D), or with themselves."""
    left = x.astype(np.float64) - shift
    return second_moment(left.T) if y is None else left @ (y.astype(np.float64) - shift).T


def solve_gram(gram: np.ndarray, n_components: int | None, n_features: int):
    """Eigenvectors of the centred row Gram (n, n): (left (n, k), squares (k,), total)."""
    if not np.isfinite(gram).all():
        raise DataError("rows hold NaN or infinite values: leave these rows out")
    n_rows = len(gram)
    if n_rows < 2:
        raise DataError(f"{n_rows!r} rows where at least 2 are needed: add rows")
    most = min(n_rows, n_features)
    n_components = most if n_components is None else n_components
    _check_components(n_components, most)
    centred = centre_gram(gram)
    subset = (n_rows - n_components, n_rows - 1) if 4 * n_components < n_rows else None
    values, vectors = eigh(centred, subset_by_index=subset, check_finite=False)
    left = vectors[:, ::-1][:, :n_components]
    squares = np.maximum(values[::-1][:n_components], 0.0)
    return left, squares, float(np.trace(centred))


def finish_gram(
    products: np.ndarray, mean: np.ndarray, squares: np.ndarray, total: float, n_rows: int
) -> PCA:
    """PCA from the left singular vectors' products with the rows (k, D)."""
    scale = np.sqrt(squares)
    negligible = scale <= 1e-7 * (scale.max() if len(scale) else 0.0)
    components = products / np.where(negligible, 1.0, scale)[:, None]
    if negligible.any():  # directions without variance: any orthonormal completion
        kept = components[~negligible]
        q = np.linalg.qr(
            np.concatenate([kept, np.eye(len(mean))[: negligible.sum() + len(kept)]]).T
        )[0].T
        components = np.concatenate([kept, q[len(kept) : len(kept) + negligible.sum()]])
        squares = np.where(negligible, 0.0, squares)
    components = components * signs_of(components)[:, None]
    return _result(mean, components, squares, total, n_rows)


def _fit_gram(source: BlockSource, n_components: int | None, name: str) -> PCA:
    shift = first_shift(source, name)
    blocks = [_read(source, b, name) for b in range(source.n_blocks)]
    blocks = [x for x in blocks if len(x)]
    gram = np.block(
        [
            [
                gram_block(x, None, shift)
                if i == j
                else (gram_block(x, y, shift) if i < j else np.zeros((len(x), len(y))))
                for j, y in enumerate(blocks)
            ]
            for i, x in enumerate(blocks)
        ]
    )
    gram = np.triu(gram) + np.triu(gram, 1).T
    left, squares, total = solve_gram(gram, n_components, len(shift))
    offsets = np.cumsum([0] + [len(x) for x in blocks])
    mean = shift + sum((x - shift).sum(axis=0, dtype=np.float64) for x in blocks) / offsets[-1]
    products = np.zeros((left.shape[1], len(shift)))
    for x, start in zip(blocks, offsets, strict=False):
        products += left[start : start + len(x)].T @ (x.astype(np.float64) - mean)
    return finish_gram(products, mean, squares, total, int(offsets[-1]))


def choose_solver(n_rows: int, n_features: int) -> str:
    """'covariance' or 'gram', by cost; UsageError where neither fits."""
    if n_features <= COVARIANCE_MAX_FEATURES:
        return "gram" if n_rows < n_features // 2 else "covariance"
    if n_rows <= GRAM_MAX_ROWS:
        return "gram"
    if n_features <= GRAM_MAX_ROWS:
        return "covariance"
    raise UsageError(
        f"{n_rows!r} rows of {n_features!r} features are too many for an exact solve: select "
        "layers, or fewer rows"
    )


def fit_pca(
    x: np.ndarray,
    n_components: int | None = None,
    *,
    solver: Solver = "auto",
    block_rows: int = DEFAULT_BLOCK_ROWS,
) -> PCA:
    """Principal components of rows.

    x : (n, D) or (n, ...), flattened; any float type; n >= 2
    n_components : default min(n, D)
    solver : 'covariance' (D x D moments), 'gram' (n x n products of rows), 'auto' by cost
    block_rows : rows a block; the result depends on it only by rounding

    Raises DataError for fewer than 2 rows or values that are not finite, UsageError for a number
    of components out of range.
    """
    x = np.asarray(x)
    if x.ndim < 2:
        raise UsageError(f"x has shape {x.shape!r}: give (rows, features)")
    x = flatten_rows(x)
    if len(x) < 2:
        raise DataError(f"{len(x)!r} rows where at least 2 are needed: add rows")
    if solver not in ("auto", "covariance", "gram"):
        raise UsageError(f"solver is {solver!r}: give 'auto', 'covariance' or 'gram'")
    source = ArrayBlocks({"x": x}, block_rows)
    if solver == "auto":
        solver = choose_solver(*x.shape)  # type: ignore[assignment]
    if solver == "gram":
        return _fit_gram(source, n_components, "x")
    moments = sum_blocks(source.n_blocks, lambda b: Moments.of(_read(source, b, "x")))
    return solve_pca(moments, n_components)
