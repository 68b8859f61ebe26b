"""The stacked style-separated tensor model: one model for every style (layer of w_plus).

Paper I, section III.C, eq. 5: the styles' tensors T_s (L, I_1, ..., I_N) are decomposed apart, so
that each style has its own factors and parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from schemas.errors import UsageError
from transforms.accumulate.blocks import Accumulator
from transforms.accumulate.passes import PassRequest
from transforms.hosvd.model import HOSVD, choose_ranks
from transforms.hosvd.parameters import TensorFit, fit_parameters
from transforms.hosvd.passes import (
    CoreRequest,
    CoreSlabs,
    ModeGrams,
    SlabGramsRequest,
    cut_factors,
    solve_modes,
)
from transforms.hosvd.solve import hosvd


@dataclass(frozen=True)
class StackedHOSVD:
    """Models of S styles, each `HOSVD` with its share of the D coordinates, in their order."""

    models: list[HOSVD]

    @property
    def mean(self) -> np.ndarray:
        """Mean code float64 (D,)."""
        return np.concatenate([m.mean for m in self.models])

    @property
    def shape(self) -> tuple[int, ...]:
        """Levels of each mode."""
        return self.models[0].shape

    @property
    def ranks(self) -> list[tuple[int, ...]]:
        """Columns kept of each style's factors."""
        return [m.ranks for m in self.models]

    @property
    def squares(self) -> float:
        """Sum of squares of the centred tensor."""
        return sum(m.squares for m in self.models)

    @property
    def relative_error(self) -> float:
        """Norm of what the models leave out, over the norm of the centred tensor."""
        if self.squares == 0:
            return 0.0
        left = sum(m.relative_error**2 * m.squares for m in self.models)
        return float(np.sqrt(left / self.squares))

    def truncate(
        self,
        ranks: Sequence[int | None] | None = None,
        energy: float | Sequence[float] | None = None,
    ) -> StackedHOSVD:
        """Every style's model of lower ranks; by energy, ranks differ between styles."""
        return StackedHOSVD([m.truncate(ranks, energy) for m in self.models])

    def direction(
        self, levels: Mapping[int, int], reference: Mapping[int, int] | None = None
    ) -> np.ndarray:
        """Change of the code from reference levels to the given ones, (D,): `HOSVD.direction`."""
        return np.concatenate([m.direction(levels, reference) for m in self.models])

    def level_directions(self, mode: int, reference: int | None = None) -> np.ndarray:
        """`direction` for every level of a mode, (I_n, D)."""
        return np.concatenate([m.level_directions(mode, reference) for m in self.models], axis=1)

    def contrast(self, mode: int, inside: np.ndarray, other: np.ndarray) -> np.ndarray:
        """`HOSVD.contrast` of every style, (D,)."""
        return np.concatenate([m.contrast(mode, inside, other) for m in self.models])

    def intensity_directions(self, mode: int, intensity: int) -> tuple[np.ndarray, np.ndarray]:
        """`HOSVD.intensity_directions`: (directions (I_mode, D), intensities (S, I_intensity))."""
        found = [m.intensity_directions(mode, intensity) for m in self.models]
        return np.concatenate([d for d, _ in found], axis=1), np.stack([q for _, q in found])

    def reconstruct(self) -> np.ndarray:
        """The models' tensor (D, I_1, ..., I_N), mean included."""
        return np.concatenate([m.reconstruct() for m in self.models])

    def split(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows (m, D) or (m, S, L) as each style's coordinates."""
        flat = rows.reshape(len(rows), -1)
        ends = np.cumsum([m.n_features for m in self.models])
        if flat.shape[1] != ends[-1]:
            raise UsageError(
                f"rows have {flat.shape[1]!r} coordinates but the models have {int(ends[-1])!r}: "
                "give codes of the models' own space"
            )
        return np.split(flat, ends[:-1], axis=1)


def fit_styles(
    model: StackedHOSVD, rows: np.ndarray, **options: Any
) -> tuple[list[TensorFit], np.ndarray]:
    """Parameters of rows, style by style: (one `TensorFit` a style, the codes (m, D)).

    options : those of `fit_parameters`
    """
    fits = [
        fit_parameters(m, part, **options)
        for m, part in zip(model.models, model.split(np.asarray(rows)), strict=True)
    ]
    return fits, np.concatenate([f.codes for f in fits], axis=1)


def stacked_hosvd(
    tensor: np.ndarray, ranks: Sequence[int | None] | None = None, **options: Any
) -> StackedHOSVD:
    """The stacked model of a tensor (S, L, I_1, ..., I_N), styles first.

    ranks, options : as for `hosvd`, the same for every style
    """
    if np.ndim(tensor) < 3:
        raise UsageError(
            f"tensor has shape {np.shape(tensor)!r}: give (styles, latent, levels, ...)"
        )
    return StackedHOSVD([hosvd(style, ranks, **options) for style in tensor])


@dataclass(frozen=True)
class StackedSolver:
    """The stacked model as a machine of two passes over slabs (a `PassSolver`).

    styles : for each slab the style it belongs to; a style's slabs are in the order of its
        coordinates
    standardise, ranks, energy : as for `HOSVDSolver`
    """

    saved_passes: ClassVar[int] = 2

    styles: tuple[int, ...]
    standardise: bool = False
    ranks: Sequence[int | None] | None = None
    energy: float | Sequence[float] | None = None
    grams: list[ModeGrams] = field(default_factory=list)
    factors: list[list[np.ndarray]] = field(default_factory=list)
    energies: list[list[np.ndarray]] = field(default_factory=list)
    core: CoreSlabs | None = None
    passes_per_pipeline: ClassVar[int] = 2

    @property
    def done(self) -> bool:
        """Both passes are made."""
        return self.core is not None

    def request(self) -> PassRequest:
        """Every slab's Grams first, then its part of the core."""
        if not self.grams:
            return SlabGramsRequest(self.standardise)
        factors = {index: self.factors[style] for index, style in enumerate(self.styles)}
        return CoreRequest(self.standardise, factors)

    def step(self, total: Accumulator) -> StackedSolver:
        """State after a pass with the summed statistic `total`."""
        if not isinstance(total, CoreSlabs) or sorted(total.parts) != list(range(len(self.styles))):
            raise UsageError(
                f"a pass returned {type(total).__name__!r}, this solver expects the core of "
                f"{len(self.styles)!r} styles: run the pass with the request "
                "that the solver gives now"
            )
        if self.grams:
            return replace(self, core=total)
        grams: list[ModeGrams] = []
        for index, style in enumerate(self.styles):
            own = ModeGrams.from_arrays(total.parts[index])
            if style == len(grams):
                grams.append(own)
            else:
                grams[style] = grams[style].merge(own)
        factors, energies = [], []
        for gram in grams:
            full, values = solve_modes(gram)
            ranks = choose_ranks(values, [len(u) for u in full], self.ranks, self.energy)
            factors.append(cut_factors(full, ranks))
            energies.append(values)
        return replace(self, grams=grams, factors=factors, energies=energies)

    def model(self) -> StackedHOSVD:
        """The model; UsageError before the passes are done."""
        if self.core is None:
            raise UsageError("the decomposition is not done: drive it with run_passes")
        models = []
        for style, (gram, factors, energies) in enumerate(
            zip(self.grams, self.factors, self.energies, strict=True)
        ):
            own = [i for i, s in enumerate(self.styles) if s == style]
            core, mean, scale = self.core.assemble(own)
            kept = [np.arange(len(u)) for u in factors]
            models.append(HOSVD(mean, factors, core, energies, gram.squares, scale, kept))
        return StackedHOSVD(models)
