"""Tensor models of incomplete data: missing cells, and cells that are means of unlike many rows.

The model t_c = m + C k_c + noise, k_c the product of the modes' rows of U_n at cell c, is fitted to
the present cells with weights w_c in [0, 1] (thesis, section 6.1, names missing data as what the
tensor models lack). Which cells are missing is the same for every latent coordinate, so that given
the factors one small system solves m and C for all coordinates, slab by slab. Each pass solves it,
fills every slab with w t + (1 - w) (m + C k) - observed cells stay, missing ones become the model
- and sums the mode Grams of the filled slabs, whose eigenvectors are the next factors: expectation
maximisation (Srebro, Jaakkola, 2003, section 3) with the core's part solved exactly.

The core's entries have a prior variance: the product of the modes' energies, or the entry's own
energy where that stands out of the noise; the noise's variance is what the present cells leave
over. So levels with few cells shrink toward the average instead of fitting noise, and ranks may be
generous.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy.linalg import lu_factor, lu_solve

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import TRANSFORMS, Accumulator, Arrays, BlockSource, Sums
from transforms.accumulate.factor_cells import most_parameters, too_many_ranks
from transforms.accumulate.passes import PassRequest, expect
from transforms.hosvd.model import choose_ranks
from transforms.hosvd.passes import (
    SLAB_BYTES,
    ModeGrams,
    cut_factors,
    multiply_slab,
    prepare_slab,
    slab_ranges,
    solve_modes,
)

MOST_RIDGE = 10.0  # an entry held down harder could not show that it is there after all
Repeats = Literal["mean", "weighted"]


def cell_weights(counts: np.ndarray, repeats: Repeats = "mean") -> np.ndarray:
    """Weights float64 (I_1, ...) in [0, 1] of cells with the given numbers of rows (or bool).

    repeats : 'mean', every present cell weighs 1; 'weighted', by its rows over the most rows
    Raises DataError when a level has no cell at all.
    """
    present = counts > 0
    for n in range(counts.ndim):
        empty = ~present.any(axis=tuple(i for i in range(counts.ndim) if i != n))
        if empty.any():
            raise DataError(
                f"levels {np.flatnonzero(empty).tolist()!r} of mode {n!r} have no cell at all: "
                "leave them out"
            )
    return present.astype(np.float64) if repeats == "mean" else counts / counts.max()


@dataclass(frozen=True)
class Fill:
    """How missing cells of a slab follow from the present ones: linear, and alike in every slab.

    weights : float64 (I_1, ...), 0 where there is no cell
    factors : for each mode float64 (I_n, J_n); None for the sum of the modes' main effects
    ridge : float64 (J_1 ... J_N,), noise variance over prior variance of the core's entries
    """

    kind = f"{TRANSFORMS}.hosvd_complete.Fill"

    weights: np.ndarray
    factors: list[np.ndarray] | None = None
    ridge: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_system"}

    @cached_property
    def _system(self) -> tuple[Any, float]:
        """(LU factors of the system for m and C, parameters a coordinate that the data decide).

        The first row makes m the mean of the filled cells; the others are the normal equations.
        """
        w = self.weights
        if self.factors is None:
            gram, left = _pair_counts(w), _marginals((1 - w)[..., None])[:, 0]
            right, ridge = _marginals(w[..., None])[:, 0], np.ones(len(left))
        else:
            gram = weighted_gram(w, self.factors)
            columns = [np.ascontiguousarray(u.T) for u in self.factors]
            left = multiply_slab((1 - w)[..., None], columns).ravel()
            right = multiply_slab(w[..., None], columns).ravel()
            ridge = self.ridge if self.ridge is not None else np.zeros(len(gram))
        system = np.block([[np.full((1, 1), w.sum()), -left[None]], [right[:, None], gram]])
        inner = np.arange(1, len(system))
        system[inner, inner] += ridge
        decided = np.linalg.solve(gram + np.diag(ridge), gram).trace() + 1
        return lu_factor(system, overwrite_a=True, check_finite=False), float(decided)

    @property
    def content(self) -> str:
        """Digest of weights, factors and ridge."""
        arrays = [self.weights, *(self.factors or ()), self.ridge]
        parts = [np.ascontiguousarray(a).tobytes() for a in arrays if a is not None]
        return hashlib.sha256(b"|".join(parts)).hexdigest()

    @property
    def n_parameters(self) -> float:
        """Parameters of each coordinate that the data, not the prior, decide."""
        return self._system[1]

    def apply(self, slab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fill a slab (I_1, ..., d), float64, in place.

        Returns each coordinate's weighted residual, sum_c w_c (t_c - m - C k_c)^2, float64 (d,),
        and its C, float64 (parameters, d).
        """
        w, n_cells = self.weights[..., None], self.weights.size
        plain = bool(np.isin(self.weights, (0.0, 1.0)).all())
        absent = self.weights == 0
        slab[absent] = 0.0
        residual, core = np.zeros(slab.shape[-1]), []
        for at in slab_ranges(slab.shape[-1], n_cells, SLAB_BYTES):
            part = np.array(slab[..., at], order="C")
            fitted, found = self._fit(part if plain else part * w)
            core.append(found)
            part -= fitted
            residual[at] = np.einsum("ij,ij,i->j", *[part.reshape(n_cells, -1)] * 2, w.ravel())
            if plain:
                slab[absent, at] = fitted[absent]
            else:
                slab[..., at] = fitted + w * part
        return residual, np.concatenate(core, axis=1)

    def _fit(self, weighted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = weighted.reshape(-1, weighted.shape[-1]).sum(axis=0)
        if self.factors is None:
            right = _marginals(weighted)
        else:
            columns = [np.ascontiguousarray(u.T) for u in self.factors]
            right = multiply_slab(weighted, columns).reshape(-1, len(total))
        found = lu_solve(self._system[0], np.concatenate([total[None], right]), check_finite=False)
        if self.factors is None:
            fitted = _spread(found[1:], self.weights.shape)
        else:
            shape = (*(u.shape[1] for u in self.factors), len(total))
            fitted = multiply_slab(found[1:].reshape(shape), self.factors)
        fitted += found[0]
        return fitted, found[1:]


def weighted_gram(weights: np.ndarray, factors: Sequence[np.ndarray]) -> np.ndarray:
    """sum_c w_c k_c k_c', (J_1 ... J_N,) squared, without ever listing the cells' k_c."""
    first, *others = factors
    pairs = [np.einsum("ij,ik->jki", u, u).reshape(-1, len(u)) for u in others]
    rest = weights[..., None]
    if others:
        rest = np.moveaxis(weights, 0, -1)
        rest = np.moveaxis(multiply_slab(rest, pairs), -1, 0)
    rest = np.ascontiguousarray(rest.reshape(len(first), -1))
    sizes = [u.shape[1] for u in others]
    gram = np.stack([(first * column[:, None]).T @ rest for column in first.T])
    shape = (first.shape[1], first.shape[1], *(j for j in sizes for _ in range(2)))
    order = [*range(0, len(shape), 2), *range(1, len(shape), 2)]
    size = first.shape[1] * int(np.prod(sizes))
    return np.ascontiguousarray(gram.reshape(shape).transpose(order)).reshape(size, size)


def _marginals(slab: np.ndarray) -> np.ndarray:
    """Sums over each mode's levels, one mode under the other: (I_1 + ... + I_N, d)."""
    n_modes = slab.ndim - 1
    return np.concatenate(
        [slab.sum(axis=tuple(i for i in range(n_modes) if i != n)) for n in range(n_modes)]
    )


def _spread(effects: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Sum of main effects (I_1 + ... + I_N, d) at every cell: (I_1, ..., d)."""
    total, start = np.zeros((*shape, effects.shape[1])), 0
    for n, size in enumerate(shape):
        form = [size if i == n else 1 for i in range(len(shape))]
        total += effects[start : start + size].reshape(*form, -1)
        start += size
    return total


def _pair_counts(weights: np.ndarray) -> np.ndarray:
    """Weight that each pair of levels, of one mode or of two, shares: the main effects' Gram."""
    rows = []
    for a in range(weights.ndim):
        row = []
        for b in range(weights.ndim):
            kept = weights.sum(axis=tuple(i for i in range(weights.ndim) if i not in (a, b)))
            row.append(np.diag(kept) if a == b else kept if a < b else kept.T)
        rows.append(row)
    return np.block(rows)


@dataclass(frozen=True)
class FillRequest:
    """Mode Grams of every filled slab, and what the present cells leave over."""

    kind = f"{TRANSFORMS}.hosvd_complete.FillRequest"

    fill: Fill
    standardise: bool = False
    token: str = "cells"

    def prepare(self, arrays: Arrays) -> Arrays:
        """The slab as it was read."""
        return {"slab": arrays["slab"]}

    def statistic(self, prepared: Arrays) -> Sums:
        """`ModeGrams` arrays of the slab, residual, and the core's energies."""
        slab = prepared["slab"].copy()
        residual, core = self.fill.apply(slab)
        slab, _, scale = prepare_slab(slab, self.standardise)
        facts = {"residual": (residual / scale**2).sum(), "core": core**2 @ scale**-2}
        return Sums(ModeGrams.of_slab(slab).to_arrays() | facts)


@dataclass(frozen=True)
class Completion:
    """Expectation maximisation as a machine of passes over slabs (a `PassSolver`).

    weights : see `cell_weights`
    ranks, energy : of the model that completes, see `choose_ranks`; default 95 % of each mode's
        energy. A coordinate has at most 2,048 parameters, and at most half as many as there are
        cells: components of least energy are left out of the modes that energy decides, and given
        ranks that are too many are refused (UsageError)
    tol : stop when the present cells' residual changes by less (relative)
    """

    weights: np.ndarray
    ranks: Sequence[int | None] | None = None
    energy: float | Sequence[float] | None = None
    standardise: bool = False
    tol: float = 1e-5
    max_rounds: int = 100
    fill: Fill = None  # type: ignore[assignment]
    residuals: tuple[float, ...] = ()
    done: bool = False

    def __post_init__(self) -> None:
        if self.fill is None:
            object.__setattr__(self, "fill", Fill(self.weights))
        problem = too_many_ranks(self.ranks, self._n_present)
        if problem is not None:
            raise UsageError(problem)

    @property
    def _n_present(self) -> int:
        return int((self.weights > 0).sum())

    def request(self) -> PassRequest:
        """Fill with what is known, and sum the Grams."""
        return FillRequest(self.fill, self.standardise)

    def step(self, total: Accumulator) -> Completion:
        """The next factors, prior and noise from the filled tensor's Grams."""
        total = expect(total, Sums)
        grams = ModeGrams.from_arrays(total.arrays)
        factors, energies = solve_modes(grams)
        residual = float(total["residual"])
        residuals = (*self.residuals, residual)
        settled = residual <= 1e-14 * grams.squares or (
            len(residuals) > 2 and abs(residuals[-2] - residual) <= self.tol * residual
        )
        if settled or len(residuals) > self.max_rounds:
            return replace(self, residuals=residuals, done=True)
        ranks = self._ranks(energies, [u.shape[1] for u in self.fill.factors or factors])
        present = int((self.weights > 0).sum())
        noise = residual / max(present - self.fill.n_parameters, 1.0)
        prior = np.ones(1)
        for values, rank in zip(energies, ranks, strict=True):
            prior = np.multiply.outer(prior, values[:rank] / max(grams.squares, 1e-300)).ravel()
        prior = prior * grams.squares
        if self.fill.ridge is not None:  # what stands out of the noise is no accident
            data = np.diag(weighted_gram(self.weights, self.fill.factors or []))
            unshrunk = total["core"] * ((data + self.fill.ridge) / data) ** 2
            prior = np.maximum(prior, unshrunk - 2 * noise / data)
        prior = np.maximum(prior, 1e-300)
        ridge = np.minimum(noise / prior, MOST_RIDGE)
        factors = cut_factors(factors, ranks)
        return replace(self, fill=Fill(self.weights, factors, ridge), residuals=residuals)

    def facts(self) -> dict[str, Any]:
        """passes, converged, the present cells' residual after each pass, and the most parameters a
        coordinate, to which ranks that energy decides were cut."""
        converged = self.done and len(self.residuals) <= self.max_rounds
        residuals = list(self.residuals)
        return {
            "passes": len(residuals),
            "converged": converged,
            "residuals": residuals,
            "most_parameters": most_parameters(self._n_present),
        }

    def _ranks(self, energies: list[np.ndarray], most: list[int]) -> list[int]:
        """Ranks as asked for, then without the components of least energy while too many."""
        if self.fill.factors is not None:
            return most
        energy = 0.95 if self.ranks is None and self.energy is None else self.energy
        if self.ranks is not None and None in self.ranks and energy is None:
            energy = 0.95
        ranks = list(choose_ranks(energies, most, self.ranks, energy))
        given = self.ranks or [None] * len(ranks)
        while np.prod(ranks) > most_parameters(self._n_present):
            last = [
                v[j - 1] if j > 1 and asked is None else np.inf
                for v, j, asked in zip(energies, ranks, given, strict=True)
            ]
            ranks[int(np.argmin(last))] -= 1
        return ranks


@dataclass(frozen=True)
class FilledSlabs:
    """A source of slabs with its missing cells filled."""

    source: BlockSource
    fill: Fill

    @property
    def key(self) -> str:
        """The source's key and the fill's content."""
        return f"{self.source.key}-filled-{self.fill.content}"

    @property
    def n_blocks(self) -> int:
        """Slabs of the source."""
        return self.source.n_blocks

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """As the source's, filled."""
        rows, arrays = self.source.read(block)
        self.fill.apply(arrays["slab"])
        return rows, arrays
