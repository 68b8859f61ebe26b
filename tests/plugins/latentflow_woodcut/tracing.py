"""An inversion method for linear prints: the code by least squares, in one step."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from generators.protocols import Code
from schemas.sections.invert import InvertSpec
from schemas.sections.types import Number
from transforms.inversion.method import Cost, Images, InversionMethod, Inverted


class TracingSection(InvertSpec):
    """Least squares on the print's arctanh."""

    edge: Number = Field(
        default=0.98, gt=0, lt=1, description="Pixels beyond this are taken for this."
    )


class Tracing(InversionMethod):
    """The code whose print has the picture's pixels, up to what the edge cuts off."""

    section = TracingSection

    def cost(self, settings: Any) -> Cost:
        return Cost(forward_passes=1)

    def invert(self, images: Images) -> Inverted:
        import torch

        press, space = images.generator, images.settings.space
        edge = float(images.settings.edge)
        start = Code(space, press.centre(space).expand(len(images), -1))
        inked = torch.atanh(images.pixels.clamp(-edge, edge)) - torch.atanh(press.draw(start))
        blocks = press.blocks.flatten(1).double()
        return Inverted(start.moved(inked.flatten(1) @ torch.linalg.pinv(blocks).float()))


PLUGIN = Tracing()
