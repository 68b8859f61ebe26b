"""Tensor models of latent codes by the higher-order singular value decomposition.

A mode's factor U_n holds the eigenvectors of its Gram matrix T_(n) T_(n)', an additive statistic
over slabs of the latent coordinates, so the tensor is never unfolded into singular value
decompositions, and the latent mode is decomposed only when asked for (`transforms.hosvd.model`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import Accumulator, BlockSource
from transforms.accumulate.factor_cells import CellGrid, CellSums
from transforms.accumulate.passes import PassRequest, expect, run_passes
from transforms.hosvd.complete import Completion, FilledSlabs, Repeats, cell_weights
from transforms.hosvd.levels import trajectory_origin
from transforms.hosvd.model import HOSVD, choose_ranks, decompose_latent
from transforms.hosvd.passes import (
    CoreRequest,
    CoreSlabs,
    ModeGrams,
    ModeGramsRequest,
    TensorSlabs,
    coordinates_first,
    cut_factors,
    slab_ranges,
    solve_modes,
)

__all__ = [
    "HOSVD",
    "HOSVDSolver",
    "choose_ranks",
    "complete_tensor",
    "decompose_latent",
    "hosvd",
    "missing_cells",
    "tensor_of_cells",
    "trajectory_origin",
]

KEEP_BYTES = 1 << 30


@dataclass(frozen=True)
class HOSVDSolver:
    """The decomposition as a machine of two passes over slabs (a `PassSolver`).

    Pass 1 sums the mode Grams; pass 2 multiplies every slab by the factors, which gives the core.

    ranks, energy : see `choose_ranks`; default full. The core is only computed at these ranks: of
        full rank it is as large as the tensor
    """

    saved_passes: ClassVar[int] = 2

    standardise: bool = False
    ranks: Sequence[int | None] | None = None
    energy: float | Sequence[float] | None = None
    grams: ModeGrams = field(default_factory=lambda: ModeGrams.zero(()))
    factors: list[np.ndarray] = field(default_factory=list)
    energies: list[np.ndarray] = field(default_factory=list)
    core: CoreSlabs | None = None
    passes_per_pipeline: ClassVar[int] = 2

    @property
    def done(self) -> bool:
        """Both passes are made."""
        return self.core is not None

    def request(self) -> PassRequest:
        """Mode Grams first, then the core."""
        if not self.factors:
            return ModeGramsRequest(self.standardise)
        return CoreRequest(self.standardise, self.factors)

    def step(self, total: Accumulator) -> HOSVDSolver:
        """State after a pass with the summed statistic `total`."""
        if isinstance(total, ModeGrams):
            factors, energies = solve_modes(total)
            ranks = choose_ranks(energies, [len(u) for u in factors], self.ranks, self.energy)
            factors = cut_factors(factors, ranks)
            return replace(self, grams=total, factors=factors, energies=energies)
        return replace(self, core=expect(total, CoreSlabs))

    def model(self) -> HOSVD:
        """The model; UsageError before the passes are done."""
        if self.core is None:
            raise UsageError("the decomposition is not done: drive it with run_passes")
        core, mean, scale = self.core.assemble()
        kept = [np.arange(len(u)) for u in self.factors]
        return HOSVD(mean, self.factors, core, self.energies, self.grams.squares, scale, kept)


def missing_cells(tensor: np.ndarray) -> np.ndarray:
    """Bool (I_1, ...): cells that are NaN; DataError where a cell is NaN only in part."""
    flat = tensor.reshape(len(tensor), -1)
    count = np.zeros(flat.shape[1], np.int64)
    for at in slab_ranges(*flat.shape):
        count += np.isnan(flat[at]).sum(axis=0)
    partly = (count > 0) & (count < len(flat))
    if partly.any():
        raise DataError(
            f"cell {int(np.flatnonzero(partly)[0])!r} is NaN in some coordinates only: mark a "
            "missing cell by NaN throughout"
        )
    return (count > 0).reshape(tensor.shape[1:])


def hosvd(
    tensor: np.ndarray,
    ranks: Sequence[int | None] | None = None,
    *,
    energy: float | Sequence[float] | None = None,
    latent_rank: int | None = None,
    standardise: bool = False,
    missing: str = "error",
    counts: np.ndarray | None = None,
) -> HOSVD:
    """Higher-order singular value decomposition of a tensor of codes.

    tensor : (D, I_1, ..., I_N), latent coordinates first; a missing cell is NaN throughout
    ranks : of the small modes; default full. energy : share of each mode's energy to keep instead
    latent_rank : columns of U_1 to compute; default none
    standardise : also divide coordinates by their standard deviation (Paper I; not Paper II)
    missing : 'error'; 'drop_person' leaves out the levels of the first mode that lack cells;
        'complete' estimates them (`transforms.hosvd.complete`)
    counts : int (I_1, ...), rows that each cell is the mean of; under 'complete', cells weigh by
        it. Default: all cells that are there weigh the same

    Raises DataError for missing cells under 'error' and for infinite values, UsageError for ranks
    out of range.
    """
    tensor = np.asarray(tensor)
    if tensor.ndim < 2 or 0 in tensor.shape:
        raise UsageError(f"tensor has shape {tensor.shape!r}: give (latent, levels, ...)")
    if missing not in ("error", "drop_person", "complete"):
        raise UsageError(f"missing is {missing!r}: give 'error', 'drop_person' or 'complete'")
    absent = missing_cells(tensor)
    first = np.arange(tensor.shape[1])
    source: BlockSource = TensorSlabs(tensor)
    if absent.any() and missing == "error":
        raise DataError(
            f"{int(absent.sum())!r} of {absent.size!r} cells are missing: give "
            "missing='drop_person' or missing='complete'"
        )
    if absent.any() and missing == "drop_person":
        first = np.flatnonzero(~absent.reshape(len(absent), -1).any(axis=1))
        if len(first) < 2:
            raise DataError(
                f"{len(first)!r} levels of the first mode have every cell: give "
                "missing='complete', or declare fewer levels"
            )
        tensor = tensor[:, first]
        source = TensorSlabs(tensor)
    if missing == "complete" and (absent.any() or counts is not None):
        given = ~absent if counts is None else np.where(absent, 0, np.asarray(counts))
        weights = cell_weights(given, "mean" if counts is None else "weighted")
        solver = Completion(weights, ranks, energy, standardise)
        source = FilledSlabs(source, _run(solver, source, tensor.size).fill)
    asked = (ranks, energy) if latent_rank is None else (None, None)
    model = _run(HOSVDSolver(standardise, *asked), source, tensor.size).model()
    model = replace(model, kept=[first, *model.kept[1:]])
    if latent_rank is not None:
        model = decompose_latent(model, latent_rank).truncate(ranks, energy)
    return model


def _run(solver: Any, source: BlockSource, size: int) -> Any:
    return run_passes(solver, source, keep=8 * size <= KEEP_BYTES)


def complete_tensor(
    tensor: np.ndarray,
    absent: np.ndarray,
    ranks: Sequence[int | None] | None = None,
    energy: float | Sequence[float] | None = None,
    *,
    counts: np.ndarray | None = None,
    repeats: Repeats = "mean",
) -> np.ndarray:
    """The tensor (D, I_1, ...) in float64 with missing cells (bool (I_1, ...)) estimated.

    counts : rows of each cell, with repeats='weighted' only; see `transforms.hosvd.complete`
    """
    given = ~absent if counts is None else np.where(absent, 0, counts)
    source = TensorSlabs(np.where(absent, np.nan, tensor))
    solver = Completion(cell_weights(given, repeats), ranks, energy)
    filled = FilledSlabs(source, _run(solver, source, tensor.size).fill)
    slabs = [coordinates_first(filled.read(b)[1]["slab"]) for b in range(filled.n_blocks)]
    return np.concatenate(slabs)


def tensor_of_cells(sums: CellSums, grid: CellGrid) -> tuple[np.ndarray, np.ndarray]:
    """(tensor (D, I_1, ...) of cell means with NaN where a cell has no row, counts (I_1, ...))."""
    means, counts = sums.dense(grid.n_cells)
    return np.ascontiguousarray(means.T).reshape(-1, *grid.shape), counts.reshape(grid.shape)
