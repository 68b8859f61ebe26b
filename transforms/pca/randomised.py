"""Leading principal components of many long rows, by block Krylov iteration from a random start.

A pass multiplies the centred second moment S with a block of directions, S V = sum over row blocks
of X'(X V), so that S itself, (D, D), is never needed. The directions of all passes span the search
space in which the components are found (Rayleigh-Ritz; Musco and Musco 2015; with thick restarts,
Wu and Simon 2000). Residuals are known without a further pass, and the iteration goes on until
they meet the tolerance: the result is as exact as that of a direct solver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from schemas.errors import UsageError
from transforms.accumulate.blocks import (
    TRANSFORMS,
    Accumulator,
    Arrays,
    flatten_rows,
    statistic_kind,
)
from transforms.accumulate.moments import centred_batches
from transforms.accumulate.passes import PassRequest, expect
from transforms.pca.result import (
    PCA,
    RANDOM_DIRECTIONS,
    assemble,
    check_components,
    check_finite,
    check_rows,
    random_frame,
)
from transforms.signs import fix_signs

TOLERANCE = 1e-10
MAX_PASSES = 60
_BASIS_BLOCKS = 8
"""Blocks of directions that the search space holds before it restarts."""


@statistic_kind("MomentProducts")
@dataclass(frozen=True)
class MomentProducts:
    """Centred second moment times a block of directions V (D, b), merged by Chan's update.

    count : rows;  mean : float64 (D,);  along : float64 (b,), mean'V
    products : float64 (D, b), S V;  total : trace of S
    """

    count: int
    mean: np.ndarray
    along: np.ndarray
    products: np.ndarray
    total: float

    @classmethod
    def of(cls, x: np.ndarray, directions: np.ndarray) -> Self:
        """Statistic of rows x (m, D), any float type."""
        n_features, n_directions = directions.shape
        products = np.zeros((n_features, n_directions))
        if len(x) == 0:
            return cls(0, np.zeros(n_features), np.zeros(n_directions), products, 0.0)
        shift = x.mean(axis=0, dtype=np.float64)
        rest, total = np.zeros(n_features), 0.0
        for _, part in centred_batches(x, shift):
            rest += part.sum(axis=0)
            total += float(np.einsum("ij,ij->", part, part))
            products += part.T @ (part @ directions)
        rest /= len(x)  # what the rounding of the mean leaves behind
        mean = shift + rest
        products -= len(x) * np.outer(rest, rest @ directions)
        total -= len(x) * float(rest @ rest)
        return cls(len(x), mean, mean @ directions, products, max(total, 0.0))

    def merge(self, other: Self) -> Self:
        """Statistic of both sets of rows."""
        if other.count == 0:
            return self
        if self.count == 0:
            return other
        count = self.count + other.count
        delta, along = other.mean - self.mean, other.along - self.along
        weight = self.count * (other.count / count)
        share = other.count / count
        products = np.outer(weight * delta, along)
        products += self.products
        products += other.products
        total = self.total + other.total + weight * float(delta @ delta)
        return type(self)(
            count, self.mean + share * delta, self.along + share * along, products, total
        )

    def to_arrays(self) -> Arrays:
        """count (), mean (D,), along (b,), products (D, b), total ()."""
        return {
            "count": np.array(self.count, np.int64),
            "mean": self.mean,
            "along": self.along,
            "products": self.products,
            "total": np.array(self.total),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`."""
        values = {name: np.asarray(arrays[name]) for name in ("mean", "along", "products")}
        return cls(count=int(arrays["count"]), total=float(arrays["total"]), **values)


@dataclass(frozen=True)
class ProductsOfMoments:
    """The centred second moment of array x (m, ...) times directions (D, b)."""

    kind = f"{TRANSFORMS}.pca_randomised.ProductsOfMoments"

    directions: np.ndarray
    token: str = "x"

    def prepare(self, arrays: Arrays) -> Arrays:
        """x as (m, D)."""
        return {"x": flatten_rows(arrays["x"])}

    def statistic(self, prepared: Arrays) -> MomentProducts:
        """`MomentProducts` of the block."""
        return MomentProducts.of(prepared["x"], self.directions)


