"""What one pass of a tensor decomposition computes from a slab of latent coordinates.

A slab (I_1, ..., I_N, d) holds every cell for some of the coordinates, the coordinates last, as
rows lie in a store: then every mode's Gram matrix and every mode product is a matrix product of
the slab as it lies in memory. The tensor as a whole is never needed in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from schemas.errors import DataError, UsageError
from schemas.fingerprint import digest
from transforms.accumulate.blocks import (
    TRANSFORMS,
    Arrays,
    BlockSource,
    Parts,
    flatten_rows,
    serial_key,
    statistic_kind,
)
from transforms.accumulate.factor_cells import CellSums
from transforms.accumulate.sources import ColumnBlocks
from transforms.signs import fix_signs

SLAB_BYTES = 1 << 25
STORE_SLAB_BYTES = 3 << 26
BATCH_ROWS = 1024


@statistic_kind("ModeGrams")
@dataclass(frozen=True)
class ModeGrams:
    """Gram matrices (I_n, I_n) of every small mode's unfolding, and the sum of squares."""

    grams: list[np.ndarray]
    squares: float

    @classmethod
    def zero(cls, shape: Sequence[int]) -> Self:
        """Grams of no latent coordinate at all; shape (I_1, I_2, ...)."""
        return cls([np.zeros((n, n)) for n in shape], 0.0)

    @classmethod
    def of(cls, tensor: np.ndarray) -> Self:
        """Grams of coordinates (d, I_1, I_2, ...) of the centred tensor."""
        return cls.of_slab(np.ascontiguousarray(np.moveaxis(tensor, 0, -1), np.float64))

    @classmethod
    def of_slab(cls, slab: np.ndarray) -> Self:
        """Grams of a slab (I_1, ..., I_N, d) of the centred tensor, float64 and contiguous."""
        grams = []
        for n in range(slab.ndim - 1):
            parts = slab.reshape(int(np.prod(slab.shape[:n])), slab.shape[n], -1)
            if len(parts) == 1:  # a product with its own transpose takes half the time
                grams.append(parts[0] @ parts[0].T)
            else:
                grams.append(np.matmul(parts, parts.transpose(0, 2, 1)).sum(axis=0))
        return cls(grams, float(np.vdot(slab, slab)))

    def add(self, tensor: np.ndarray) -> Self:
        """Grams of these latent coordinates and the given ones (d, I_1, ...)."""
        return self.merge(type(self).of(tensor))

    def merge(self, other: Self) -> Self:
        """Grams over both sets of latent coordinates."""
        grams = [a + b for a, b in zip(self.grams, other.grams, strict=True)]
        return type(self)(grams, self.squares + other.squares)

    def to_arrays(self) -> Arrays:
        """gram0, gram1, ..., squares."""
        grams = {f"gram{i}": g for i, g in enumerate(self.grams)}
        return grams | {"squares": np.array(self.squares)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`; arrays of other names are left alone."""
        n = sum(name.startswith("gram") for name in arrays)
        return cls([np.asarray(arrays[f"gram{i}"]) for i in range(n)], float(arrays["squares"]))


def multiply_modes(tensor: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """tensor (d, J_1, ...) x_2 A_1 x_3 A_2 ... with A_n (I_n, J_n): (d, I_1, ...)."""
    for n, matrix in enumerate(matrices, start=1):
        tensor = np.moveaxis(np.moveaxis(tensor, n, -1) @ matrix.T, -1, n)
    return np.ascontiguousarray(tensor)


def multiply_slab(slab: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """The same for a slab with its coordinates last: (J_1, ..., d) to (I_1, ..., d)."""
    for n, matrix in enumerate(matrices):
        before, after = slab.shape[:n], slab.shape[n + 1 :]
        parts = slab.reshape(int(np.prod(before)), slab.shape[n], -1)
        slab = np.matmul(matrix, parts).reshape(*before, len(matrix), *after)
    return slab


def coordinates_first(slab: np.ndarray) -> np.ndarray:
    """(I_1, ..., d) as a new contiguous array (d, I_1, ...); in tiles, four times faster."""
    rows = slab.reshape(-1, slab.shape[-1])
    turned = np.empty(rows.shape[::-1], slab.dtype)
    for i in range(0, len(rows), 256):
        turned[:, i : i + 256] = rows[i : i + 256].T
    return turned.reshape(slab.shape[-1], *slab.shape[:-1])


def solve_modes(grams: ModeGrams) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(full factors (I_n, I_n), energies (I_n,)) from the mode Grams."""
    factors, energies = [], []
    for gram in grams.grams:
        if not np.isfinite(gram).all():
            raise DataError("the tensor holds NaN or infinite values: leave these cells out")
        values, vectors = np.linalg.eigh(gram)
        factors.append(np.ascontiguousarray(fix_signs(vectors[:, ::-1].T).T))
        energies.append(np.maximum(values[::-1], 0.0))
    return factors, energies


def cut_factors(factors: Sequence[np.ndarray], ranks: Sequence[int]) -> list[np.ndarray]:
    """The factors' first columns, contiguous."""
    return [np.ascontiguousarray(u[:, :j]) for u, j in zip(factors, ranks, strict=True)]


def prepare_slab(slab: np.ndarray, standardise: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centred slab, mean (d,), scale (d,)) of a slab without missing cells, in place."""
    rows = slab.reshape(-1, slab.shape[-1])
    mean = rows.mean(axis=0)
    rows -= mean
    rest = rows.mean(axis=0)  # what the rounding of the mean left behind
    rows -= rest
    scale = np.ones(len(mean))
    if standardise:
        sd = np.sqrt(np.einsum("ij,ij->j", rows, rows) / len(rows))
        scale = np.where(sd > 0, sd, 1.0)
        rows /= scale
    return slab, mean + rest, scale


def slab_ranges(n_features: int, n_cells: int, limit: int | None = None) -> list[slice]:
    """Cut the latent coordinates into slabs of at most `limit` bytes in float64 (32 MB)."""
    width = max(1, (limit or SLAB_BYTES) // max(8 * n_cells, 1))
    return [slice(i, min(i + width, n_features)) for i in range(0, n_features, width)]


@dataclass(frozen=True)
class TensorSlabs:
    """Slabs of a tensor (D, I_1, ...) in memory, as a block source."""

    tensor: np.ndarray
    key: str = field(default_factory=serial_key)

    @property
    def _ranges(self) -> list[slice]:
        return slab_ranges(len(self.tensor), int(np.prod(self.tensor.shape[1:])))

    @property
    def n_blocks(self) -> int:
        """Number of slabs."""
        return len(self._ranges)

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Coordinates of the slab; slab (I_1, ..., d), a new array, and its index ()."""
        at = self._ranges[block]
        slab = np.array(np.moveaxis(self.tensor[at], 0, -1), np.float64, order="C")
        return np.arange(at.start, at.stop), {"slab": slab, "index": np.array(block)}


@dataclass(frozen=True)
class SlabCells:
    """Slabs of a tensor of cell means, each read from its own source of rows.

    slabs : sources in the order of the latent coordinates (layers of a store, or `ColumnBlocks`),
        each with arrays x (m, ...) and cells (m,), int64 in C order over `shape`, -1 for none
    shape : levels of each mode
    partial : cells without rows are NaN; else they raise DataError
    """

    slabs: tuple[BlockSource, ...]
    shape: tuple[int, ...]
    partial: bool = False

    def __post_init__(self) -> None:
        if not self.slabs:
            raise UsageError("no slabs given: give at least one source")

    @property
    def key(self) -> str:
        """The slabs' keys and the shape."""
        return repr([self.shape, self.partial, [slab.key for slab in self.slabs]])

    def part_key(self, blocks: range) -> str:
        """Of these slabs, over all their rows."""
        slabs = [self.slabs[block] for block in blocks]
        keys = [slab.part_key(range(slab.n_blocks)) for slab in slabs]  # type: ignore[attr-defined]
        return digest(["cells", list(self.shape), self.partial, keys])

    @property
    def n_blocks(self) -> int:
        """Number of slabs."""
        return len(self.slabs)

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """slab (I_1, ..., d) of cell means, a new array, and its index ().

        Rows are added in the order of the source's blocks, whatever their number.
        """
        source, n_cells = self.slabs[block], int(np.prod(self.shape))
        counts = np.zeros(n_cells, np.int64)
        slab = np.zeros((0, 0))
        for b in range(source.n_blocks):
            arrays = source.read(b)[1]
            x, cells = flatten_rows(arrays["x"]), arrays["cells"]
            if not slab.size:
                slab = np.zeros((n_cells, x.shape[1]))
            for i in range(0, len(x), BATCH_ROWS):
                part = CellSums.of(x[i : i + BATCH_ROWS], cells[i : i + BATCH_ROWS])
                slab[part.cells] += part.sums
                counts[part.cells] += part.counts
        missing = int((counts == 0).sum())
        if missing and not self.partial:
            raise DataError(
                f"{missing!r} of {n_cells!r} cells have no row: drop the levels that lack cells "
                "first, or complete the tensor"
            )
        slab[counts == 0] = np.nan
        slab /= np.maximum(counts, 1)[:, None]
        if not np.isfinite(slab.sum(axis=1)[counts > 0]).all():
            raise DataError("the rows hold NaN or infinite values: leave these rows out")
        slab = slab.reshape(*self.shape, -1)
        return np.arange(slab.shape[-1]), {"slab": slab, "index": np.array(block)}


def split_slabs(
    sources: Sequence[BlockSource], n_features: int, n_cells: int
) -> tuple[BlockSource, ...]:
    """Sources of `n_features` coordinates each, cut where a slab would pass 192 MB."""
    ranges = slab_ranges(n_features, n_cells, STORE_SLAB_BYTES)
    if len(ranges) == 1:
        return tuple(sources)
    return tuple(ColumnBlocks(s, at.start, at.stop) for s in sources for at in ranges)


@dataclass(frozen=True)
class ModeGramsRequest:
    """Mode Grams of every slab."""

    kind = f"{TRANSFORMS}.hosvd_passes.ModeGramsRequest"

    standardise: bool = False

    @property
    def token(self) -> str:
        """Slabs are kept centred and scaled."""
        return f"hosvd-{self.standardise}"

    def prepare(self, arrays: Arrays) -> Arrays:
        """The centred slab (the array that was read), its mean and scale."""
        slab, mean, scale = prepare_slab(arrays["slab"], self.standardise)
        return {"slab": slab, "mean": mean, "scale": scale, "index": arrays["index"]}

    def statistic(self, prepared: Arrays) -> ModeGrams:
        """`ModeGrams` of the slab."""
        return ModeGrams.of_slab(prepared["slab"])


@statistic_kind("CoreSlabs")
class CoreSlabs(Parts):
    """What each slab gives, by the slab's index: parts of the core, or a slab's own Grams."""

    def assemble(
        self, indices: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(core (D, J_1, ...), mean (D,), scale (D,)) in the order of the slabs (default all)."""
        order = sorted(self.parts) if indices is None else indices
        core, mean, scale = (
            np.concatenate([self.parts[i][k] for i in order]) for k in ("core", "mean", "scale")
        )
        return core, mean, scale


@dataclass(frozen=True)
class CoreRequest(ModeGramsRequest):
    """The core's part of every slab: T x_2 U_2' x_3 U_3' ...

    factors : the modes' factors; of a stacked model, those of every slab by its index
    """

    kind = f"{TRANSFORMS}.hosvd_passes.CoreRequest"

    factors: Sequence[np.ndarray] | Mapping[int, Sequence[np.ndarray]] = ()

    def statistic(self, prepared: Arrays) -> CoreSlabs:  # type: ignore[override]
        """`CoreSlabs` of the slab."""
        index = int(prepared["index"])
        own = self.factors[index] if isinstance(self.factors, Mapping) else self.factors
        core = multiply_slab(prepared["slab"], [np.ascontiguousarray(u.T) for u in own])
        part = {
            "core": coordinates_first(core),
            "mean": prepared["mean"],
            "scale": prepared["scale"],
        }
        return CoreSlabs({index: part})


@dataclass(frozen=True)
class SlabGramsRequest(ModeGramsRequest):
    """Mode Grams of every slab, kept apart: what a stacked model sums style by style."""

    kind = f"{TRANSFORMS}.hosvd_passes.SlabGramsRequest"

    def statistic(self, prepared: Arrays) -> CoreSlabs:  # type: ignore[override]
        """`CoreSlabs` of the slab's Gram matrices."""
        grams = ModeGrams.of_slab(prepared["slab"])
        return CoreSlabs({int(prepared["index"]): grams.to_arrays()})
