"""Settings of the specification's generator section for Progressive GAN."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.sections.types import Number, SpecModel


class PGGANSettings(SpecModel):
    """What a state dict alone may leave open; official pickles and checkpoints of
    pytorch_GAN_zoo with their configuration state it."""

    slope: Number | None = Field(
        default=None,
        ge=0,
        description="Slope of the leaky ReLU below 0 ('leakyness' of pytorch_GAN_zoo). Default: "
        "what the file states, else 0.2.",
    )
    output_activation: Literal["linear", "tanh"] | None = Field(
        default=None,
        description="What the picture goes through: 'linear', or 'tanh' ('final_tanh' of GenForce; "
        "losses MSE and DCGAN of pytorch_GAN_zoo). Default: what the file states, else 'linear'.",
    )
    fused_scale: bool | None = Field(
        default=None,
        description="Whether GenForce's code upsampled by transposed convolutions (true) or by "
        "repeated pixels and a convolution (false), as the generator was trained. Default: what "
        "the file states, by its names or by blocks of unequal widths, else false.",
    )
