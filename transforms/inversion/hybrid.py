"""Inversion by gradient steps from the encoder's code.

See `transforms.inversion.descent`; the learning rate is ramped down only, and the code gets no
noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from generators.protocols import Code, ModelFacts
from schemas.sections.inversion.hybrid import HybridSpec
from transforms.inversion.encoder import encoded, encoded_spaces
from transforms.inversion.method import DESCENT, Cost, Images, InversionMethod, Inverted


class HybridInversion(InversionMethod):
    """Adam from the encoder's code, without noise."""

    section = HybridSpec

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        return encoded_spaces(facts)

    def qualities(self, settings: Any) -> Sequence[str]:
        return DESCENT

    def cost(self, settings: Any) -> Cost:
        return Cost(1, forward_passes=settings.steps + 1, backward_passes=settings.steps)

    def invert(self, images: Images) -> Inverted:
        from transforms.inversion.descent import descend

        start = Code(images.settings.space, encoded(images))
        found = descend(images, start)
        return Inverted(found.code, found.qualities)


PLUGIN = HybridInversion()
