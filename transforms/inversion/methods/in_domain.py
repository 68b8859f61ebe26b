"""Inversion by gradient steps from the encoder's code that stay where the encoder finds them again.

In-domain inversion (Zhu et al. 2020, eq. 4): beside the loss of the image, each row's has

    encoder_weight * mean((E(G(code)) - code)^2)

A code that only matches its image's pixels draws a picture in which the encoder sees another code;
the term holds it where pictures and codes belong together, and edits work. As the authors' program:
the mean over all coordinates, Adam, the gradient through generator and encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from generators.protocols import Code, ModelFacts
from schemas.errors import UsageError
from schemas.sections.inversion.in_domain import InDomainSpec
from transforms.inversion.encoding import encode, encoded, encoded_spaces
from transforms.inversion.method import Cost, DescentMethod, Images, Inverted

if TYPE_CHECKING:
    from torch import Tensor


class InDomainInversion(DescentMethod):
    """Adam from the encoder's code, with the distance to what the encoder makes of the drawing."""

    section = InDomainSpec

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        return encoded_spaces(facts)

    def cost(self, settings: Any) -> Cost:
        steps = super().cost(settings)
        return replace(steps, encoder_passes=1 + settings.starts * (settings.steps + 1))

    def invert(self, images: Images) -> Inverted:
        from transforms.inversion.descent import descend

        settings, encoder = images.settings, images.encoder
        if encoder is None:
            raise UsageError("this method needs an encoder: name one under 'encoder'")
        start = Code(settings.space, encoded(images))
        shape = tuple(start.main.shape[1:])

        def outside(code: Code, drawn: Tensor) -> Tensor:
            again = encode(drawn, encoder, settings.space, shape, images.labels)
            return settings.encoder_weight * (again - code.main).square().flatten(1).mean(dim=1)

        extra = outside if settings.encoder_weight else None
        found = descend(images, start, extra=extra)
        return Inverted(found.code, found.qualities)


PLUGIN = InDomainInversion()
