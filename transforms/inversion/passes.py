"""Passes of an encoder that is shown what its last code draws (Alaluf et al. 2021, ReStyle)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from generators.protocols import Code, RefiningEncoder
from transforms.inversion.method import Images, render

if TYPE_CHECKING:
    from torch import Tensor


def refines(encoder: Any) -> TypeGuard[RefiningEncoder]:
    """Whether an encoder is shown what its last code draws."""
    return hasattr(encoder, "refine")


def as_taken(images: Tensor, encoder: Any) -> Tensor:
    """Images (n, 3, h, w), resized to the encoder's own size where it has one."""
    import torch.nn.functional as F

    size = encoder.size
    if size is None or size == tuple(images.shape[-2:]):
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def mean_code(images: Images) -> Code:
    """The code of every row from which the first pass begins: the mean that the encoder was trained
    from, where it has one, else the generator's."""
    import torch

    space = images.generator.facts.space(images.settings.space)
    mean = images.encoder.mean if refines(images.encoder) else None
    if mean is None:
        mean = images.generator.centre(space.name)
    mean = mean.detach().to(images.pixels.device, torch.float32)
    return Code(space.name, mean.expand(len(images), *space.shape).contiguous())


def drawn_mean(images: Images, code: Code) -> Tensor:
    """What `mean_code` draws, (n, 3, height, width); of a model without classes drawn once."""
    noise, n = images.settings.noise_mode, len(images)
    if images.generator.facts.classes:
        return render(images.generator, code, noise)
    return render(images.generator, code[:1], noise).expand(n, -1, -1, -1)


def refined(images: Images, encoder: RefiningEncoder, code: Code, drawn: Tensor) -> Code:
    """The encoder's next code of the images, without gradient."""
    import torch

    with torch.no_grad():
        return encoder.refine(as_taken(images.pixels, encoder), drawn, code)
