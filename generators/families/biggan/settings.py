"""Settings of the specification's generator section for BigGAN."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.sections.types import Number, SpecModel


class BigGANSettings(SpecModel):
    """What a BigGAN file may leave open."""

    statistics_truncation: Number | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Of a BigGAN whose batch normalisations hold statistics for many truncations "
        "(Hugging Face's biggan-deep): the truncation whose statistics are used. It is part of the "
        "generator, and does not scale codes: truncate the draws likewise ('dataset.truncation' "
        "or 'evaluate.truncation_psi'). Default: what the file states, else 1.",
    )
    bn_eps: Number | None = Field(
        default=None,
        gt=0,
        description="What is added to variances in the blocks' batch normalisations ('--BN_eps' of "
        "BigGAN-PyTorch, 'eps' of Hugging Face's config.json). Default: what the file states, else "
        "1e-5, or 1e-4 for Hugging Face's weights.",
    )
    prior: Literal["normal", "truncated_normal"] | None = Field(
        default=None,
        description="What z is drawn from: 'normal', or 'truncated_normal' between -2 and 2. "
        "Default: 'truncated_normal' for Hugging Face's, 'normal' for BigGAN-PyTorch's weights.",
    )
