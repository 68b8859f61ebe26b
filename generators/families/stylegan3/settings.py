"""Settings of the specification's generator section for StyleGAN3."""

from __future__ import annotations

from pydantic import Field

from schemas.sections.types import Number, SpecModel


class StyleGAN3Settings(SpecModel):
    """What a StyleGAN3 file may leave open: of the official pickles nothing, of a state dict all of
    it. What tells configuration T from R is seen in the tensors."""

    lr_multiplier: Number | None = Field(
        default=None,
        gt=0,
        description="Learning-rate multiplier of the mapping layers ('mapping_kwargs' of the "
        "official code), which scales their weights. Default: what the file states, else 0.01.",
    )
    conv_clamp: Number | None = Field(
        default=None,
        gt=0,
        description="Clamp of the layers' activations. Default: what the file states, else 256.",
    )
    output_scale: Number | None = Field(
        default=None,
        gt=0,
        description="Factor of the drawn values. Default: what the file states, else 0.25.",
    )
    bandwidth: Number | None = Field(
        default=None,
        gt=0,
        description="Bandwidth of the Fourier features ('first_cutoff' of the official code), in "
        "cycles a picture's width. Default: what the file states, else 2.",
    )
    sampling_rate: Number | None = Field(
        default=None,
        gt=0,
        description="Sampling rate of the Fourier features, in samples a picture's width: the "
        "first layer's width less twice 'margin_size' of the official code. Default: what the file "
        "states, else for a margin of 10.",
    )
