"""``invert`` with ``method: refine``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.sections.invert import InvertSpec, Needs
from schemas.sections.types import Integer


class RefineSpec(InvertSpec):
    """Passes of an encoder, each shown what the last code draws."""

    passes: Integer = Field(
        default=5, ge=1, le=1000, description="Passes of the encoder, the same for each image."
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="The code that is stored: of each image's pass with the least mean squared "
        "error, or of the last pass.",
    )

    @property
    def needs(self) -> Needs:
        return Needs(encoder=True)


PLUGIN = RefineSpec
