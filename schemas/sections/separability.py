"""Linear separability of latent spaces: the section 'analyse.separability'."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer, Names, Number


class SeparabilitySpec(AnalysisSection):
    """How well hyperplanes tell what is drawn (Karras et al. 2019), in one space or several."""

    order = 100
    summary = "Linear separability of latent spaces."

    spaces: Names | None = Field(
        default=None,
        min_length=1,
        description="Spaces of codes to look at, such as [z, w]. Default: the stored one.",
    )
    attributes: Names | None = Field(
        default=None, description="Annotated attributes to tell apart. Default: all."
    )
    threshold: Number = Field(
        default=0.5, description="Scores above it are one class; rows far from it are sure."
    )
    share: Number = Field(
        default=0.5, gt=0, le=1, description="Share of the rows, the surest, that are used."
    )
    max_passes: Integer = Field(
        default=50, ge=1, description="Largest number of passes over the data."
    )

    def check(self, spec: Any) -> None:
        """Raise ValueError for the key of the other analyses."""
        if self.space is not None:
            raise ValueError(
                f"'analyse.separability.space' is {self.space!r}: this analysis has 'spaces', a "
                "list, in its place"
            )


PLUGIN = SeparabilitySpec
