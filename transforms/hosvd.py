"""Tensor models of latent codes by the higher-order singular value decomposition.

T - mean = C x_2 U_2 x_3 U_3 ... (Haas, thesis eq. 3.13; Paper II, eq. 1) with the latent mode kept
whole: C = S x_1 U_1. A mode's factor U_n holds the eigenvectors of its Gram matrix T_(n) T_(n)', an
additive statistic over slabs of the latent coordinates, so the tensor is never unfolded into
singular value decompositions, and the latent mode is decomposed only when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.blocks import Accumulator
from transforms.cells import CellGrid, CellSums
from transforms.hosvd_passes import (
    CoreRequest,
    CoreSlabs,
    ModeGrams,
    ModeGramsRequest,
    TensorSlabs,
    multiply_modes,
    slab_ranges,
    solve_modes,
)
from transforms.passes import PassRequest, run_passes
from transforms.signs import fix_signs


@dataclass(frozen=True)
class HOSVD:
    """A tensor model of codes with N factors of variation.

    mean : float64 (D,), mean code over the cells
    factors : list of float64 (I_n, J_n), orthonormal columns
    core : float64 (D, J_1, ..., J_N), C = S x_1 U_1
    energies : list of float64 (I_n,), squared singular values of each unfolding, descending
    squares : sum of squares of the centred tensor
    scale : float64 (D,), what the coordinates were divided by; ones unless standardised
    kept : list of int64 (I_n,), the levels of the given tensor that the model holds
    latent_factor : float64 (D, J_0) orthonormal columns, U_1, or None when not asked for
    """

    mean: np.ndarray
    factors: list[np.ndarray]
    core: np.ndarray
    energies: list[np.ndarray]
    squares: float
    scale: np.ndarray
    kept: list[np.ndarray]
    latent_factor: np.ndarray | None = None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Columns kept of each factor."""
        return tuple(u.shape[1] for u in self.factors)

    @property
    def shape(self) -> tuple[int, ...]:
        """Levels of each mode."""
        return tuple(len(u) for u in self.factors)

    @property
    def relative_error(self) -> float:
        """Norm of what the model leaves out, over the norm of the centred tensor."""
        if self.squares == 0:
            return 0.0
        kept = float(np.einsum("i,i->", self.core.ravel(), self.core.ravel()))
        return float(np.sqrt(max(self.squares - kept, 0.0) / self.squares))

    @property
    def tail_bound(self) -> float:
        """Bound on `relative_error` by the discarded energies (thesis eq. 3.9)."""
        tails = (e[j:].sum() for e, j in zip(self.energies, self.ranks, strict=True))
        return float(np.sqrt(sum(tails) / self.squares)) if self.squares else 0.0

    def truncate(
        self, ranks: Sequence[int] | None = None, energy: float | Sequence[float] | None = None
    ) -> HOSVD:
        """The model of lower ranks; no pass over data (thesis eq. 3.8)."""
        ranks = choose_ranks(self.energies, self.ranks, ranks, energy)
        core = self.core[(slice(None), *(slice(j) for j in ranks))]
        factors = [u[:, :j] for u, j in zip(self.factors, ranks, strict=True)]
        return replace(self, core=np.ascontiguousarray(core), factors=factors)

    def contract(self, parameters: Sequence[np.ndarray]) -> np.ndarray:
        """C x_2 q_2' x_3 q_3' ... in code units, without the mean: (D,). q_n is (J_n,)."""
        code = self.core
        for q in reversed(list(parameters)):
            code = code @ q
        return code * self.scale

    def code(self, parameters: Sequence[np.ndarray]) -> np.ndarray:
        """Code (D,) with the given parameters, one vector (J_n,) a mode (Paper II, eq. 3)."""
        return self.mean + self.contract(parameters)

    def mean_parameters(self) -> list[np.ndarray]:
        """Average parameters of every mode, the rows' mean (J_n,)."""
        return [u.mean(axis=0) for u in self.factors]

    def _at(self, levels: Mapping[int, int]) -> list[np.ndarray]:
        parameters = self.mean_parameters()
        for mode, level in levels.items():
            if not 0 <= mode < len(self.factors):
                raise UsageError(f"mode {mode!r} is not one of 0..{len(self.factors) - 1!r}")
            if not 0 <= level < len(self.factors[mode]):
                raise UsageError(
                    f"level {level!r} of mode {mode!r} is not one of "
                    f"0..{len(self.factors[mode]) - 1!r}: give the position of a level"
                )
            parameters[mode] = self.factors[mode][level]
        return parameters

    def direction(
        self, levels: Mapping[int, int], reference: Mapping[int, int] | None = None
    ) -> np.ndarray:
        """Change of the code from reference levels to the given ones, (D,).

        levels : mode -> level; the other modes stand at their average (Paper II, eq. 13-18)
        reference : the same; default the average of the mode's other levels (for one mode), or of
            all levels (for several)

        At full rank this is exactly the difference of the two groups' means over the cells.
        """
        if not levels:
            raise UsageError("no levels given: name at least one mode's level")
        start = self._at(reference) if reference is not None else self.mean_parameters()
        change = self.contract(self._at(levels)) - self.contract(start)
        if reference is None and len(levels) == 1:
            n = len(self.factors[next(iter(levels))])
            change *= n / max(n - 1, 1)
        return change

    def level_directions(self, mode: int, reference: int | None = None) -> np.ndarray:
        """`direction` for every level of a mode, (I_n, D); zeros at the reference itself."""
        other = None if reference is None else {mode: reference}
        return np.stack([self.direction({mode: i}, other) for i in range(len(self.factors[mode]))])

    def subspace_coordinates(self, mode: int, n_dimensions: int = 2) -> np.ndarray:
        """Coordinates of a mode's levels in its own subspace, (I_n, n): U_n times singular values.

        The expression subspace of thesis figure 3.5.
        """
        n = min(n_dimensions, self.factors[mode].shape[1])
        return self.factors[mode][:, :n] * np.sqrt(self.energies[mode][:n])

    def reconstruct(self) -> np.ndarray:
        """The model's tensor (D, I_1, ..., I_N), mean included."""
        tensor = multiply_modes(self.core, self.factors)
        extra = (1,) * len(self.factors)
        return tensor * self.scale.reshape(-1, *extra) + self.mean.reshape(-1, *extra)


