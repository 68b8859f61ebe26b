"""The loss of one row, of a rendered image x and its target t, both float32 in [-1, 1]:

    pixel_weight * mean((x - t)^2) + feature_weight * features(x, t)
        + perceptual_weight * LPIPS(x, t)

``features`` compares image gradients over an average-pooling pyramid (see `feature_distance`): it
is fixed, has no weights and needs no other model, and like a perceptual distance it judges edges
at every scale and not the absolute brightness. The last term is by a network
(`generators.perceptual`), and only where its weight is set.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.inversion.method import Images

PYRAMID_LEVELS = 4


class RowLosses:
    """Loss of every row of drawn images (n, 3, h, w) -> (n,): see the module text.

    images : the targets, with settings that have ``pixel_weight``, ``feature_weight`` and
        ``perceptual_weight``. What is compared of them is computed once.
    """

    def __init__(self, images: Images) -> None:
        self.settings: Any = images.settings
        self._pyramid = pyramid(images.pixels)
        self._distance = images.perceptual if self.settings.perceptual_weight else None
        if self._distance is not None:
            with torch.no_grad():
                self._maps = self._distance.maps(images.pixels)

    def __call__(self, drawn: Tensor) -> Tensor:
        settings, pixels = self.settings, self._pyramid[0]
        loss: Tensor = settings.pixel_weight * (drawn - pixels).square().flatten(1).mean(dim=1)
        if settings.feature_weight:
            distance = _feature_distance(pyramid(drawn), self._pyramid)
            loss = loss + settings.feature_weight * distance
        if self._distance is not None:
            distance = self._distance.between_maps(self._distance.maps(drawn), self._maps)
            loss = loss + settings.perceptual_weight * distance
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
