"""What a hyperplane solve gives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Hyperplanes:
    """Separating hyperplanes of A attributes; the positive side is where the attribute is +1.

    normals : float64 (A, D), unit norm;  coef : float64 (A, D), w
    intercepts : float64 (A,), b for rows that are not centred: the score is x . w + b
    objective : float64 (A,);  relative_gradient : float64 (A,);  converged : bool (A,)
    n_positive, n_negative : int64 (A,);  accuracy : float64 (A,), of the fit's labelled rows
    sd : float64 (A,), standard deviation of the fit's rows along the normals
    n_rows : rows read;  n_passes : passes over the data

    A degenerate attribute (see `fit_hyperplanes`) has NaN vectors and converged False.
    """

    normals: np.ndarray
    coef: np.ndarray
    intercepts: np.ndarray
    objective: np.ndarray
    relative_gradient: np.ndarray
    converged: np.ndarray
    n_positive: np.ndarray
    n_negative: np.ndarray
    accuracy: np.ndarray
    sd: np.ndarray
    n_rows: int
    n_passes: int

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        """Scores (m, A) of rows x (m, D)."""
        return np.asarray(x, np.float64) @ self.coef.T + self.intercepts

    def take(self, attributes: np.ndarray) -> Hyperplanes:
        """Those of some attributes, by number."""
        arrays = {k: v[attributes] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, **arrays)
