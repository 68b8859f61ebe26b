"""Images as the originals, and codes as those that the originals were drawn from.

    pixel_weight * mean((x - t)^2) / p + feature_weight * features(x, t) / q
        + perceptual_weight * LPIPS*(x, t) + latent_weight * mean(((w - v) / deviation)^2)
        + mean_weight * mean(((w - mean) / deviation)^2)

of a drawn image x and its original t, the code w that the encoder finds and the known one v;
``features`` are image gradients at several scales (`transforms.inversion.loss`). With p and q, what
these distances are between the generator's images and their mean, a term is about 1 where nothing
is learnt yet, whatever the generator. One without gradients is learnt from the codes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from generators.protocols import GRADIENTS
from pipelines.encoder_training.objectives.base import Batch, Loss, Task
from schemas.errors import UsageError
from schemas.sections.perceptual import OWN
from schemas.sections.types import Number, SpecModel

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-6
"""Spread of images that hardly differ."""


class ReconstructionSettings(SpecModel):
    """Weights of the terms."""

    pixel_weight: Number = Field(
        default=1.0, ge=0, description="Weight of the mean squared error of the pixels."
    )
    feature_weight: Number = Field(
        default=1.0, ge=0, description="Weight of the error of image gradients at several scales."
    )
    perceptual_weight: Number = Field(
        default=0.0, ge=0, description="Weight of LPIPS*, by the project's own network."
    )
    latent_weight: Number = Field(
        default=1.0,
        ge=0,
        description="Weight of the mean squared error of the codes, in their standard deviations.",
    )
    mean_weight: Number = Field(
        default=0.0,
        ge=0,
        description="Weight of the mean squared distance of the codes from the mean code, in their "
        "standard deviations: keeps codes of pictures that tell little near it.",
    )

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if not any(v for k, v in dict(self).items() if k != "mean_weight"):
            raise ValueError(
                "all weights of errors are 0, so there is nothing to learn: raise one of them"
            )
        return self


class Reconstruction:
    """See the module text."""

    settings = ReconstructionSettings

    def loss(self, settings: ReconstructionSettings, task: Task) -> Loss:
        """The loss with these weights."""
        from generators.perceptual.load import load_perceptual
        from generators.similarity.measures import mean_squared
        from transforms.inversion.loss import feature_distance

        drawable = GRADIENTS in task.facts.capabilities
        if not drawable and not settings.latent_weight:
            raise UsageError(
                f"this {task.facts.family} generator has no gradients, so an encoder learns from "
                "its codes alone: set 'train_encoder.objective.latent_weight' above 0"
            )
        mean = task.images.mean(dim=0, keepdim=True)
        pixels = (task.images - mean).square().mean().clamp_min(LEAST)
        features = feature_distance(task.images, mean.expand_as(task.images)).mean()
        features = features.clamp_min(LEAST)
        perceptual = (
            load_perceptual(OWN, device=task.device) if settings.perceptual_weight else None
        )

        def terms(batch: Batch) -> dict[str, Tensor]:
            found, images = batch.encode(batch.images), batch.images
            told: dict[str, Tensor] = {}
            if drawable:
                drawn = batch.draw(found)
                if settings.pixel_weight:
                    error = mean_squared(drawn, images)
                    told["pixels"] = settings.pixel_weight * error / pixels
                if settings.feature_weight:
                    distance = feature_distance(drawn, images)
                    told["features"] = settings.feature_weight * distance / features
                if perceptual is not None:
                    distance = perceptual.between(images, drawn)
                    told["perceptual"] = settings.perceptual_weight * distance
            if settings.latent_weight:
                error = images.new_zeros(len(images))
                known = len(batch.codes)
                apart = (found[:known] - batch.codes) / task.deviation
                error[:known] = apart.square().flatten(1).mean(dim=1)
                told["codes"] = settings.latent_weight * error
            if settings.mean_weight:
                away = ((found - task.centre) / task.deviation).square().flatten(1).mean(dim=1)
                told["mean"] = settings.mean_weight * away
            return told

        return terms


PLUGIN = Reconstruction()
