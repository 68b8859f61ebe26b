"""Inversion by gradient steps from the mean code, of the image's class where the model has one.

See `transforms.inversion.descent`.
"""

from __future__ import annotations

from collections.abc import Sequence

from generators.protocols import Code, ModelFacts
from schemas.sections.inversion.optimise import OptimiseSpec
from transforms.inversion.method import DescentMethod, Images, Inverted


class Optimisation(DescentMethod):
    """Steps from the mean code."""

    section = OptimiseSpec
    version = 2  # L-BFGS instead of Adam

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        drawable = super().spaces(facts)
        return tuple(name for name in drawable if facts.space(name).prior != "none")

    def invert(self, images: Images) -> Inverted:
        import torch

        from transforms.inversion.descent import descend

        generator, pixels, space = images.generator, images.pixels, images.settings.space
        centre = generator.centre(space).detach().to(pixels.device, torch.float32)
        start = Code(space, centre.expand(len(pixels), *generator.facts.space(space).shape))
        found = descend(images, start, noise=True)
        return Inverted(found.code, found.qualities)


PLUGIN = Optimisation()
