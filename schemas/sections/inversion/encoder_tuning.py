"""``invert`` with ``method: encoder_tuning``."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from schemas.sections.inversion.similarity_keys import SimilarityKeys
from schemas.sections.invert import InvertSpec, Needs
from schemas.sections.perceptual import PerceptualSpec
from schemas.sections.types import Integer, Number


class EncoderTuningSpec(SimilarityKeys, InvertSpec):
    """Gradient steps of the encoder's weights, for each image from the trained ones."""

    steps: Integer = Field(
        default=300, ge=1, le=100_000, description="Gradient steps, the same number for each image."
    )
    learning_rate: Number = Field(
        default=0.0015, gt=0, description="Step size of the optimiser (Adam)."
    )
    perceptual_weight: Number = Field(
        default=2.0,
        ge=0,
        description="Weight of the perceptual distance: of 'perceptual', or where that is null of "
        "the project's own network. The default is the paper's for LPIPS by VGG16; LPIPS* is about "
        "8 times as large, and 0.25 gives it the same part in the loss.",
    )
    latent_weight: Number = Field(
        default=0.01,
        ge=0,
        description="Weight of the distance between the picture's code and that of what is drawn "
        "from it.",
    )

    @property
    def needs(self) -> Needs:
        return Needs(encoder=True, gradients=True)

    @property
    def compared_by(self) -> PerceptualSpec | None:
        if self.perceptual is None and (self.perceptual_weight or self.attention == "grad_cam"):
            return PerceptualSpec()
        return self.perceptual

    def brief(self) -> Self:
        return self.model_copy(update={"steps": min(self.steps, 2)})

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        weights = (
            self.pixel_weight,
            self.cosine_weight,
            self.divergence_weight,
            self.structural_weight,
            self.perceptual_weight,
        )
        if not any(weights):
            raise ValueError(
                "'pixel_weight', 'cosine_weight', 'divergence_weight', 'structural_weight' and "
                "'perceptual_weight' are all 0, so there is nothing to optimise: raise one of them"
            )
        return self


PLUGIN = EncoderTuningSpec
