"""Linear support vector machines for all attributes in one solve.

Minimises, for every attribute at once, 1/2 |w|^2 + C sum v max(0, 1 - y (w.x + b))^2 over rows of
weight v. The separating plane's unit normal is the attribute's editing direction (Shen et al. 2020,
InterFaceGAN). The solver is that of `transforms.svm.solver`.
"""

from __future__ import annotations

import numpy as np

from transforms.accumulate.blocks import DEFAULT_BLOCK_ROWS, ArrayBlocks, flatten_rows
from transforms.accumulate.passes import run_passes
from transforms.svm.geometry import HyperplaneOptions
from transforms.svm.model import Hyperplanes
from transforms.svm.solver import HyperplaneSolver

__all__ = ["HyperplaneOptions", "HyperplaneSolver", "Hyperplanes", "fit_hyperplanes"]


def fit_hyperplanes(
    x: np.ndarray,
    y: np.ndarray,
    c: float = 1.0,
    *,
    sample_weight: np.ndarray | None = None,
    tol: float = 1e-5,
    penalise_intercept: bool = False,
    balanced: bool = False,
    max_newton: int = 100,
    precision: str | None = None,
    degenerate: str = "raise",
    block_rows: int = DEFAULT_BLOCK_ROWS,
) -> Hyperplanes:
    """Hyperplanes that separate each attribute's two classes.

    x : (n, D) or (n, ...), flattened; float32 or float64
    y : (n,) or (n, A), values -1, 0 (unlabelled) or 1, or bool
    sample_weight : (n,), not negative; a row of weight 2 counts as two rows, of 0 as none
    c, tol, penalise_intercept, balanced, max_newton, degenerate : see `HyperplaneOptions`
    precision : of the products; default x's own

    Raises DataError for labels other than -1, 0, 1, values that are not finite, or an attribute
    with one class only (`degenerate='skip'` returns NaN for it instead).
    """
    x, y = np.asarray(x), np.asarray(y)
    x = flatten_rows(x)
    y = y[:, None] if y.ndim == 1 else y
    if precision is None:
        precision = "float32" if x.dtype in (np.float16, np.float32) else "float64"
    options = HyperplaneOptions(
        c=c,
        tol=tol,
        penalise_intercept=penalise_intercept,
        balanced=balanced,
        max_newton=max_newton,
        precision=precision,
        degenerate=degenerate,
    )
    arrays = {"x": x, "y": y}
    if sample_weight is not None:
        arrays["weight"] = np.asarray(sample_weight)
    source = ArrayBlocks(arrays, block_rows)
    return run_passes(HyperplaneSolver(options), source).result()
