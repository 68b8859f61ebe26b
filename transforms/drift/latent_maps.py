"""Maps between two latent spaces that hold the codes of the same images.

One space can be linked to another by a map fitted on the codes of images embedded in both (Asperti
and Tonelli 2022, "Comparing the latent space of generative models"; cited by Asperti et al., Image
embedding for denoising generative models, section 3). Three maps y - mean_y = A (x - mean_x) are
compared, each contained in the next: A the identity, A a rotation (orthogonal Procrustes,
Schoenemann 1966), and A any matrix (least squares).

All are functions of the centred joint moments of rows [x, y]
(`transforms.accumulate.moments.Moments`), which add up over blocks: the fit's errors, and errors on
held-out rows, need no second pass. An error that follows from moments is known to about 1e-8 of
the deviation, not to 1e-16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import Arrays
from transforms.accumulate.moments import Moments

KINDS = ("identity", "rotation", "linear")
"""The maps that `choose_map` compares, the simplest first."""
RANK_TOLERANCE = 1e-10
ENOUGH = 0.05
"""An error of up to this is as good as none: a simpler map that meets it is taken."""
FACTOR = 1.5
"""A simpler map is taken when its error is at most so many times the best one's."""
UNRELATED = 0.9
"""From this held-out error on, no map links the spaces."""
PENALTIES = 10.0 ** np.arange(-10, 4)
"""Ridge penalties that are tried, as multiples of the mean variance of x times n."""


@dataclass(frozen=True)
class AffineMap:
    """y = matrix (x - x_mean) + y_mean.

    matrix : float64 (D_y, D_x);  x_mean : (D_x,);  y_mean : (D_y,)
    """

    matrix: np.ndarray
    x_mean: np.ndarray
    y_mean: np.ndarray


@dataclass(frozen=True)
class LatentMap:
    """Codes of one space as codes of another, by one affine map a layer, or one for whole codes.

    kind : "identity", "rotation" or "linear"
    x_shape, y_shape : of one row's code. Layer i of y comes from layer i of x where there is a map
        for each; one map alone takes the flattened codes.
    """

    kind: str
    parts: tuple[AffineMap, ...]
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]

    def codes(self, x: np.ndarray) -> np.ndarray:
        """Codes (n, *x_shape) -> float64 (n, *y_shape)."""
        rows = self._split(x, len(x))
        parts = [
            (row - part.x_mean) @ part.matrix.T + part.y_mean
            for row, part in zip(rows, self.parts, strict=True)
        ]
        return np.concatenate(parts, axis=1).reshape(len(x), *self.y_shape)

    def direction(self, vector: np.ndarray) -> np.ndarray:
        """Where a step moves: A v for v (*x_shape), float64 (*y_shape), not unit."""
        rows = self._split(np.asarray(vector)[None], 1)
        parts = [part.matrix @ row[0] for row, part in zip(rows, self.parts, strict=True)]
        return np.concatenate(parts).reshape(self.y_shape)

    def _split(self, x: np.ndarray, n: int) -> list[np.ndarray]:
        if tuple(np.shape(x)[1:]) != self.x_shape:
            raise UsageError(
                f"codes have shape {tuple(np.shape(x)[1:])!r} a row, the map is from "
                f"{self.x_shape!r}: map codes of the old space"
            )
        flat = np.asarray(x, np.float64).reshape(n, -1)
        return np.split(flat, len(self.parts), axis=1)

    def to_arrays(self) -> Arrays:
        """matrix (parts, D_y, D_x), x_mean, y_mean."""
        names = ("matrix", "x_mean", "y_mean")
        return {name: np.stack([getattr(p, name) for p in self.parts]) for name in names}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], kind: str, x_shape: Any, y_shape: Any
    ) -> Self:
        """Inverse of `to_arrays`."""
        parts = zip(arrays["matrix"], arrays["x_mean"], arrays["y_mean"], strict=True)
        return cls(kind, tuple(AffineMap(*p) for p in parts), tuple(x_shape), tuple(y_shape))


def procrustes(cross: np.ndarray) -> np.ndarray:
    """The rotation or reflection R that minimises |y - R x|, float64 (D, D).

    cross : float64 (D, D), the sum of y x' over rows that are centred

    R = U V' of the singular vectors of `cross` (Schoenemann 1966). Directions that the rows do not
    span, where any rotation fits alike, are turned as little as possible.
    """
    if cross.ndim != 2 or cross.shape[0] != cross.shape[1]:
        raise UsageError(f"cross moment has shape {cross.shape!r}: a rotation needs equal widths")
    left, values, right = np.linalg.svd(cross)
    rank = int((values > RANK_TOLERANCE * values[0]).sum()) if values.size and values[0] else 0
    rotation = left[:, :rank] @ right[:rank]
    if rank < len(cross):
        inner, _, outer = np.linalg.svd(left[:, rank:].T @ right[rank:].T)
        rotation = rotation + left[:, rank:] @ (inner @ outer) @ right[rank:]
    return rotation


