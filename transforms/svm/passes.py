"""What one pass of the hyperplane solver computes from a block.

All products are matrix-matrix, over the attributes that still need the pass, in chunks of rows that
stay in the processor's cache. Rows are centred when a block is prepared, so the float32 products
lose nothing to a large mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from schemas.errors import DataError
from transforms.accumulate.blocks import TRANSFORMS, Arrays, Sums, flatten_rows, statistic_kind
from transforms.accumulate.moments import Moments

_CHUNK_ROWS = 1024
_MOMENT_ROWS = 8192
_GRAM_ROWS_PER_FEATURE = 16


@statistic_kind("LabelledMoments")
@dataclass(frozen=True)
class LabelledMoments:
    """Moments of all rows and, for every attribute, counts and sums of its two classes.

    moments : of all rows; the second moment is for preconditioning only: of float32 rows it is a
        float32 product, and of large blocks it is scaled up from every k-th row
    counts : int64 (2, A), rows, negatives then positives
    weights : float64 (2, A), the same by weight
    sums : float64 (2, A, D), weighted sums of the rows
    """

    moments: Moments
    counts: np.ndarray
    weights: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(
        cls, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None, diagonal: bool = False
    ) -> LabelledMoments:
        """x (m, D) floats, y (m, A) in {-1, 0, 1}, weight (m,) not negative."""
        precision = np.float32 if x.dtype in (np.float16, np.float32) else np.float64
        n, n_features = x.shape
        total, difference = np.zeros((2, y.shape[1], n_features))
        moments = Moments.zero(n_features, diagonal)
        stride = max(1, n // (_GRAM_ROWS_PER_FEATURE * max(n_features, 1)))
        for rows in _chunks(n, _MOMENT_ROWS):
            centred, mean = _centred(x[rows], precision)
            signs: np.ndarray = y[rows].astype(precision)
            if weight is not None:
                signs *= weight[rows, None].astype(precision)
            present = np.abs(signs)
            shift = mean.astype(np.float64)
            difference += signs.T @ centred + np.outer(signs.sum(axis=0, dtype=np.float64), shift)
            total += present.T @ centred + np.outer(present.sum(axis=0, dtype=np.float64), shift)
            moments = moments.merge(_moments(centred, shift, diagonal, stride))
        masks = np.stack([y < 0, y > 0])
        if weight is not None:
            weights = np.einsum("cma,m->ca", masks, weight.astype(np.float64))
        else:
            weights = masks.sum(axis=1, dtype=np.float64)
        sums = np.stack([total - difference, total + difference]) / 2
        return cls(moments, masks.sum(axis=1), weights, sums)

    def merge(self, other: LabelledMoments) -> LabelledMoments:
        """Statistic of both sets of rows."""
        return LabelledMoments(
            self.moments.merge(other.moments),
            self.counts + other.counts,
            self.weights + other.weights,
            self.sums + other.sums,
        )

    def to_arrays(self) -> Arrays:
        """The arrays of the moments, label_counts, label_weights, label_sums."""
        labels = {
            "label_counts": self.counts,
            "label_weights": self.weights,
            "label_sums": self.sums,
        }
        return self.moments.to_arrays() | labels

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> LabelledMoments:
        """Inverse of `to_arrays`."""
        labels = (arrays[f"label_{name}"] for name in ("counts", "weights", "sums"))
        return cls(Moments.from_arrays(arrays), *labels)


def _chunks(n_rows: int, size: int = _CHUNK_ROWS) -> Iterator[slice]:
    return (slice(i, i + size) for i in range(0, n_rows, size))


def _centred(x: np.ndarray, precision: type[np.floating]) -> tuple[np.ndarray, np.ndarray]:
    """(rows minus about their mean, what was subtracted), both in `precision`."""
    x = x.astype(precision, copy=False)
    mean = np.full(len(x), 1 / len(x), precision) @ x
    return x - mean, mean


def _moments(centred: np.ndarray, shift: np.ndarray, diagonal: bool, stride: int) -> Moments:
    """`Moments` of rows given nearly centred, their second moment from every stride-th row."""
    n = len(centred)
    rest = _column_sums(centred) / n
    if diagonal:
        second = np.einsum("md,md->d", centred, centred, dtype=np.float64)
        return Moments(n, shift + rest, np.maximum(second - n * rest * rest, 0.0))
    some = centred[::stride]
    second = (some.T @ some).astype(np.float64)  # by NumPy, as the other products of this pass
    return Moments(n, shift + rest, second * (n / len(some)) - n * np.outer(rest, rest))


def check_labels(y: np.ndarray) -> np.ndarray:
    """y as int8 (m, A), true as 1 and false as -1; DataError for labels other than -1, 0 and 1."""
    y = y[:, None] if y.ndim == 1 else y
    if y.dtype == bool:
        return np.where(y, 1, -1).astype(np.int8)
    valid = (y == -1) | (y == 0) | (y == 1)
    if not valid.all():
        row, column = np.argwhere(~valid)[0]
        raise DataError(
            f"label {y[row, column].item()!r} of attribute {int(column)!r} is not -1, 0 or 1: turn "
            "scores into labels, with 0 for rows without one"
        )
    return y.astype(np.int8)


def labels_and_weights(arrays: Arrays) -> tuple[np.ndarray, np.ndarray | None]:
    """(y int8 (m, A), weight (m,) or None); rows of weight 0 count as unlabelled.

    Raises DataError for bad labels, and for weights that are negative or not finite.
    """
    y, weight = check_labels(arrays["y"]), arrays.get("weight")
    if weight is None:
        return y, None
    weight = np.asarray(weight, np.float64)
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(bad):
        raise DataError(
            f"weight {weight[bad[0]].item()!r} is not a number of 0 or more: correct the weights, "
            "with 0 for rows to leave out"
        )
    return np.where(weight[:, None] > 0, y, 0).astype(np.int8), weight


@dataclass(frozen=True)
class MomentsRequest:
    """The first pass: moments and class sums.

    Above `gram_max_features` features only the diagonal of the second moment is kept.
    """

    kind = f"{TRANSFORMS}.svm_passes.MomentsRequest"

    gram_max_features: int
    token: str = "svm-raw"

    def prepare(self, arrays: Arrays) -> Arrays:
        """Rows flattened to (m, D), labels and weights checked."""
        y, weight = labels_and_weights(arrays)
        prepared = {"x": flatten_rows(arrays["x"]), "y": y}
        return prepared if weight is None else prepared | {"weight": weight}

    def statistic(self, prepared: Arrays) -> LabelledMoments:
        """`LabelledMoments` of the block."""
        diagonal = prepared["x"].shape[1] > self.gram_max_features
        return LabelledMoments.of(prepared["x"], prepared["y"], prepared.get("weight"), diagonal)


@dataclass(frozen=True)
class CentredRequest:
    """Common to the passes over centred rows.

    centre : float64 (D,), what is subtracted from the rows, near their mean
    precision : of the rows and all products, 'float32' or 'float64'
    """

    centre: np.ndarray
    precision: str
    token: str = field(default="", init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(np.ascontiguousarray(self.centre).tobytes()).hexdigest()
        object.__setattr__(self, "token", f"svm-{self.precision}-{digest}")

    def prepare(self, arrays: Arrays) -> Arrays:
        """Centred rows, labels and weights in the working precision, and room for the margins'."""
        x = flatten_rows(arrays["x"])
        y, weight = labels_and_weights(arrays)
        # Where rows and centre are float32 numbers, their float32 difference is rounded once.
        narrow = self.precision == "float32" and x.dtype == np.float32
        centre = self.centre.astype(np.float32) if narrow else self.centre
        x = x if narrow else x.astype(np.float64, copy=False)
        x = x - centre if centre.any() else x
        prepared = {
            "x": x.astype(self.precision, copy=False),
            "y": y.astype(self.precision),
            "unlabelled": (y == 0).any(axis=0),
            "active": np.zeros(y.shape, bool),
            "active_at": np.zeros(32, np.uint8),
        }
        for name in ("fold",):
            if name in arrays:
                prepared[name] = arrays[name]
        return prepared if weight is None else prepared | {"weight": weight.astype(self.precision)}

    def _cast(self, values: np.ndarray) -> np.ndarray:
        return values.astype(self.precision, copy=False)


