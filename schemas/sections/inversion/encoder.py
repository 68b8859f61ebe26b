"""``invert`` with ``method: encoder``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.sections.invert import UNUSED, InvertSpec, Needs
from schemas.sections.types import Integer, Number


class EncoderSpec(InvertSpec):
    """One forward pass of the encoder."""

    steps: Annotated[Integer, UNUSED] = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Gradient steps of other methods; not used by this one.",
    )
    learning_rate: Annotated[Number, UNUSED] = Field(
        default=0.05, gt=0, description="Step size of other methods; not used by this one."
    )
    pixel_weight: Annotated[Number, UNUSED] = Field(
        default=1.0, ge=0, description="Weight in the loss of other methods; not used by this one."
    )
    feature_weight: Annotated[Number, UNUSED] = Field(
        default=0.5, ge=0, description="Weight in the loss of other methods; not used by this one."
    )

    @property
    def needs(self) -> Needs:
        return Needs(encoder=True)


PLUGIN = EncoderSpec