def fit_map(kind: str, moments: Moments, x_width: int, penalty: float | None = None) -> AffineMap:
    """The map of a kind from joint moments of rows [x, y], x the first `x_width` features.

    kind : identity (moved by the means only), rotation, or linear: least squares with a ridge
        penalty on the difference from the rotation, or from zero where the widths differ
    penalty : of "linear", a multiple of n times the mean variance of x; by default the one of
        `PENALTIES` with the least generalised cross-validation error (Golub, Heath, Wahba 1979)

    Raises DataError for fewer than 2 rows or codes that do not vary, UsageError for another kind,
    or for widths that differ where the kind needs equal ones.
    """
    moments.check(2)
    y_width = len(moments.mean) - x_width
    if kind not in KINDS or (kind != "linear" and x_width != y_width):
        raise UsageError(
            f"map {kind!r} from {x_width!r} to {y_width!r} coordinates is not known: use one of "
            f"{KINDS!r}, and 'linear' where widths differ"
        )
    x, y = slice(x_width), slice(x_width, None)
    xx, yx = moments.second[x, x], moments.second[y, x]
    if not np.trace(xx) > 0:
        raise DataError("codes of the old space do not vary: pair more images")
    if kind == "identity":
        matrix = np.eye(x_width)
    elif kind == "rotation":
        matrix = procrustes(yx)
    else:
        start = procrustes(yx) if x_width == y_width else np.zeros((y_width, x_width))
        matrix = start + _ridge(moments, x_width, start, penalty)
    return AffineMap(matrix, moments.mean[x], moments.mean[y])


def _ridge(moments: Moments, x_width: int, start: np.ndarray, penalty: float | None) -> np.ndarray:
    """B that minimises |y - start x - B x|^2 + penalty * n * variance * |B|^2 over centred rows."""
    xx = moments.second[:x_width, :x_width]
    yx = moments.second[x_width:, :x_width]
    rest = yx - start @ xx
    values, vectors = np.linalg.eigh(xx)
    values = np.maximum(values, 0.0)
    along = rest @ vectors
    unit = values.mean()
    floor = RANK_TOLERANCE * values[-1]
    if penalty is None:
        left = _squares(moments, x_width, start)
        energy = (along * along).sum(axis=0)
        scores = []
        for candidate in PENALTIES:
            shrunk = values + max(candidate * unit, floor)
            error = left - (energy * (2.0 / shrunk - values / shrunk**2)).sum()
            free = 1.0 - ((values / shrunk).sum() + 1.0) / moments.count
            scores.append(max(error, 0.0) / free**2 if free > 0 else np.inf)
        penalty = float(PENALTIES[int(np.argmin(scores))])
    return (along / (values + max(penalty * unit, floor))) @ vectors.T


def _squares(moments: Moments, x_width: int, matrix: np.ndarray) -> float:
    """Sum of |y - A x|^2 over rows centred by the moments' own means."""
    xx = moments.second[:x_width, :x_width]
    yx = moments.second[x_width:, :x_width]
    yy = float(np.trace(moments.second[x_width:, x_width:]))
    return max(yy - 2.0 * float((matrix * yx).sum()) + float(((matrix @ xx) * matrix).sum()), 0.0)


def map_error(parts: Sequence[AffineMap], moments: Sequence[Moments]) -> float:
    """Relative error of maps on rows, sqrt(sum |y - f(x)|^2 / sum |y - y_mean|^2).

    parts, moments : one a layer; moments are the joint ones of the rows, which need not be those
        that the maps were fitted on. y_mean is the map's: 1.0 is what predicting it would have.
    """
    wrong, whole = 0.0, 0.0
    for part, m in zip(parts, moments, strict=True):
        m.check(1)
        width = part.matrix.shape[1]
        off_x, off_y = m.mean[:width] - part.x_mean, m.mean[width:] - part.y_mean
        shift = off_y - part.matrix @ off_x
        wrong += _squares(m, width, part.matrix) + m.count * float(shift @ shift)
        spread = float(np.trace(m.second[width:, width:]))
        whole += spread + m.count * float(off_y @ off_y)
    if not whole > 0:
        raise DataError("codes of the new space do not vary: pair more images")
    return float(np.sqrt(wrong / whole))


@dataclass(frozen=True)
class MapChoice:
    """What links two spaces.

    maps : kind -> map; errors : kind -> relative error on held-out rows
    relation : the simplest kind whose error is at most `ENOUGH`, or `FACTOR` times the best one's;
        "unrelated" where that is `UNRELATED` or more
    fitted, held_out : numbers of rows
    """

    maps: dict[str, LatentMap]
    errors: dict[str, float]
    relation: str
    fitted: int
    held_out: int

    @property
    def chosen(self) -> LatentMap | None:
        """The map of that relation, None between unrelated spaces."""
        return self.maps.get(self.relation)

    @property
    def error(self) -> float:
        """Held-out error of the chosen map, or the smallest one between unrelated spaces."""
        return self.errors.get(self.relation, min(self.errors.values()))


def choose_map(
    fitted: Sequence[Moments],
    held_out: Sequence[Moments],
    x_shape: Sequence[int],
    y_shape: Sequence[int],
) -> MapChoice:
    """Fit all maps on some rows, measure them on others, choose.

    fitted, held_out : joint moments of [x, y], one a layer, or one of the flattened codes
    """
    x_shape, y_shape = tuple(x_shape), tuple(y_shape)
    x_width = int(np.prod(x_shape)) // len(fitted)
    kinds = KINDS if x_shape == y_shape else KINDS[-1:]
    maps = {
        kind: LatentMap(kind, tuple(fit_map(kind, m, x_width) for m in fitted), x_shape, y_shape)
        for kind in kinds
    }
    errors = {kind: map_error(found.parts, held_out) for kind, found in maps.items()}
    limit = max(ENOUGH, FACTOR * min(errors.values()))
    relation = next(kind for kind in kinds if errors[kind] <= limit)
    if errors[relation] >= UNRELATED:
        relation = "unrelated"
    return MapChoice(maps, errors, relation, fitted[0].count, held_out[0].count)