@dataclass(frozen=True)
class AttributesRequest(CentredRequest):
    """Common to the passes about some attributes at given hyperplanes.

    attributes : int (a,), columns of y this pass is about
    weights, intercepts : (D, a), (a,), where the margins are taken, for centred rows
    costs : (2, a), C times the class weight, negatives then positives
    """

    attributes: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray
    costs: np.ndarray

    def _labels(self, prepared: Arrays, rows: slice) -> np.ndarray:
        y = prepared["y"][rows]
        return y if len(self.attributes) == y.shape[1] else y[:, self.attributes]

    def _gaps(self, prepared: Arrays) -> bool:
        """Whether any of the attributes has unlabelled rows."""
        return bool(prepared["unlabelled"][self.attributes].any())

    def _scores(self, x: np.ndarray) -> np.ndarray:
        """x . w + b, (m, a)."""
        scores = x @ self._cast(self.weights)
        scores += self._cast(self.intercepts)
        return scores

    def _place(self) -> np.ndarray:
        """Digest of the hyperplanes, of which the active rows are a function."""
        digest = hashlib.sha256(np.ascontiguousarray(self.attributes).tobytes())
        digest.update(np.ascontiguousarray(self.weights).tobytes())
        digest.update(np.ascontiguousarray(self.intercepts).tobytes())
        return np.frombuffer(digest.digest(), np.uint8)

    def _uniform(self, prepared: Arrays) -> bool:
        """Whether each attribute has one cost for all of its rows."""
        return "weight" not in prepared and np.array_equal(*self.costs)

    def _charge(
        self, values: np.ndarray, y: np.ndarray, prepared: Arrays, rows: slice, at: np.ndarray
    ) -> None:
        """Multiply values (m, len(at)) by each row's cost, in place."""
        negative, positive = self._cast(self.costs[:, at])
        if not np.array_equal(negative, positive):
            values *= (positive + negative) / 2 + y[:, at] * ((positive - negative) / 2)
        else:
            values *= positive
        if "weight" in prepared:
            values *= prepared["weight"][rows, None]


