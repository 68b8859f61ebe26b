"""What one pass of the hyperplane solver computes from a block.

All products are matrix-matrix, over the attributes that still need the pass. Rows are centred by
the stored mean when a block is prepared, so the float32 products lose nothing to a large mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from schemas.errors import DataError
from transforms.blocks import Arrays, Sums, flatten_rows
from transforms.moments import Moments, second_moment


@dataclass(frozen=True)
class LabelledMoments:
    """Moments of all rows and, for every attribute, counts and sums of its two classes.

    counts : int64 (2, A), negatives then positives;  sums : float64 (2, A, D)
    """

    moments: Moments
    counts: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, diagonal: bool = False) -> LabelledMoments:
        """x (m, D) floats, y (m, A) in {-1, 0, 1}."""
        moments = Moments.of(x, diagonal)
        shift = moments.mean  # the sums are taken of block-centred rows, then moved back
        precision = np.float32 if x.dtype in (np.float16, np.float32) else np.float64
        centred = np.subtract(x, shift).astype(precision)
        sides = [(y == sign).astype(precision) for sign in (-1, 1)]
        counts = np.stack([side.sum(axis=0, dtype=np.float64) for side in sides])
        sums = np.stack([side.T @ centred for side in sides]).astype(np.float64)
        sums += counts[:, :, None] * shift
        return cls(moments, counts.astype(np.int64), sums)

    def merge(self, other: LabelledMoments) -> LabelledMoments:
        """Statistic of both sets of rows."""
        return LabelledMoments(
            self.moments.merge(other.moments),
            self.counts + other.counts,
            self.sums + other.sums,
        )

    def to_arrays(self) -> Arrays:
        """The arrays of the moments, label_counts, label_sums."""
        labels = {"label_counts": self.counts, "label_sums": self.sums}
        return self.moments.to_arrays() | labels

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> LabelledMoments:
        """Inverse of `to_arrays`."""
        return cls(Moments.from_arrays(arrays), arrays["label_counts"], arrays["label_sums"])


def check_labels(y: np.ndarray) -> np.ndarray:
    """y as int8 (m, A); raises DataError unless every label is -1, 0 or 1."""
    y = y[:, None] if y.ndim == 1 else y
    valid = (y == -1) | (y == 0) | (y == 1)
    if not valid.all():
        row, column = np.argwhere(~valid)[0]
        raise DataError(
            f"label {y[row, column].item()!r} of attribute {int(column)!r} is not -1, 0 or 1: turn "
            "scores into labels, with 0 for rows without one"
        )
    return y.astype(np.int8)


@dataclass(frozen=True)
class MomentsRequest:
    """The first pass: moments and class sums.

    Above `gram_max_features` features only the diagonal of the second moment is kept.
    """

    gram_max_features: int
    token: str = "svm-raw"

    def prepare(self, arrays: Arrays) -> Arrays:
        """Rows flattened to (m, D), labels checked."""
        return {"x": flatten_rows(arrays["x"]), "y": check_labels(arrays["y"])}

    def statistic(self, prepared: Arrays) -> LabelledMoments:
        """`LabelledMoments` of the block."""
        diagonal = prepared["x"].shape[1] > self.gram_max_features
        return LabelledMoments.of(prepared["x"], prepared["y"], diagonal)


@dataclass(frozen=True)
class _CentredRequest:
    """Common to the passes over centred rows.

    attributes : int (a,), columns of y this pass is about
    weights, intercepts : (D, a), (a,), where the margins are taken, in centred coordinates
    costs : (2, a), C times the class weight, negatives then positives
    """

    mean: np.ndarray
    precision: str
    attributes: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray
    costs: np.ndarray
    token: str = field(default="", init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(np.ascontiguousarray(self.mean).tobytes()).hexdigest()
        object.__setattr__(self, "token", f"svm-{self.precision}-{digest}")

    def prepare(self, arrays: Arrays) -> Arrays:
        """Centred rows and labels, both in the working precision."""
        x = flatten_rows(arrays["x"])
        centred = (x.astype(np.float64) - self.mean).astype(self.precision)
        y = check_labels(arrays["y"])
        return {"x": centred, "y": y.astype(self.precision), "unlabelled": (y == 0).any(axis=0)}

    def _cast(self, values: np.ndarray) -> np.ndarray:
        return values.astype(self.precision, copy=False)

    def _labels(self, prepared: Arrays) -> tuple[np.ndarray, np.ndarray | None]:
        """(y (m, a), labelled bool (m, a) or None when all are)."""
        at = self.attributes
        y = prepared["y"]
        if len(at) != y.shape[1]:
            y = y[:, at]
        return y, (y != 0) if prepared["unlabelled"][at].any() else None

    def _cost(self, y: np.ndarray) -> np.ndarray:
        """Cost of each row, (a,) where both classes cost the same, else (m, a)."""
        negative, positive = self._cast(self.costs)
        if np.array_equal(negative, positive):
            return positive
        return np.where(y > 0, positive, negative)

    def _margins(self, prepared: Arrays, y: np.ndarray) -> np.ndarray:
        """y (x . w + b), (m, a)."""
        scores = prepared["x"] @ self._cast(self.weights)
        scores += self._cast(self.intercepts)
        scores *= y
        return scores


@dataclass(frozen=True)
class EvaluateRequest(_CentredRequest):
    """Loss and gradient at a point."""

    def statistic(self, prepared: Arrays) -> Sums:
        """loss, active rows and their cost, correct rows (a,); gradient sums (D, a), (a,)."""
        y, labelled = self._labels(prepared)
        margins = self._margins(prepared, y)
        correct = (margins > 0).sum(axis=0)
        slack = np.maximum(1 - margins, 0)
        if labelled is not None:
            slack *= labelled
        active = slack > 0
        cost = self._cost(y)
        pull = cost * slack
        loss = np.einsum("ma,ma->a", pull, slack, dtype=np.float64)
        if cost.ndim == 1:
            active_cost = active.sum(axis=0) * cost.astype(np.float64)
        else:
            active_cost = np.einsum("ma,ma->a", cost, active, dtype=np.float64)
        pull *= y
        return Sums(
            {
                "loss": loss,
                "active": active.sum(axis=0),
                "active_cost": active_cost,
                "correct": correct,
                "gradient": (prepared["x"].T @ pull).astype(np.float64),
                "gradient_intercept": pull.sum(axis=0, dtype=np.float64),
            }
        )


@dataclass(frozen=True)
class CurvatureRequest(_CentredRequest):
    """Hessian products along a direction, and exact Hessians where few rows are active.

    products : positions (p,) within `attributes` that get a Hessian product
    steps, step_intercepts : (D, p), (p,), the directions
    exact : positions (e,) whose whole active Hessian is returned
    """

    products: np.ndarray
    steps: np.ndarray
    step_intercepts: np.ndarray
    exact: np.ndarray

    def statistic(self, prepared: Arrays) -> Sums:
        """product (D, p), product_intercept (p,), hessian (e, D + 1, D + 1)."""
        y, labelled = self._labels(prepared)
        active = self._margins(prepared, y) < 1
        if labelled is not None:
            active &= labelled
        x = prepared["x"]
        cost = self._cost(y)
        along = x @ self._cast(self.steps)
        along += self._cast(self.step_intercepts)
        along *= active[:, self.products]
        along *= cost[..., self.products]
        hessian = np.zeros((len(self.exact), x.shape[1] + 1, x.shape[1] + 1))
        for i, at in enumerate(self.exact):
            rows = np.flatnonzero(active[:, at])
            scale = np.sqrt((cost[rows, at] if cost.ndim == 2 else cost[at]).astype(np.float64))
            design = np.concatenate([x[rows], np.ones((len(rows), 1), x.dtype)], axis=1)
            design = design.astype(np.float64) * (scale[:, None] if cost.ndim == 2 else scale)
            if len(rows):
                hessian[i] = second_moment(design)
        return Sums(
            {
                "product": (x.T @ along).astype(np.float64),
                "product_intercept": along.sum(axis=0, dtype=np.float64),
                "hessian": hessian,
            }
        )


@dataclass(frozen=True)
class LineRequest(_CentredRequest):
    """Loss along a ray, exactly, at several step lengths.

    steps, step_intercepts : (D, a), (a,);  lengths : (T, a)
    """

    steps: np.ndarray
    step_intercepts: np.ndarray
    lengths: np.ndarray

    def statistic(self, prepared: Arrays) -> Sums:
        """loss and slope (T, a) of the squared hinge at every length."""
        y, labelled = self._labels(prepared)
        margins = self._margins(prepared, y)
        along = prepared["x"] @ self._cast(self.steps)
        along += self._cast(self.step_intercepts)
        along *= y
        cost = self._cost(y)
        loss = np.empty(self.lengths.shape)
        slope = np.empty(self.lengths.shape)
        for i, length in enumerate(self._cast(self.lengths)):
            slack = np.maximum(1 - margins - length * along, 0)
            if labelled is not None:
                slack *= labelled
            pull = cost * slack
            loss[i] = np.einsum("ma,ma->a", pull, slack, dtype=np.float64)
            slope[i] = -2 * np.einsum("ma,ma->a", pull, along, dtype=np.float64)
        return Sums({"loss": loss, "slope": slope})
