"""Inversion by one pass of the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from generators.protocols import Code, ModelFacts
from schemas.sections.inversion.encoder import EncoderSpec
from transforms.inversion.encoding import encoded, encoded_spaces
from transforms.inversion.method import Cost, Images, InversionMethod, Inverted


class EncoderInversion(InversionMethod):
    """The encoder's codes as they are."""

    section = EncoderSpec

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        return encoded_spaces(facts)

    def cost(self, settings: Any) -> Cost:
        return Cost(encoder_passes=1)

    def invert(self, images: Images) -> Inverted:
        return Inverted(Code(images.settings.space, encoded(images)))


PLUGIN = EncoderInversion()
