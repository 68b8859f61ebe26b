"""Style channels: the section 'analyse.s_space'."""

from __future__ import annotations

from pydantic import Field

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Names, Number


class SSpaceSpec(AnalysisSection):
    """Single style channels whose values differ where an attribute is present (StyleSpace)."""

    order = 80
    summary = "Style channels of attributes."

    attributes: Names | None = Field(
        default=None, description="Annotated attributes to find channels for. Default: all."
    )
    threshold: Number = Field(
        default=0.5, description="An attribute is present where its score is above this."
    )


PLUGIN = SSpaceSpec
