"""Directions of the generator's weights: the section 'analyse.sefa'."""

from __future__ import annotations

from pydantic import Field

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer


class SefaSpec(AnalysisSection):
    """Closed-form directions of the generator's weights (SeFa); of the codes only their standard
    deviation along them is read."""

    order = 60
    summary = "Closed-form directions of the generator's weights (SeFa)."

    n_components: Integer = Field(default=8, ge=1, description="Number of directions to keep.")
    layers: list[Integer] | None = Field(
        default=None,
        min_length=1,
        description="Layers of w_plus that are factorised and edited. Default: all.",
    )


PLUGIN = SefaSpec