def choose_ranks(
    energies: Sequence[np.ndarray],
    most: Sequence[int],
    ranks: Sequence[int] | None = None,
    energy: float | Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Ranks of the small modes, by number or by the share of energy to keep.

    energy : one share for all modes or one a mode, in (0, 1]; the smallest rank that keeps it
    Raises UsageError when both are given, or a value is out of range.
    """
    if ranks is not None and energy is not None:
        raise UsageError(f"ranks {ranks!r} and energy {energy!r} are both given: keep one")
    if ranks is not None:
        ranks = tuple(int(r) for r in ranks)
        if len(ranks) != len(most) or any(
            not 1 <= r <= m for r, m in zip(ranks, most, strict=True)
        ):
            raise UsageError(
                f"ranks {ranks!r} do not fit modes of {tuple(most)!r}: give one for each small "
                "mode, at least 1 and at most its size"
            )
        return ranks
    if energy is None:
        return tuple(most)
    shares = [energy] * len(most) if np.isscalar(energy) else list(energy)  # type: ignore[arg-type]
    if len(shares) != len(most) or any(not 0 < s <= 1 for s in shares):
        raise UsageError(f"energy is {energy!r}: give a share in (0, 1], or one for each mode")
    chosen = []
    for values, share, top in zip(energies, shares, most, strict=True):
        total = values.sum()
        if share == 1 or total == 0:
            chosen.append(top)
            continue
        kept = np.cumsum(values) / total
        chosen.append(min(int(np.searchsorted(kept, share - 1e-12) + 1), top))
    return tuple(chosen)


def decompose_latent(model: HOSVD, latent_rank: int) -> HOSVD:
    """Add U_1 (D, latent_rank): left singular vectors of the core's latent unfolding.

    They equal the tensor's own when the small modes have full rank (Paper II, section 2.1: the
    principal components).
    """
    unfolded = model.core.reshape(len(model.core), -1)
    most = min(unfolded.shape)
    if not 1 <= latent_rank <= most:
        raise UsageError(f"latent_rank is {latent_rank!r} but must lie in 1..{most!r}")
    u = np.linalg.svd(unfolded, full_matrices=False)[0][:, :latent_rank]
    return replace(model, latent_factor=np.ascontiguousarray(fix_signs(u.T).T))


@dataclass(frozen=True)
class HOSVDSolver:
    """The decomposition as a machine of two passes over slabs (a `PassSolver`).

    Pass 1 sums the mode Grams; pass 2 multiplies every slab by the factors, which gives the core.
    """

    standardise: bool = False
    grams: ModeGrams | None = None
    factors: list[np.ndarray] = field(default_factory=list)
    energies: list[np.ndarray] = field(default_factory=list)
    core: CoreSlabs | None = None

    @property
    def done(self) -> bool:
        """Both passes are made."""
        return self.core is not None

    def request(self) -> PassRequest:
        """Mode Grams first, then the core."""
        if self.grams is None:
            return ModeGramsRequest(self.standardise)
        return CoreRequest(self.standardise, self.factors)

    def step(self, total: Accumulator) -> HOSVDSolver:
        """State after a pass with the summed statistic `total`."""
        if isinstance(total, ModeGrams):
            factors, energies = solve_modes(total)
            return replace(self, grams=total, factors=factors, energies=energies)
        if not isinstance(total, CoreSlabs):
            raise UsageError(f"a pass returned {type(total).__name__!r}: give it this request")
        return replace(self, core=total)

    def model(self) -> HOSVD:
        """The full-rank model; UsageError before the passes are done."""
        if self.core is None or self.grams is None:
            raise UsageError("the decomposition is not done: drive it with run_passes")
        core, mean, scale = self.core.assemble()
        kept = [np.arange(len(u)) for u in self.factors]
        return HOSVD(mean, self.factors, core, self.energies, self.grams.squares, scale, kept)


def solve_tensor(tensor: np.ndarray, standardise: bool = False) -> HOSVD:
    """Full-rank model of a complete tensor (D, I_1, ...)."""
    return run_passes(HOSVDSolver(standardise), TensorSlabs(tensor), keep=False).model()


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
    ranks: Sequence[int] | None = None,
    *,
    energy: float | Sequence[float] | None = None,
    latent_rank: int | None = None,
    standardise: bool = False,
    missing: str = "error",
) -> HOSVD:
    """Higher-order singular value decomposition of a tensor of codes.

    tensor : (D, I_1, ..., I_N), latent coordinates first; a missing cell is NaN throughout
    ranks : of the small modes; default full. energy : share of each mode's energy to keep instead
    latent_rank : columns of U_1 to compute; default none
    standardise : also divide coordinates by their standard deviation (Paper I; not Paper II)
    missing : 'error'; 'drop_person' leaves out the levels of the first mode that lack cells;
        'complete' fills them in by expectation maximisation with the given ranks

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
    if absent.any():
        if missing == "error":
            raise DataError(
                f"{int(absent.sum())!r} of {absent.size!r} cells are missing: give "
                "missing='drop_person' or missing='complete'"
            )
        if missing == "drop_person":
            first = np.flatnonzero(~absent.reshape(len(absent), -1).any(axis=1))
            if len(first) < 2:
                raise DataError(
                    f"{len(first)!r} levels of the first mode have every cell: give "
                    "missing='complete', or declare fewer levels"
                )
            tensor = tensor[:, first]
        else:
            tensor = complete_tensor(tensor, absent, ranks, energy)
    model = solve_tensor(tensor, standardise)
    model = replace(model, kept=[first, *model.kept[1:]])
    if latent_rank is not None:
        model = decompose_latent(model, latent_rank)
    return model.truncate(ranks, energy)


