"""Inversion by gradient steps from the encoder's code.

See `transforms.inversion.descent`; Adam begins at its full rate, and adds no noise to the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from generators.protocols import Code, ModelFacts
from schemas.sections.inversion.hybrid import HybridSpec
from transforms.inversion.encoding import encoded, encoded_spaces
from transforms.inversion.method import Cost, DescentMethod, Images, Inverted


class HybridInversion(DescentMethod):
    """Steps from the encoder's code."""

    section = HybridSpec
    version = 2  # L-BFGS instead of Adam

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        return encoded_spaces(facts)

    def cost(self, settings: Any) -> Cost:
        return replace(super().cost(settings), encoder_passes=1)

    def invert(self, images: Images) -> Inverted:
        from transforms.inversion.descent import descend

        start = Code(images.settings.space, encoded(images))
        found = descend(images, start)
        return Inverted(found.code, found.qualities)


PLUGIN = HybridInversion()
