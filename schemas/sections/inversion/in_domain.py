"""``invert`` with ``method: in_domain``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.sections.inversion.hybrid import HybridSpec
from schemas.sections.invert import WHEN_SET
from schemas.sections.types import Number


class InDomainSpec(HybridSpec):
    """Gradient steps from the encoder's code that stay where the encoder finds them again."""

    schedule: Annotated[Literal["quasi_newton", "adam", "projector"], WHEN_SET] = Field(
        default="adam", description="How steps are taken: see method 'optimise'."
    )
    learning_rate: Number = Field(
        default=0.01, gt=0, description="Step size of the optimiser (Adam)."
    )
    feature_weight: Number = Field(
        default=0.0,
        ge=0,
        description="Weight of the feature distance in the loss: image gradients compared over a "
        "pyramid of scales.",
    )
    perceptual_weight: Number = Field(
        default=0.5,
        ge=0,
        description="Weight of the perceptual distance in the loss: of 'perceptual', or where that "
        "is null of the project's own network.",
    )
    encoder_weight: Number = Field(
        default=2.0,
        ge=0,
        description="Weight of the mean squared difference between a code and what the encoder "
        "makes of the picture that is drawn from it.",
    )


PLUGIN = InDomainSpec