def complete_tensor(
    tensor: np.ndarray,
    absent: np.ndarray,
    ranks: Sequence[int] | None = None,
    energy: float | Sequence[float] | None = None,
    *,
    tol: float = 1e-5,
    max_rounds: int = 200,
) -> np.ndarray:
    """Fill missing cells (bool (I_1, ...)) with the model's own values, until they settle.

    Starts from the sum of the modes' main effects; each round replaces the missing cells by the
    truncated model of the round before (expectation maximisation for a low-rank tensor). Without
    ranks, 95 % of each mode's energy is kept; a full-rank model would leave the start as it is.
    """
    present = ~absent
    for n in range(absent.ndim):
        empty = ~present.any(axis=tuple(i for i in range(absent.ndim) if i != n))
        if empty.any():
            raise DataError(
                f"levels {np.flatnonzero(empty).tolist()!r} of mode {n!r} have no cell at all: "
                "leave them out"
            )
    filled = np.array(tensor, np.float64)
    filled[:, absent] = 0.0
    mean = filled.sum(axis=tuple(range(1, filled.ndim))) / present.sum()
    start = np.broadcast_to(mean.reshape(-1, *(1,) * absent.ndim), filled.shape).copy()
    for n in range(absent.ndim):
        others = tuple(i for i in range(absent.ndim) if i != n)
        effect = filled.sum(axis=tuple(i + 1 for i in others)) / present.sum(axis=others)
        effect = effect - mean[:, None]
        start += effect.reshape(len(filled), *(-1 if i == n else 1 for i in range(absent.ndim)))
    filled[:, absent] = start[:, absent]
    if ranks is None and energy is None:
        energy = 0.95
    fixed: tuple[int, ...] | None = None
    for _ in range(max_rounds):
        model = solve_tensor(filled)
        fixed = fixed or choose_ranks(model.energies, model.ranks, ranks, energy)
        values = model.truncate(fixed).reconstruct()[:, absent]
        change = np.linalg.norm(values - filled[:, absent])
        filled[:, absent] = values
        if change <= tol * np.linalg.norm(values - mean[:, None]):
            break
    return filled


def tensor_of_cells(sums: CellSums, grid: CellGrid) -> tuple[np.ndarray, np.ndarray]:
    """(tensor (D, I_1, ...) of cell means with NaN where a cell has no row, counts (I_1, ...))."""
    means, counts = sums.dense(grid.n_cells)
    return np.ascontiguousarray(means.T).reshape(-1, *grid.shape), counts.reshape(grid.shape)


def trajectory_origin(trajectories: Sequence[np.ndarray]) -> np.ndarray:
    """Point nearest to the lines through several trajectories, (d,): the "point of apathy".

    trajectories : each (k >= 2, d), levels of one expression by rising intensity, in the
        coordinates of the expression subspace (Grasshof et al. 2017; thesis section 3.2)
    """
    if len(trajectories) < 2:
        raise UsageError(f"{len(trajectories)!r} trajectory given: at least 2 are needed")
    size = np.shape(trajectories[0])[1]
    normal, right = np.zeros((size, size)), np.zeros(size)
    for points in trajectories:
        centre = np.mean(points, axis=0)
        line = np.linalg.svd(points - centre)[2][0]
        away = np.eye(size) - np.outer(line, line)
        normal += away
        right += away @ centre
    return np.linalg.lstsq(normal, right, rcond=None)[0]
