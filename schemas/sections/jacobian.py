"""Directions of the generator's Jacobian: the section 'analyse.jacobian'."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer, Number


class JacobianSpec(AnalysisSection):
    """Directions that change the picture, or one region of it, most at some codes of the store."""

    order = 70
    summary = "Directions of the generator's Jacobian."

    n_components: Integer = Field(default=4, ge=1, description="Directions to keep.")
    samples: Integer = Field(
        default=4, ge=1, description="Codes, spread over the store, whose Jacobians are averaged."
    )
    region: list[Number] | None = Field(
        default=None,
        min_length=4,
        max_length=4,
        description="Rectangle that should change, as left, top, right, bottom in shares of the "
        "picture (0 to 1); the rest should not. Default: the whole picture.",
    )
    background_rank: Integer = Field(
        default=16,
        ge=1,
        description="Directions that change the rest most, taken out before; with 'region' only.",
    )

    @model_validator(mode="after")
    def _in_the_picture(self) -> Self:
        if self.region is not None:
            left, top, right, bottom = self.region
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(
                    f"'region' is {self.region!r}, not a rectangle in the picture: give left, top, "
                    "right, bottom from 0 to 1"
                )
        return self


PLUGIN = JacobianSpec
