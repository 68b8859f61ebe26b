"""Linear separability: how well hyperplanes of a latent space tell what is drawn.

Karras et al. (2019), section 4.2: of each attribute the half of the rows of which the classifier is
surest; a linear SVM on their codes; the conditional entropy of the classifier's label given the
SVM's. The score is exp of the sum over the attributes, at least 1, and less is better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.errors import DataError
from transforms.accumulate.blocks import TRANSFORMS, Arrays, Sums, flatten_rows


def surest_labels(scores: np.ndarray, threshold: float, share: float = 0.5) -> np.ndarray:
    """Labels int8 (n, A) of scores (n, A): 1 above the threshold, else -1; 0 where a row is not
    among the share of measured rows that are farthest from it (of equals the first rows are)."""
    scores = np.asarray(scores, np.float64)
    labels = np.zeros(scores.shape, np.int8)
    for column, values in enumerate(scores.T):
        measured = np.flatnonzero(np.isfinite(values))
        order = np.argsort(-np.abs(values[measured] - threshold), kind="stable")
        kept = measured[order[: int(share * len(measured))]]
        labels[kept, column] = np.where(values[kept] > threshold, 1, -1)
    return labels


@dataclass(frozen=True)
class Confusion:
    """Counts of rows by what a hyperplane says and what the label is, float64 (A, 2, 2), from
    arrays x (m, ...) and y (m, A).

    coef : float64 (A, D).  intercepts : float64 (A,)
    """

    kind = f"{TRANSFORMS}.generator_metrics.Confusion"

    coef: np.ndarray
    intercepts: np.ndarray
    token: str = "x-y"

    def prepare(self, arrays: Arrays) -> Arrays:
        """x as (m, D), and y."""
        return {"x": flatten_rows(arrays["x"]), "y": arrays["y"]}

    def statistic(self, prepared: Arrays) -> Sums:
        """Sums of "counts"."""
        said = prepared["x"].astype(np.float64) @ self.coef.T + self.intercepts > 0
        y = prepared["y"]
        counts = [[((said == s) & (y == sign)).sum(axis=0) for sign in (-1, 1)] for s in (0, 1)]
        return Sums({"counts": np.array(counts, np.float64).transpose(2, 0, 1)})


def conditional_entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the second axis' variable given the first's, of counts (2, 2)."""
    joint = np.asarray(counts, np.float64)
    if joint.sum() <= 0:
        raise DataError("an attribute has no row with a label: widen the selection")
    joint = joint / joint.sum()
    given = np.broadcast_to(joint.sum(axis=1, keepdims=True), joint.shape)
    some = joint > 0
    return max(float(-(joint[some] * np.log(joint[some] / given[some])).sum()), 0.0)


def separability(counts: np.ndarray) -> float:
    """exp of the sum of the attributes' conditional entropies, of counts (A, 2, 2)."""
    return float(np.exp(sum(conditional_entropy(each) for each in counts)))
