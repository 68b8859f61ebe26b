"""Keys of the diverse similarity of pictures and codes (Yu and Wang 2021), by default the paper's,
wherever it is a loss; see `generators.similarity.objective`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.sections.types import Number, SpecModel


class SimilarityKeys(SpecModel):
    """Weights of the distances that need no network, and what more is compared of pictures."""

    pixel_weight: Number = Field(
        default=5.0, ge=0, description="Weight of the mean squared error, of pixels and of codes."
    )
    cosine_weight: Number = Field(
        default=3.0, ge=0, description="Weight of 1 - cosine, of pictures and of codes."
    )
    divergence_weight: Number = Field(
        default=1.0,
        ge=0,
        description="Weight of the Kullback-Leibler divergence of the softmax, of pictures and of "
        "codes.",
    )
    structural_weight: Number = Field(default=1.0, ge=0, description="Weight of 1 - SSIM.")
    attention: Literal["none", "centre", "grad_cam"] = Field(
        default="centre",
        description="Further pictures that are compared: two crops of the centre, for aligned "
        "pictures; or the heat map of the perceptual network and the picture labelled by it.",
    )
    strategy: Literal[1, 2] = Field(
        default=1,
        description="1: attentions weigh 1 and 1, and where they lie is taken as given. 2: they "
        "weigh 5 and 9, and gradients go through the network that finds them.",
    )
