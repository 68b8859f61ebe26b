"""Directions of the generator's Jacobian: the section 'analyse.jacobian'."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer, Number


class JacobianSpec(AnalysisSection):
    """Directions that change the image, or one region of it, most at some codes of the store."""

    order = 70
    summary = "Directions of the generator's Jacobian."

    n_components: Integer = Field(default=4, ge=1, description="Number of directions to keep.")
    samples: Integer = Field(
        default=4,
        ge=1,
        description="Number of codes, spread over the store, whose Jacobians are averaged.",
    )
    region: list[Number] | None = Field(
        default=None,
        min_length=4,
        max_length=4,
        description="Rectangle to change while the rest of the image stays, as left, top, right, "
        "bottom in shares of the image (0 to 1). Default: the whole image.",
    )
    background_rank: Integer = Field(
        default=16,
        ge=1,
        description="With 'region': number of directions that change the rest of the image most, "
        "which are projected out.",
    )

    @model_validator(mode="after")
    def _in_the_picture(self) -> Self:
        if self.region is not None:
            left, top, right, bottom = self.region
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(
                    f"'region' is {self.region!r}, not a rectangle in the image: give left, top, "
                    "right, bottom from 0 to 1"
                )
        return self


PLUGIN = JacobianSpec
