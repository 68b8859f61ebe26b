"""Inversion by several passes of an encoder (Alaluf et al. 2021, ReStyle).

Each pass is shown the image beside what the last code draws, and moves that code; the first begins
at the mean code and its drawing.

An encoder that is shown images alone gives its code in the first pass. Each further one moves it by
half of how far the code of what it draws lies from the image's: ``code + (E(image) - E(G(code))) /
2``. Whole steps, and more than two or three of half, lead away from the image again in most rows,
so that the best pass is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from generators.protocols import Code, ModelFacts
from schemas.sections.inversion.refine import RefineSpec
from transforms.inversion.encoding import (
    drawn_mean,
    encode,
    encoded,
    encoded_spaces,
    mean_code,
    refined,
    refines,
)
from transforms.inversion.method import DESCENT, Cost, Images, InversionMethod, Inverted, render

if TYPE_CHECKING:
    from torch import Tensor

STEP = 0.5


class Refinement(InversionMethod):
    """The code of each row's best pass, or of the last."""

    section = RefineSpec

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        return encoded_spaces(facts)

    def cost(self, settings: Any) -> Cost:
        return Cost(encoder_passes=settings.passes, forward_passes=settings.passes + 1)

    def qualities(self, settings: Any) -> Sequence[str]:
        """Mean squared error, of pixels in [-1, 1], of what the mean code draws and of what the
        kept one does, and the passes that led to that."""
        return DESCENT

    def invert(self, images: Images) -> Inverted:
        import torch

        from generators.similarity.measures import mean_squared

        settings = images.settings
        code = mean_code(images)
        drawn = drawn_mean(images, code)
        start = mean_squared(drawn, images.pixels)
        of_images = None if refines(images.encoder) else encoded(images)
        kept, loss = torch.full_like(code.main, torch.nan), torch.full_like(start, torch.inf)
        steps = torch.zeros_like(start)
        for number in range(1, settings.passes + 1):
            code = _next(images, code, drawn, of_images, number)
            drawn = render(images.generator, code, settings.noise_mode)
            now = mean_squared(drawn, images.pixels)
            taken = torch.ones_like(now, dtype=torch.bool)
            if settings.keep == "best":
                taken = now < loss  # False where it is not a number
            kept = torch.where(taken.view(-1, *[1] * (kept.ndim - 1)), code.main, kept)
            loss, steps = torch.where(taken, now, loss), steps.masked_fill(taken, number)
        return Inverted(code.moved(kept), {"loss_start": start, "loss_end": loss, "steps": steps})


def _next(images: Images, code: Code, drawn: Tensor, of_images: Tensor | None, number: int) -> Code:
    """The code after a pass. of_images : the codes of an encoder that is shown images alone."""
    import torch

    encoder = images.encoder
    if refines(encoder):
        return refined(images, encoder, code, drawn)
    if of_images is None or encoder is None:
        raise ValueError("codes of the images are missing")
    if number == 1:
        return code.moved(of_images)
    with torch.no_grad():
        again = encode(drawn, encoder, code.space, tuple(code.main.shape[1:]), images.labels)
    return code.moved(code.main + STEP * (of_images - again))


PLUGIN = Refinement()
