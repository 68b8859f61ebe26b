"""Directions of the generator's weights: the section 'analyse.sefa'."""

from __future__ import annotations

from pydantic import Field

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer


class SefaSpec(AnalysisSection):
    """Closed-form directions of the generator's weights (SeFa); reads no codes but their spread."""

    order = 60
    summary = "Directions of the weights."

    n_components: Integer = Field(default=8, ge=1, description="Directions to keep.")
    layers: list[Integer] | None = Field(
        default=None,
        min_length=1,
        description="Rows of w_plus whose layers are factorised and edited. Default: all.",
    )


PLUGIN = SefaSpec
