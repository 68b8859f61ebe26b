"""``invert`` with ``method: optimise``."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from schemas.sections.invert import WHEN_SET, InvertSpec, Needs
from schemas.sections.perceptual import PerceptualSpec
from schemas.sections.types import Integer, Number


class OptimiseSpec(InvertSpec):
    """Gradient steps from the mean code."""

    steps: Integer = Field(
        default=100, ge=1, le=100_000, description="Gradient steps, the same number for each image."
    )
    learning_rate: Number = Field(
        default=0.05, gt=0, description="Step size of the optimiser (Adam)."
    )
    pixel_weight: Number = Field(
        default=1.0, ge=0, description="Weight of the mean squared pixel error in the loss."
    )
    feature_weight: Number = Field(
        default=0.5,
        ge=0,
        description="Weight of the feature distance in the loss: image gradients compared over a "
        "pyramid of scales.",
    )
    perceptual_weight: Annotated[Number, WHEN_SET] = Field(
        default=0.0,
        ge=0,
        description="Weight of the perceptual distance in the loss: of 'perceptual', or where that "
        "is null of the project's own network.",
    )

    @property
    def needs(self) -> Needs:
        return Needs(gradients=True, random=True)

    @property
    def compared_by(self) -> PerceptualSpec | None:
        if self.perceptual is None and self.perceptual_weight:
            return PerceptualSpec()
        return self.perceptual

    def brief(self) -> Self:
        return self.model_copy(update={"steps": min(self.steps, 2)})

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if self.pixel_weight == self.feature_weight == self.perceptual_weight == 0:
            raise ValueError(
                "'pixel_weight', 'feature_weight' and 'perceptual_weight' are all 0, so there is "
                "nothing to optimise: raise one of them"
            )
        return self


PLUGIN = OptimiseSpec
