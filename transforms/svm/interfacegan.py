"""The training protocol of InterFaceGAN (Shen et al. 2020), exactly, but seeded.

The fast solver of `transforms.svm.fit` uses all rows and the squared hinge; this is for comparison
with published boundaries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.svm import SVC

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import flatten_rows


@dataclass(frozen=True)
class Boundary:
    """One attribute's boundary.

    normal : float64 (D,), unit, toward high scores;  intercept : of the unit normal
    validation_accuracy : of the extremes held out;  NaN without any
    remaining_accuracy : of all rows that are not extreme, labelled by whether their score is in
        the upper half of the range;  NaN without any
    n_train, n_validation, n_remaining : rows
    """

    normal: np.ndarray
    intercept: float
    validation_accuracy: float
    remaining_accuracy: float
    n_train: int
    n_validation: int
    n_remaining: int


def train_boundary(
    codes: np.ndarray,
    scores: np.ndarray,
    *,
    chosen: float = 0.02,
    split_ratio: float = 0.7,
    invalid_value: float | None = None,
    c: float = 1.0,
    seed: int = 0,
) -> Boundary:
    """A boundary from the rows with the highest and the lowest scores (`train_boundary` there).

    codes : (n, D) or (n, ...), flattened;  scores : float (n,) or (n, 1)
    chosen : rows on either side: a share of all where at most 1, else a number; at most half
    split_ratio : share of the chosen rows to train on, the others validate
    invalid_value : rows with this score are left out, besides those whose score is not finite
    c : of the hinge loss (scikit-learn's ``SVC(kernel="linear")``, libsvm)
    seed : of the split, which the original leaves to chance

    Raises DataError when scores do not vary, UsageError for values out of range.
    """
    x, scores = flatten_rows(np.asarray(codes)), np.asarray(scores, np.float64)
    if scores.shape not in ((len(x),), (len(x), 1)):
        raise UsageError(f"{len(x)!r} codes but scores of shape {scores.shape!r}: give one a row")
    if not (chosen > 0 and 0 < split_ratio <= 1 and c > 0):
        raise UsageError(
            f"chosen {chosen!r} and c {c!r} must be above 0, split_ratio {split_ratio!r} within "
            "0 and 1"
        )
    scores = scores.ravel()
    valid = np.isfinite(scores)
    if invalid_value is not None:
        valid &= scores != invalid_value
    x, scores = x[valid], scores[valid]
    n = len(scores)
    if n < 2 or scores.max() == scores.min():
        raise DataError(f"{n!r} rows with scores that do not vary: there is nothing to separate")
    order = np.argsort(-scores, kind="stable")
    x, scores = x[order], scores[order]
    side = min(int(n * chosen) if chosen <= 1 else int(chosen), n // 2)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 31]))
    n_train_side = int(side * split_ratio)
    if n_train_side < 1:
        raise DataError(
            f"{side!r} rows on either side of {n!r}, {n_train_side!r} of them to train on: choose "
            "a larger share"
        )
    sides = [rng.permutation(side), n - side + rng.permutation(side)]
    train = np.concatenate([rows[:n_train_side] for rows in sides])
    validate = np.concatenate([rows[n_train_side:] for rows in sides])
    n_train = len(train)
    fitted = SVC(C=c, kernel="linear").fit(x[train], np.where(train < side, 1, 0))
    coef, intercept = fitted.coef_[0].astype(np.float64), float(fitted.intercept_[0])
    norm = float(np.linalg.norm(coef))
    if norm == 0:
        raise DataError("the extreme rows of both sides are the same: there is no boundary")
    positive = x.astype(np.float64) @ coef + intercept > 0
    middle = (scores.max() + scores.min()) / 2
    rest = np.arange(side, n - side)

    def accuracy(rows: np.ndarray, labels: np.ndarray) -> float:
        return float((positive[rows] == labels).mean()) if len(rows) else float("nan")

    return Boundary(
        normal=coef / norm,
        intercept=intercept / norm,
        validation_accuracy=accuracy(validate, validate < side),
        remaining_accuracy=accuracy(rest, scores[rest] >= middle),
        n_train=n_train,
        n_validation=len(validate),
        n_remaining=len(rest),
    )
