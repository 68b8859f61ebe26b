"""``invert`` with ``method: hyperstyle``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.sections.invert import MODEL_FILE, InvertSpec, Needs
from schemas.sections.types import Integer, SpecPath


class HyperstyleSpec(InvertSpec):
    """The encoder's code, and changes of the generator's weights by a hypernetwork."""

    hypernetwork: Annotated[SpecPath | None, MODEL_FILE] = Field(
        default=None,
        description="A checkpoint of HyperStyle, made for the generator. Must be given; 'encoder' "
        "is the encoder into w that it was trained with.",
    )
    passes: Integer = Field(
        default=5, ge=1, le=1000, description="Passes of the hypernetwork, the same for each image."
    )

    @property
    def needs(self) -> Needs:
        return Needs(encoder=True)


PLUGIN = HyperstyleSpec
