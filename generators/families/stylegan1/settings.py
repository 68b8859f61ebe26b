"""Settings of the specification's generator section for StyleGAN."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.sections.types import Number, SpecModel


class StyleGAN1Settings(SpecModel):
    """What a PyTorch conversion of a StyleGAN may leave open; TensorFlow pickles state all."""

    lr_multiplier: Number | None = Field(
        default=None,
        gt=0,
        description="Learning-rate multiplier of the mapping layers ('mapping_lrmul' of the "
        "official code), which scales their weights. Default: what the file states, else 0.01.",
    )
    fused_scale: bool | Literal["auto"] | None = Field(
        default=None,
        description="Upsampling by a transposed convolution (true), by repeated pixels and a "
        "convolution (false), or by the first from 128 px on ('auto'), as the generator was "
        "trained. Default: what the file states, else 'auto'.",
    )
    output_activation: Literal["linear", "tanh"] | None = Field(
        default=None,
        description="What the picture goes through: 'linear', or 'tanh' ('final_tanh' of "
        "GenForce). Default: what the file states, else 'linear'.",
    )
