"""Principal components from additive statistics.

Three statistics lead to the same result: the centred second moment (D x D, one pass); the Gram
matrix of the rows, when rows are few (n x n, two passes over slabs of features); and products of
the second moment with a block of directions, when both are many (a pass an iteration). Another
number of components is another solve of the saved moments, with no pass over the data.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.linalg import eigh
from scipy.linalg.blas import dgemm

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import DEFAULT_BLOCK_ROWS, ArrayBlocks, BlockSource, flatten_rows
from transforms.accumulate.moments import Moments, moments_of
from transforms.accumulate.passes import run_passes
from transforms.pca.gram import GramSolver, RowSlabs, slabs_of
from transforms.pca.randomised import RandomisedSolver
from transforms.pca.result import PCA, assemble, check_components, check_rows, random_frame
from transforms.signs import fix_signs

__all__ = [
    "COVARIANCE_MAX_FEATURES",
    "GRAM_MAX_ROWS",
    "PCA",
    "GramSolver",
    "RandomisedSolver",
    "RowSlabs",
    "Solver",
    "choose_solver",
    "fit_pca",
    "slabs_of",
    "solve_pca",
]

COVARIANCE_MAX_FEATURES = 4096
"""Above this the second moment (134 MB) is no longer a small statistic."""
GRAM_MAX_ROWS = 12_000
_RANDOMISED_PASSES = 8
_SLOWER_PRODUCTS = 3
"""How much longer eigenvectors take than their number of multiplications suggests."""

Solver = Literal["auto", "covariance", "gram", "randomised"]


def solve_pca(moments: Moments, n_components: int | None = None) -> PCA:
    """PCA from saved moments; no pass over the data.

    moments : of n >= 2 rows; raises DataError for fewer, or when a value is not finite
    n_components : default min(n, D)
    """
    moments.check(2)
    n_features = len(moments.mean)
    most = min(moments.count, n_features)
    n_components = most if n_components is None else n_components
    check_components(n_components, most)
    # The partial solver is faster only when few of many components are wanted.
    subset = (n_features - n_components, n_features - 1) if 4 * n_components < n_features else None
    values, vectors = eigh(moments.second, subset_by_index=subset, check_finite=False)
    frame = random_frame(n_features)
    # Not by NumPy's BLAS: its threads would go on spinning beside SciPy's in a pass that follows.
    turned = dgemm(1.0, moments.second, frame)
    return assemble(
        moments.mean,
        fix_signs(vectors.T[::-1][:n_components]),
        values[::-1][:n_components].copy(),
        float(np.trace(moments.second)),
        moments.count,
        np.einsum("ij,ij->j", frame, turned),
    )


def solver_costs(n_rows: int, n_features: int, n_components: int | None) -> dict[str, float]:
    """Multiplications of each solver that fits in memory and can give that many components."""
    n, d = float(n_rows), float(n_features)
    k = min(n_rows, n_features) if n_components is None else n_components
    costs = {}
    if n_features <= COVARIANCE_MAX_FEATURES:
        costs["covariance"] = n * d * d / 2 + _SLOWER_PRODUCTS * d**3
    if n_rows <= GRAM_MAX_ROWS:
        costs["gram"] = n * n * d / 2 + _SLOWER_PRODUCTS * n**3 + n * d * k
    if n_components is not None:
        width = k + max(16, k // 4)
        iterate = 8 * _SLOWER_PRODUCTS * d * width**2
        costs["randomised"] = _RANDOMISED_PASSES * (2 * n * d * width + iterate)
    return costs


def choose_solver(n_rows: int, n_features: int, n_components: int | None = None) -> str:
    """'covariance', 'gram' or 'randomised', the cheapest that fits in memory.

    The direct solvers need one and two passes, so the randomised one must be four times cheaper.

    Raises UsageError where none fits: all components of many rows of many features.
    """
    costs = solver_costs(n_rows, n_features, n_components)
    if not costs and n_features <= GRAM_MAX_ROWS:
        return "covariance"
    if not costs:
        raise UsageError(
            f"all components of {n_rows!r} rows of {n_features!r} features are too many for a "
            "direct solver: set n_components, select layers, or give fewer rows"
        )
    direct = [name for name in costs if name != "randomised"]
    handicap = {name: costs[name] * (4 if name == "randomised" and direct else 1) for name in costs}
    return min(handicap, key=lambda name: handicap[name])


def fit_pca(
    x: np.ndarray,
    n_components: int | None = None,
    *,
    solver: Solver = "auto",
    block_rows: int = DEFAULT_BLOCK_ROWS,
    seed: int = 0,
) -> PCA:
    """Principal components of rows.

    x : (n, D) or (n, ...), flattened; any float type; n >= 2. Select layers by slicing
    n_components : default min(n, D)
    solver : 'covariance' (D x D moments), 'gram' (n x n products of rows), 'randomised' (block
        Krylov iteration to a tolerance; `PCA.converged` tells), 'auto' by `choose_solver`
    block_rows : rows a block; the result depends on it only by rounding
    seed : of the randomised solver's first directions

    Raises DataError for fewer than 2 rows or values that are not finite, UsageError for a number
    of components out of range.
    """
    x = np.asarray(x)
    if x.ndim < 2:
        raise UsageError(f"x has shape {x.shape!r}: give (rows, features)")
    x = flatten_rows(x)
    check_rows(len(x))
    if x.shape[1] == 0:
        raise DataError(f"x has shape {x.shape!r}: give at least one feature")
    if n_components is not None:
        check_components(n_components, min(x.shape))
    if solver not in ("auto", "covariance", "gram", "randomised"):
        raise UsageError(f"solver is {solver!r}: give 'auto', 'covariance', 'gram' or 'randomised'")
    source = ArrayBlocks({"x": x}, block_rows)
    return fit_source(source, x.shape[1], n_components, solver, len(x), seed)


def fit_source(
    source: BlockSource,
    n_features: int,
    n_components: int | None,
    solver: Solver,
    n_rows: int,
    seed: int = 0,
) -> PCA:
    """As `fit_pca`, of the array x of a source; n_rows and n_features choose the solver."""
    chosen = choose_solver(n_rows, n_features, n_components) if solver == "auto" else solver
    if chosen == "gram":
        slabs = slabs_of(source, n_features)
        return run_passes(GramSolver(n_components), slabs, keep=False).result()
    if chosen == "randomised":
        wanted = min(n_rows, n_features) if n_components is None else n_components
        iteration = RandomisedSolver(n_features, wanted, seed=seed)
        return run_passes(iteration, source, keep=False).result()
    return solve_pca(moments_of(source), n_components)
