"""Settings of the specification's generator section for StyleGAN2."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.sections.generator_settings import CHOICE
from schemas.sections.types import Integer, Number, SpecModel


class StyleGAN2Settings(SpecModel):
    """What a StyleGAN2 file may leave open: a state dict alone says neither rate nor clamp."""

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
    num_fp16_res: Annotated[Integer | None, CHOICE] = Field(
        default=None,
        gt=0,
        description="Draw the blocks of so many highest resolutions in float16, as the official "
        "code does on a GPU ('num_fp16_res', 4 in its trainings), from 8 pixels on. The codes and "
        "pictures are those of another generator then. Default: everything in float32.",
    )
