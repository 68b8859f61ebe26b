"""The loss of one row, of a rendered image x and its target t, both float32 in [-1, 1]:

    pixel_weight * mean((x - t)^2) + feature_weight * features(x, t)

``features`` compares image gradients over an average-pooling pyramid (see `feature_distance`): it
is fixed, has no weights and needs no other model, and like a perceptual distance it judges edges
at every scale and not the absolute brightness.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PYRAMID_LEVELS = 4


def row_losses(drawn: Tensor, target: list[Tensor], settings: Any) -> Tensor:
    """Loss of every row, (n,): see the module text.

    target : `pyramid` of the images. settings : ``pixel_weight`` and ``feature_weight``
    """
    loss: Tensor = settings.pixel_weight * (drawn - target[0]).square().flatten(1).mean(dim=1)
    if settings.feature_weight:
        loss = loss + settings.feature_weight * _feature_distance(pyramid(drawn), target)
    return loss


def feature_distance(a: Tensor, b: Tensor) -> Tensor:
    """Gradient pyramid distance of images (n, c, h, w) in [-1, 1] -> (n,).

    Mean over up to 4 levels (each half the size of the one before, by average pooling, down to
    4 pixels) of the mean squared difference of forward differences along x and y. At level k the
    differences span 2^k pixels, so levels weigh alike.
    """
    return _feature_distance(pyramid(a), pyramid(b))


def pyramid(images: Tensor) -> list[Tensor]:
    """The images, and up to 3 halvings of them, of 4 pixels at least."""
    levels = [images]
    while len(levels) < PYRAMID_LEVELS and min(levels[-1].shape[-2:]) >= 8:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _feature_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    total = torch.zeros(len(a[0]), device=a[0].device)
    for x, y in zip(a, b, strict=True):
        d = x - y  # differences are linear, so the gradient of d is the gradients' difference
        dx = (d[..., :, 1:] - d[..., :, :-1]).square().flatten(1).mean(dim=1)
        dy = (d[..., 1:, :] - d[..., :-1, :]).square().flatten(1).mean(dim=1)
        total = total + dx + dy
    return total / len(a)
