"""Pictures as the encoders of the pSp framework take them.

size : (height, width). Of square pictures an encoder of wider ones takes the middle rows, for the
others are empty: generators of cars draw squares with bands above and below.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (n, 3, h, w) at the size; those that have it already as they are."""
    images = _cut(images, size)
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def shrunk(drawn: Tensor, size: tuple[int, int]) -> Tensor:
    """What a generator draws, (n, 3, h, w), at the size: means of its pixels."""
    drawn = _cut(drawn, size)
    if not (size[0] % drawn.shape[-2] or size[1] % drawn.shape[-1]):
        return F.interpolate(drawn, size)  # a pixel is its own mean: the same, much faster
    return F.adaptive_avg_pool2d(drawn, size)


def _cut(images: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    tall, kept = images.shape[-2], round(images.shape[-1] * height / width)
    top = (tall - kept) // 2
    return images[..., top : top + kept, :] if kept < tall else images
