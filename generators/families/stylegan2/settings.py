"""Settings of the specification's generator section for StyleGAN2."""

from __future__ import annotations

from pydantic import Field

from schemas.sections.types import Number, SpecModel


class StyleGAN2Settings(SpecModel):
    """What a StyleGAN2 file may leave open. A state dict alone says neither."""

    lr_multiplier: Number | None = Field(
        default=None,
        gt=0,
        description="Learning-rate multiplier of the mapping layers ('mapping_kwargs' of the "
        "official code, 'lr_mlp' of rosinality's), which scales their weights. Default: what the "
        "file states, else 0.01.",
    )
    conv_clamp: Number | None = Field(
        default=None,
        gt=0,
        description="Clamp of the layers' activations ('conv_clamp' of the official code, 256 in "
        "many of its trainings). Default: what the file states, else none.",
    )