def _column_sums(values: np.ndarray) -> np.ndarray:
    """Sums over the rows of a chunk, float64."""
    return (np.ones(len(values), values.dtype) @ values).astype(np.float64)


@dataclass(frozen=True)
class EvaluateRequest(AttributesRequest):
    """Loss and gradient at a point."""

    kind = f"{TRANSFORMS}.svm_passes.EvaluateRequest"

    def statistic(self, prepared: Arrays) -> Sums:
        """Sums over the block.

        loss (a,);  gradient (D, a), gradient_intercept (a,): of the loss, divided by -2
        active, active_cost (a,), rows with slack and what they cost;  correct (a,), rows
        square (a,), of the scores without intercept
        """
        x, n_attributes = prepared["x"], len(self.attributes)
        every, uniform = np.arange(n_attributes), self._uniform(prepared)
        gaps = self._gaps(prepared)
        prepared["active_at"][:] = 0
        out = {
            name: np.zeros(n_attributes)
            for name in ("loss", "active", "active_cost", "correct", "square")
        }
        gradient, intercept = np.zeros((x.shape[1], n_attributes)), np.zeros(n_attributes)
        for rows in _chunks(len(x)):
            y = self._labels(prepared, rows)
            slack = x[rows] @ self._cast(self.weights)
            out["square"] += np.einsum("ma,ma->a", slack, slack)
            slack += self._cast(self.intercepts)
            slack *= y
            out["correct"] += _column_sums((slack > 0).astype(x.dtype))
            np.subtract(1, slack, out=slack)
            active = slack > 0
            if gaps:
                active &= y != 0
            prepared["active"][rows, :n_attributes] = active
            np.maximum(slack, 0, out=slack)
            charged = active.astype(x.dtype)
            out["active"] += _column_sums(charged)
            if uniform:
                pull = np.multiply(slack, y, out=charged)
                if gaps:
                    slack *= active
                out["loss"] += np.einsum("ma,ma->a", slack, slack)
            else:
                self._charge(charged, y, prepared, rows, every)
                out["active_cost"] += _column_sums(charged)
                pull = np.multiply(slack, charged, out=charged)
                out["loss"] += np.einsum("ma,ma->a", pull, slack)
                pull *= y
            gradient += x[rows].T @ pull
            intercept += _column_sums(pull)
        if uniform:
            cost = self.costs[0]
            out["active_cost"] = out["active"] * cost
            out["loss"] *= cost
            gradient *= cost
            intercept *= cost
        prepared["active_at"][:] = self._place()
        return Sums(out | {"gradient": gradient, "gradient_intercept": intercept})


