"""Principal components of few long rows, from the Gram matrix of the rows.

The Gram matrix (n, n) is a sum over slabs of features. A slab holds all rows of some features, so
it is centred exactly before its products are taken. A second pass over the slabs multiplies the
left singular vectors with the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar, Self

import numpy as np
from scipy.linalg import eigh

from schemas.errors import UsageError
from transforms.accumulate.blocks import (
    TRANSFORMS,
    Accumulator,
    Arrays,
    BlockSource,
    Parts,
    Sums,
    flatten_rows,
    statistic_kind,
)
from transforms.accumulate.moments import second_moment
from transforms.accumulate.passes import PassRequest, expect
from transforms.accumulate.sources import ColumnBlocks
from transforms.pca.result import (
    PCA,
    assemble,
    check_components,
    check_finite,
    check_rows,
    random_frame,
)
from transforms.signs import signs_of

_NEGLIGIBLE = 1e-7
"""Singular values below this share of the largest are rounding of the Gram matrix."""


@dataclass(frozen=True)
class RowSlabs:
    """All rows of some features at a time: each slab is read from a source of its own.

    slabs : sources in the order of the features (layers of a store, or `ColumnBlocks`), with
        array x (m, ...)
    edges : int (len(slabs) + 1,), the feature at which each slab starts, then their number
    """

    slabs: tuple[BlockSource, ...]
    edges: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.slabs or len(self.edges) != len(self.slabs) + 1:
            raise UsageError(
                f"{len(self.slabs)!r} slabs have {len(self.edges)!r} edges: give at least one "
                "slab, and one edge more than slabs"
            )

    @property
    def key(self) -> str:
        """The slabs' keys."""
        return repr(["rows", *(slab.key for slab in self.slabs)])

    @property
    def n_blocks(self) -> int:
        """Number of slabs."""
        return len(self.slabs)

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Row numbers; x (n, d) of the slab and the feature it starts at, start ()."""
        source = self.slabs[block]
        rows, parts = [], []
        for b in range(source.n_blocks):
            numbers, arrays = source.read(b)
            rows.append(numbers)
            parts.append(flatten_rows(arrays["x"]))
        numbers = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        x = np.concatenate(parts) if parts else np.zeros((0, 0))
        return numbers, {"x": x, "start": np.array(self.edges[block])}


def _centred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float64 rows minus their mean, mean)."""
    check_rows(len(x))
    mean = x.mean(axis=0, dtype=np.float64)
    centred = np.subtract(x, mean, dtype=np.float64)
    rest = centred.mean(axis=0)
    centred -= rest
    return centred, mean + rest


@dataclass(frozen=True)
class GramRequest:
    """Gram matrix of the centred rows, a sum over slabs."""

    kind = f"{TRANSFORMS}.pca_gram.GramRequest"

    token: str = "pca-slab"

    def prepare(self, arrays: Arrays) -> Arrays:
        """The slab as it is."""
        return arrays

    def statistic(self, prepared: Arrays) -> Sums:
        """gram (n, n) and the number of features ()."""
        centred = _centred(prepared["x"])[0]
        features = np.array(centred.shape[1])
        return Sums({"gram": second_moment(centred.T), "features": features})


@statistic_kind("SlabParts")
class SlabParts(Parts):
    """Arrays of every slab by the feature it starts at."""

    def join(self, name: str) -> np.ndarray:
        """One array over all features."""
        return np.concatenate(self.of(name), axis=-1)

    def of(self, name: str) -> list[np.ndarray]:
        """One array a slab, in the order of the features."""
        return [self.parts[start][name] for start in sorted(self.parts)]


@dataclass(frozen=True)
class ProductsRequest(GramRequest):
    """Products of the left singular vectors with the centred rows of every slab.

    left : float64 (n, k);  frame : float64 (D, m), `random_frame`
    """

    kind = f"{TRANSFORMS}.pca_gram.ProductsRequest"

    left: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    frame: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def statistic(self, prepared: Arrays) -> SlabParts:  # type: ignore[override]
        """products (k, d), mean (d,), and the rows along the frame's part, along (n, m)."""
        centred, mean = _centred(prepared["x"])
        start = int(prepared["start"])
        along = centred @ self.frame[start : start + len(mean)]
        part = {"products": self.left.T @ centred, "mean": mean, "along": along}
        return SlabParts({start: part})


@dataclass(frozen=True)
class GramSolver:
    """Two passes over `RowSlabs`: the Gram matrix of the rows, then the components.

    n_components : default min(n, D)
    """

    n_components: int | None = None
    left: np.ndarray | None = None
    squares: np.ndarray | None = None
    total: float = 0.0
    n_features: int = 0
    found: PCA | None = None
    passes_per_pipeline: ClassVar[int] = 1

    @property
    def done(self) -> bool:
        """Both passes are through."""
        return self.found is not None

    def request(self) -> PassRequest:
        """The Gram matrix first."""
        if self.left is None:
            return GramRequest()
        return ProductsRequest(left=self.left, frame=random_frame(self.n_features))

    def step(self, total: Accumulator) -> Self:
        """Left singular vectors after the first pass, the result after the second."""
        if isinstance(total, SlabParts):
            return replace(self, found=self._finish(total))
        total = expect(total, Sums)
        gram, n_features = total["gram"], int(total["features"])
        check_finite(gram)
        n_rows = len(gram)
        most = min(n_rows, n_features)
        wanted = most if self.n_components is None else self.n_components
        check_components(wanted, most)
        trace = float(np.trace(gram))
        subset = (n_rows - wanted, n_rows - 1) if 4 * wanted < n_rows else None
        values, vectors = eigh(gram, subset_by_index=subset, check_finite=False)
        left = np.ascontiguousarray(vectors[:, ::-1][:, :wanted])
        squares = np.maximum(values[::-1][:wanted], 0.0)
        return replace(self, left=left, squares=squares, total=trace, n_features=n_features)

    def _finish(self, total: SlabParts) -> PCA:
        if self.left is None or self.squares is None:
            raise UsageError("products arrived before the Gram matrix: run the passes in order")
        components, squares = _unit_rows(total.join("products"), self.squares)
        along = sum(total.of("along"))
        random_squares = np.einsum("ij,ij->j", along, along)
        return assemble(
            total.join("mean"), components, squares, self.total, len(self.left), random_squares
        )

    def result(self) -> PCA:
        """The principal components. Raises UsageError before both passes are through."""
        if self.found is None:
            raise UsageError("the solver has not seen both passes: run it until it is done")
        return self.found


def _unit_rows(products: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(orthonormal components (k, D), squares (k,)) from products (k, D) of length s_k.

    Directions without variance become any orthonormal completion.
    """
    scale = np.sqrt(squares)
    negligible = scale <= _NEGLIGIBLE * scale.max(initial=0.0)
    components = products / np.where(negligible, 1.0, scale)[:, None]
    if negligible.any():
        kept = components[~negligible]
        more = random_frame(products.shape[1], len(components), seed=1)
        q = np.linalg.qr(np.concatenate([kept, more.T])[: products.shape[1] + len(kept)].T)[0].T
        components = np.concatenate([kept, q[len(kept) : len(components)]])
        squares = np.where(negligible, 0.0, squares)
    return components * signs_of(components)[:, None], squares


def slabs_of(source: BlockSource, n_features: int, width: int = 512) -> RowSlabs:
    """Slabs of `width` features of a source that has array x (m, ...)."""
    edges = (*range(0, n_features, width), n_features)
    slabs = tuple(ColumnBlocks(source, *edge) for edge in pairwise(edges))
    return RowSlabs(slabs, edges)