@dataclass(frozen=True)
class RandomisedSolver:
    """Block Krylov iteration with thick restarts, one pass over row blocks a step.

    n_features : D, values in a row;  n_components : k, at most min(n, D)
    oversample : further directions in the block; default max(16, k / 4)
    tol : residual |S v - s v| of every component, relative to its own square s, at which it counts
        as converged; the angle to the exact component is about the residual over the spectral gap
    max_passes : passes before giving up; the result then says `converged` False
    """

    n_features: int
    n_components: int
    oversample: int | None = None
    tol: float = TOLERANCE
    max_passes: int = MAX_PASSES
    seed: int = 0
    basis: np.ndarray | None = None
    images: np.ndarray | None = None
    block: np.ndarray | None = None
    squares: np.ndarray | None = None
    vectors: np.ndarray | None = None
    residual: float = np.inf
    n_passes: int = 0
    first: MomentProducts | None = None
    random_squares: np.ndarray | None = None
    passes_per_pipeline: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_components(self.n_components, self.n_features)
        if not 0 < self.tol < 1 or self.max_passes < 1:
            raise UsageError(
                f"tol {self.tol!r} must lie between 0 and 1 and max_passes {self.max_passes!r} be "
                "at least 1"
            )
        if self.block is None:
            frame = random_frame(self.n_features, self._width, self.seed)
            object.__setattr__(self, "block", frame)

    @property
    def _width(self) -> int:
        more = self.oversample
        if more is None:
            more = max(RANDOM_DIRECTIONS, self.n_components // 4)
        return min(max(self.n_components + more, RANDOM_DIRECTIONS), self.n_features)

    @property
    def converged(self) -> bool:
        """All components meet the tolerance."""
        return self.residual <= self.tol

    @property
    def done(self) -> bool:
        """Converged, out of passes, or nothing left to search."""
        exhausted = self.block is None or self.block.shape[1] == 0
        return self.n_passes > 0 and (
            self.converged or exhausted or self.n_passes >= self.max_passes
        )

    def request(self) -> PassRequest:
        """The moment's products with the next directions."""
        if self.block is None:
            raise UsageError("the solver is done: ask for its result")
        return ProductsOfMoments(self.block)

    def step(self, total: Accumulator) -> Self:
        """State after a pass: a larger search space, the best vectors in it, the next block."""
        total = expect(total, MomentProducts)
        check_rows(total.count)
        check_finite(total.mean, total.products)
        block = self.block
        if block is None or total.products.shape != block.shape:
            raise UsageError("the statistic is not that of the last request: run passes in order")
        check_components(self.n_components, min(total.count, self.n_features))
        changes = {}
        if self.first is None:
            n_random = min(RANDOM_DIRECTIONS, block.shape[1])
            squares = np.einsum("ij,ij->j", block, total.products)[:n_random]
            changes = {
                "first": replace(total, products=np.zeros((0, 0))),
                "random_squares": squares,
            }
        basis = block if self.basis is None else np.hstack([self.basis, block])
        images = total.products if self.images is None else np.hstack([self.images, total.products])
        ritz = basis.T @ images
        values, rotation = np.linalg.eigh((ritz + ritz.T) / 2)
        order = np.argsort(-values, kind="stable")
        leading = order[: self._width]
        vectors, moved = basis @ rotation[:, leading], images @ rotation[:, leading]
        residuals = moved - vectors * values[leading]
        norms = np.linalg.norm(residuals, axis=0)
        k = self.n_components
        floor = np.finfo(float).eps * self.n_features * max(float(values.max()), 0.0)
        relative = norms[:k] / np.maximum(values[leading[:k]], floor or 1.0)
        relative = np.where(norms[:k] <= floor, 0.0, relative)
        if basis.shape[1] >= _BASIS_BLOCKS * self._width:
            basis, images = vectors, moved
        wanted = norms > floor
        return replace(
            self,
            basis=basis,
            images=images,
            block=_next_block(residuals[:, wanted] / norms[wanted], basis),
            squares=values[leading[:k]],
            vectors=vectors[:, :k],
            residual=float(relative.max()),
            n_passes=self.n_passes + 1,
            **changes,
        )

    def result(self) -> PCA:
        """The principal components so far. Raises UsageError before the first pass."""
        if self.first is None or self.vectors is None or self.squares is None:
            raise UsageError("the solver has seen no rows: run at least one pass")
        exhausted = self.block is None or self.block.shape[1] == 0
        found = assemble(
            self.first.mean,
            fix_signs(self.vectors.T),
            self.squares,
            self.first.total,
            self.first.count,
            self.random_squares,
        )
        return replace(found, converged=self.converged or exhausted)


def _next_block(candidates: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Orthonormal directions (D, <= b) of the candidates' part outside the basis."""
    room = min(candidates.shape[1], len(basis) - basis.shape[1])
    for _ in range(2):  # twice is enough (Parlett)
        candidates = candidates - basis @ (basis.T @ candidates)
    q, r = np.linalg.qr(candidates)
    sound = np.abs(np.diagonal(r)) > 1e-10
    q = q[:, sound][:, : max(room, 0)]
    q = q - basis @ (basis.T @ q)
    return np.linalg.qr(q)[0] if q.shape[1] else q