@dataclass(frozen=True)
class CurvatureRequest(AttributesRequest):
    """Hessian products along a direction, and exact Hessians where few rows are active.

    products : positions (p,) within `attributes` that get a Hessian product
    steps, step_intercepts : (D, p), (p,), the directions
    exact : positions (e,) whose whole active Hessian is returned
    """

    kind = f"{TRANSFORMS}.svm_passes.CurvatureRequest"

    products: np.ndarray
    steps: np.ndarray
    step_intercepts: np.ndarray
    exact: np.ndarray

    def _active(self, prepared: Arrays) -> np.ndarray:
        """Rows with slack, bool (m, a): kept by the evaluation of this very point, else anew."""
        n_attributes = len(self.attributes)
        if np.array_equal(prepared["active_at"], self._place()):
            return prepared["active"][:, :n_attributes]
        active = np.empty((len(prepared["x"]), n_attributes), bool)
        gaps = self._gaps(prepared)
        for rows in _chunks(len(active)):
            y = self._labels(prepared, rows)
            scores = self._scores(prepared["x"][rows])
            scores *= y
            np.less(scores, 1, out=active[rows])
            if gaps:
                active[rows] &= y != 0
        return active

    def statistic(self, prepared: Arrays) -> Sums:
        """product (D, p), product_intercept (p,), hessian (e, D + 1, D + 1)."""
        x = prepared["x"]
        uniform, active = self._uniform(prepared), self._active(prepared)
        product = np.zeros((x.shape[1], len(self.products)))
        intercept = np.zeros(len(self.products))
        steps, step_intercepts = self._cast(self.steps), self._cast(self.step_intercepts)
        for rows in _chunks(len(x)) if len(self.products) else ():
            along = x[rows] @ steps
            along += step_intercepts
            mask = active[rows]
            along *= mask if mask.shape[1] == along.shape[1] else mask[:, self.products]
            if not uniform:
                y = self._labels(prepared, rows)
                self._charge(along, y, prepared, rows, self.products)
            product += x[rows].T @ along
            intercept += _column_sums(along)
        if uniform:
            product *= self.costs[0, self.products]
            intercept *= self.costs[0, self.products]
        hessian = np.zeros((len(self.exact), x.shape[1] + 1, x.shape[1] + 1))
        for i, at in enumerate(self.exact):
            hessian[i] = self._exact(prepared, np.flatnonzero(active[:, at]), int(at))
        return Sums({"product": product, "product_intercept": intercept, "hessian": hessian})

    def _exact(self, prepared: Arrays, rows: np.ndarray, at: int) -> np.ndarray:
        """Cost-weighted Gram of the active rows with a column of ones, float64."""
        x = prepared["x"]
        if not len(rows):
            return np.zeros((x.shape[1] + 1, x.shape[1] + 1))
        design = np.concatenate([x[rows], np.ones((len(rows), 1), x.dtype)], axis=1)
        positive = prepared["y"][rows, self.attributes[at]] > 0
        cost = np.where(positive, self.costs[1, at], self.costs[0, at])
        if "weight" in prepared:
            cost = cost * prepared["weight"][rows]
        scaled = design.astype(np.float64) * np.sqrt(cost)[:, None]
        return scaled.T @ scaled


@dataclass(frozen=True)
class LineRequest(AttributesRequest):
    """Loss along a ray, exactly, at several step lengths.

    steps, step_intercepts : (D, a), (a,);  lengths : (T, a)
    """

    kind = f"{TRANSFORMS}.svm_passes.LineRequest"

    steps: np.ndarray
    step_intercepts: np.ndarray
    lengths: np.ndarray

    def statistic(self, prepared: Arrays) -> Sums:
        """loss and slope (T, a) of the squared hinge at every length."""
        x, every = prepared["x"], np.arange(len(self.attributes))
        uniform, gaps = self._uniform(prepared), self._gaps(prepared)
        lengths = self._cast(self.lengths)
        loss, slope = np.zeros((2, *self.lengths.shape))
        for rows in _chunks(len(x)):
            y = self._labels(prepared, rows)
            gap = self._scores(x[rows])
            gap *= y
            np.subtract(1, gap, out=gap)
            along = x[rows] @ self._cast(self.steps)
            along += self._cast(self.step_intercepts)
            along *= y
            cost = None
            if not uniform:
                cost = np.ones_like(along)
                self._charge(cost, y, prepared, rows, every)
            for i, length in enumerate(lengths):
                slack = length * along
                np.subtract(gap, slack, out=slack)
                np.maximum(slack, 0, out=slack)
                if gaps:
                    slack *= y != 0
                pull = slack if cost is None else slack * cost
                loss[i] += np.einsum("ma,ma->a", pull, slack)
                slope[i] -= 2 * np.einsum("ma,ma->a", pull, along)
        if uniform:
            loss *= self.costs[0]
            slope *= self.costs[0]
        return Sums({"loss": loss, "slope": slope})
