"""The tensor model: the section 'analyse.hosvd'."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer, Level, Levels, Number


class HosvdSpec(AnalysisSection):
    """Tensor model over declared factors."""

    order = 40
    summary = "Tensor model over factors (HOSVD)."

    modes: list[str | list[str]] = Field(
        description="Factors that span the tensor, one mode each; a list is a composite mode: "
        "[person, [expression, intensity], view]."
    )
    where: dict[str, Levels] = Field(
        default={}, description="Factor -> level or levels of the rows to use."
    )
    missing: Literal["error", "drop_person", "complete"] = Field(
        default="error",
        description="What to do where combinations of levels have no row. error: stop. "
        "drop_person: drop the levels of the first mode that lack any. complete: estimate them.",
    )
    repeats: Literal["mean", "weighted"] = Field(
        default="mean",
        description="Combinations of levels with several rows. mean: the rows' mean counts like "
        "any other. weighted: it is weighted by the number of rows.",
    )
    energy: Number = Field(
        default=0.95, gt=0, le=1, description="Share of each mode's energy that its rank keeps."
    )
    ranks: list[Integer | None] | None = Field(
        default=None,
        description="Rank of each mode, instead of 'energy'; null in the list: this mode's rank "
        "follows from 'energy'.",
    )
    standardise: bool = Field(
        default=False, description="Scale every latent coordinate to unit standard deviation first."
    )
    stacked: bool = Field(
        default=False,
        description="Decompose every layer of w_plus separately (stacked style-separated model).",
    )
    pairs: dict[str, list[tuple[Level, Level]]] = Field(
        default={},
        description="Factor -> pairs of levels; each gives a direction from the first to the "
        "second, such as view: [[left, right]].",
    )
    intensity: dict[str, str] = Field(
        default={},
        description="Factor -> factor of its intensity, each a mode of its own. The intensity mode "
        "is reduced to rank 1, and the factor's directions point to rising intensity.",
    )
    folds: Integer = Field(
        default=0,
        ge=0,
        description="Folds of the cross-validation, over the first mode's levels, that chooses the "
        "ridge penalty of parameter fits; 0: no cross-validation.",
    )

    @property
    def mode_names(self) -> list[list[str]]:
        """Factors of each mode."""
        return [[m] if isinstance(m, str) else list(m) for m in self.modes]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [n for mode in self.mode_names for n in mode]
        if not self.modes or not all(self.modes):
            raise ValueError("'modes' must name at least one factor in every mode")
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"factors {twice!r} are in more than one mode: keep each once")
        if self.ranks is not None and len(self.ranks) != len(self.modes):
            raise ValueError(
                f"'ranks' has {len(self.ranks)} entries for {len(self.modes)} modes: "
                "give one rank a mode, null for those that 'energy' decides"
            )
        if self.ranks is not None and any(r is not None and r < 1 for r in self.ranks):
            raise ValueError(f"'ranks' must be at least 1, got {self.ranks!r}")
        later = {n for mode in self.mode_names[1:] for n in mode}
        unknown = sorted(set(self.pairs) - later)
        if unknown:
            raise ValueError(
                f"'pairs' names {unknown!r}, not among the modes after the first, "
                f"{sorted(later)!r}: correct the name"
            )
        single = {mode[0] for mode in self.mode_names[1:] if len(mode) == 1}
        for factor, intensity in self.intensity.items():
            if not {factor, intensity} <= single or factor == intensity:
                raise ValueError(
                    f"'intensity' pairs {factor!r} with {intensity!r}: name two different modes "
                    f"after the first, each of one factor ({sorted(single)!r})"
                )
        if self.folds == 1:
            raise ValueError("'folds' is 1: give 2 or more, or 0 for none")
        if self.folds and self.stacked:
            raise ValueError("'folds' is for one model of all layers: leave out 'stacked'")
        return self


PLUGIN = HosvdSpec
