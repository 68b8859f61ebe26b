"""The tensor model: mean, factors, core, and the directions read from them.

T - mean = C x_2 U_2 x_3 U_3 ... (Haas, thesis eq. 3.13; Paper II, eq. 1) with the latent mode kept
whole: C = S x_1 U_1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from schemas.errors import UsageError
from transforms.hosvd.passes import multiply_modes
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
        self,
        ranks: Sequence[int | None] | None = None,
        energy: float | Sequence[float] | None = None,
    ) -> HOSVD:
        """The model of lower ranks; no pass over data (thesis eq. 3.8)."""
        ranks = choose_ranks(self.energies, self.ranks, ranks, energy)
        core = self.core[(slice(None), *(slice(j) for j in ranks))]
        factors = [u[:, :j] for u, j in zip(self.factors, ranks, strict=True)]
        return replace(self, core=np.ascontiguousarray(core), factors=factors)

    @property
    def n_features(self) -> int:
        """Latent coordinates, D."""
        return len(self.mean)

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

    def contrast(self, mode: int, inside: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Change of the code from the mean of some levels of a mode to that of others, (D,).

        inside, other : bool (I_mode,), the levels that are compared; the other modes stand at
            their average. Two levels of a view mode give the rotation (Paper II, eq. 16-18, there
            scaled by the square root of 1/2)
        """
        u = self.factors[mode]
        parameters = self.mean_parameters()
        parameters[mode] = u[inside].mean(axis=0) - u[other].mean(axis=0)
        return self.contract(parameters)

    def intensity_directions(self, mode: int, intensity: int) -> tuple[np.ndarray, np.ndarray]:
        """A direction for every level of a mode, with the intensity mode cut to one dimension.

        The model then is code = mean + q n for each level, the other modes at their average: n is
        the direction and the scalar q the intensity (Paper II, section 2.2, eq. 14-15; thesis
        eq. 3.16).

        Returns (directions (I_mode, D), intensities (I_intensity,) q of the measured levels, their
        sign such that q rises with the level's position).
        """
        parameters = self._at({mode: 0, intensity: 0})
        if mode == intensity:
            raise UsageError(f"mode {mode!r} cannot be its own intensity: name another mode")
        q = self.factors[intensity][:, 0]
        rising = np.arange(len(q)) - (len(q) - 1) / 2
        sign = -1.0 if q @ rising < 0 else 1.0
        parameters[intensity] = sign * np.eye(1, len(parameters[intensity]))[0]
        directions = []
        for row in self.factors[mode]:
            parameters[mode] = row
            directions.append(self.contract(parameters))
        return np.stack(directions), sign * q

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
    ranks: Sequence[int | None] | None = None,
    energy: float | Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Ranks of the small modes, by number or by the share of energy to keep.

    ranks : one a mode; None leaves a mode to `energy`
    energy : one share for all modes or one a mode, in (0, 1]; the smallest rank that keeps it
    Raises UsageError when both are given for every mode, or a value is out of range.
    """
    if ranks is not None and None in ranks:
        by_energy = choose_ranks(energies, most, energy=energy)
        if len(ranks) == len(most):
            ranks = [e if r is None else r for r, e in zip(ranks, by_energy, strict=True)]
            energy = None
    if ranks is not None and energy is not None:
        raise UsageError(f"ranks {ranks!r} and energy {energy!r} are both given: keep one")
    if ranks is not None:
        if len(ranks) != len(most) or any(
            r is None or not 1 <= r <= m for r, m in zip(ranks, most, strict=True)
        ):
            raise UsageError(
                f"ranks {tuple(ranks)!r} do not fit modes of {tuple(most)!r}: give one for each "
                "small mode, at least 1 and at most its size"
            )
        return tuple(int(r) for r in ranks if r is not None)
    if energy is None:
        return tuple(most)
    shares = [energy] * len(most) if isinstance(energy, float | int) else list(energy)
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
