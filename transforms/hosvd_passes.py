"""What one pass of a tensor decomposition computes from a slab of latent coordinates.

A slab (d, I_1, ..., I_N) holds every cell for some of the coordinates; the tensor as a whole is
never needed in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.blocks import Arrays, BlockSource, flatten_rows, serial_key, sum_blocks
from transforms.cells import CellSums
from transforms.moments import second_moment
from transforms.signs import fix_signs

SLAB_BYTES = 1 << 25


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
    def of(cls, slab: np.ndarray) -> Self:
        """Grams of a slab (d, I_1, I_2, ...) of the centred tensor."""
        slab = np.asarray(slab, np.float64)
        grams = []
        for n in range(1, slab.ndim):
            unfolded = np.moveaxis(slab, n, -1).reshape(-1, slab.shape[n])
            grams.append(second_moment(np.ascontiguousarray(unfolded)))
        return cls(grams, float(np.einsum("i,i->", slab.ravel(), slab.ravel())))

    def add(self, slab: np.ndarray) -> Self:
        """Grams of these latent coordinates and the slab's."""
        return self.merge(type(self).of(slab))

    def merge(self, other: Self) -> Self:
        """Grams over both sets of latent coordinates."""
        grams = [a + b for a, b in zip(self.grams, other.grams, strict=True)]
        return type(self)(grams, self.squares + other.squares)

    def to_arrays(self) -> Arrays:
        """gram0, gram1, ..., squares."""
        return {f"gram{i}": g for i, g in enumerate(self.grams)} | {
            "squares": np.float64(self.squares)
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`."""
        grams = [np.asarray(arrays[f"gram{i}"]) for i in range(len(arrays) - 1)]
        return cls(grams, float(arrays["squares"]))


def multiply_modes(tensor: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """tensor (d, J_1, ...) x_2 A_1 x_3 A_2 ... with A_n (I_n, J_n): (d, I_1, ...)."""
    for n, matrix in enumerate(matrices, start=1):
        tensor = np.moveaxis(np.moveaxis(tensor, n, -1) @ matrix.T, -1, n)
    return np.ascontiguousarray(tensor)


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


def prepare_slab(slab: np.ndarray, standardise: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centred slab, mean (d,), scale (d,)) of a slab (d, I_1, ...) without missing cells."""
    slab = np.array(slab, np.float64)
    flat = flatten_rows(slab)
    mean = flat.mean(axis=1)
    flat -= mean[:, None]
    scale = np.ones(len(slab))
    if standardise:
        sd = flat.std(axis=1)
        scale = np.where(sd > 0, sd, 1.0)
        flat /= scale[:, None]
    return flat.reshape(slab.shape), mean, scale


def slab_ranges(n_features: int, n_cells: int) -> list[slice]:
    """Cut the latent coordinates into slabs of about 32 MB in float64."""
    width = max(1, SLAB_BYTES // max(8 * n_cells, 1))
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
        """Coordinates of the slab; slab (d, I_1, ...) and its index ()."""
        at = self._ranges[block]
        return np.arange(at.start, at.stop), {
            "slab": self.tensor[at],
            "index": np.array(block),
        }


@dataclass(frozen=True)
class SlabCells:
    """Slabs of a tensor of cell means, each read from its own source of rows.

    slabs : sources in the order of the latent coordinates (layers of a store, or `ColumnBlocks`),
        each with arrays x (m, ...) and cells (m,), int64 in C order over `shape`, -1 for none
    shape : levels of each mode
    """

    slabs: tuple[BlockSource, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.slabs:
            raise UsageError("no slabs given: give at least one source")

    @property
    def key(self) -> str:
        """The slabs' keys and the shape."""
        return repr([self.shape, [slab.key for slab in self.slabs]])

    @property
    def n_blocks(self) -> int:
        """Number of slabs."""
        return len(self.slabs)

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """slab (d, I_1, ...) of cell means and its index (); DataError where a cell has no row."""
        source = self.slabs[block]

        def statistic(b: int) -> CellSums:
            arrays = source.read(b)[1]
            return CellSums.of(flatten_rows(arrays["x"]), arrays["cells"])

        sums = sum_blocks(source.n_blocks, statistic)
        n_cells = int(np.prod(self.shape))
        if len(sums.cells) < n_cells:
            raise DataError(
                f"{n_cells - len(sums.cells)!r} of {n_cells!r} cells have no row: drop the levels "
                "that lack cells first, or complete the tensor in memory"
            )
        slab = np.ascontiguousarray(sums.means().T).reshape(-1, *self.shape)
        return np.arange(len(slab)), {"slab": slab, "index": np.array(block)}


@dataclass(frozen=True)
class ModeGramsRequest:
    """Mode Grams of every slab."""

    standardise: bool = False

    @property
    def token(self) -> str:
        """Slabs are kept centred and scaled."""
        return f"hosvd-{self.standardise}"

    def prepare(self, arrays: Arrays) -> Arrays:
        """The centred slab, its mean and scale."""
        slab, mean, scale = prepare_slab(arrays["slab"], self.standardise)
        return {"slab": slab, "mean": mean, "scale": scale, "index": arrays["index"]}

    def statistic(self, prepared: Arrays) -> ModeGrams:
        """`ModeGrams` of the slab."""
        return ModeGrams.of(prepared["slab"])


@dataclass(frozen=True)
class CoreSlabs:
    """Parts of the core, one a slab, by the slab's index."""

    parts: dict[int, Arrays]

    def merge(self, other: Self) -> Self:
        """Parts of both."""
        return type(self)(self.parts | other.parts)

    def to_arrays(self) -> Arrays:
        """'<index>/<name>' -> array."""
        return {f"{i}/{k}": v for i, part in self.parts.items() for k, v in part.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`."""
        parts: dict[int, Arrays] = {}
        for name, array in arrays.items():
            index, _, key = name.partition("/")
            parts.setdefault(int(index), {})[key] = array
        return cls(parts)

    def assemble(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(core (D, J_1, ...), mean (D,), scale (D,)) in the order of the slabs."""
        order = sorted(self.parts)
        core, mean, scale = (
            np.concatenate([self.parts[i][k] for i in order]) for k in ("core", "mean", "scale")
        )
        return core, mean, scale


@dataclass(frozen=True)
class CoreRequest(ModeGramsRequest):
    """The core's part of every slab: T x_2 U_2' x_3 U_3' ..."""

    factors: Sequence[np.ndarray] = ()

    def statistic(self, prepared: Arrays) -> CoreSlabs:  # type: ignore[override]
        """`CoreSlabs` of the slab."""
        core = multiply_modes(prepared["slab"], [u.T for u in self.factors])
        part = {"core": core, "mean": prepared["mean"], "scale": prepared["scale"]}
        return CoreSlabs({int(prepared["index"]): part})
