"""``invert`` with ``method: vae``."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from schemas.sections.invert import MODEL_FILE, InvertSpec
from schemas.sections.types import Number, SpecPath


class VaeSpec(InvertSpec):
    """One forward pass of a VAE's encoder: the mean, with its log-variance beside it."""

    model: Annotated[SpecPath | None, MODEL_FILE] = Field(
        default=None,
        description="The encoder: the state dict of a VAE whose decoder is the generator, or an "
        "ONNX model in one file, from pictures to mean and log-variance. Must be given.",
    )
    mean: str | None = Field(
        default=None,
        description="Output of an ONNX model that is the mean. Default: its only one, or the first "
        "of two.",
    )
    log_variance: str | None = Field(
        default=None,
        description="Output of an ONNX model that is the logarithm of the variance. Default: the "
        "second of two; without it only the mean is stored.",
    )
    black: Number = Field(default=-1.0, description="Black in the pictures that it takes.")
    white: Number = Field(default=1.0, description="White in the pictures that it takes.")

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        if self.black == self.white:
            raise ValueError(f"'black' and 'white' are both {self.white!r}: give two numbers")
        return self


PLUGIN = VaeSpec
