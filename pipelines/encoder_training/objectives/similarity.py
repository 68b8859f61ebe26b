"""The loss of the diverse similarity encoder (Yu and Wang 2021): `generators.similarity`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from generators.protocols import GRADIENTS
from pipelines.encoder_training.objectives.base import Batch, Loss, Task
from schemas.errors import UsageError
from schemas.sections.inversion.similarity_keys import SimilarityKeys
from schemas.sections.perceptual import OWN
from schemas.sections.types import Number

if TYPE_CHECKING:
    from torch import Tensor


class SimilaritySettings(SimilarityKeys):
    """With the weights of the project's own network and of codes."""

    perceptual_weight: Number = Field(
        default=2.0,
        ge=0,
        description="Weight of LPIPS*, by the project's own network. The default is the paper's "
        "for LPIPS by VGG16; LPIPS* is about 8 times as large, and 0.25 gives it the same part.",
    )
    latent_weight: Number = Field(
        default=0.01,
        ge=0,
        description="Weight of the distance between the known code and that of what is drawn from "
        "the code found.",
    )


class Similarity:
    """Algorithm 1 of the paper."""

    settings = SimilaritySettings

    def loss(self, settings: SimilaritySettings, task: Task) -> Loss:
        """The loss with these weights."""
        import torch

        from generators.perceptual.load import load_perceptual
        from generators.similarity.objective import DiverseSimilarity

        if GRADIENTS not in task.facts.capabilities:
            raise UsageError(
                f"'train_encoder.objective' is 'similarity', which needs gradients of what this "
                f"{task.facts.family} generator draws, and it has none: use 'reconstruction'"
            )
        perceptual = None
        if settings.perceptual_weight or settings.attention == "grad_cam":
            perceptual = load_perceptual(OWN, device=task.device)
        objective = DiverseSimilarity.of_settings(settings, perceptual)

        def terms(batch: Batch) -> dict[str, Tensor]:
            images, known = batch.images, len(batch.codes)
            found = batch.encode(images)
            drawn = batch.draw(found)
            told = {"images": objective.between_images(images, drawn)}
            if settings.latent_weight:
                again = batch.encode(drawn)
                wanted = torch.cat([batch.codes, found[known:]])
                distance = objective.between_codes(wanted, again)
                told["codes"] = settings.latent_weight * distance
            return told

        return terms


PLUGIN = Similarity()
