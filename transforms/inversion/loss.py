"""The loss of one row, of a rendered image x and its target t, both float32 in [-1, 1]:

    pixel_weight * mean((x - t)^2) + feature_weight * features(x, t)
        + structural_weight * (1 - SSIM(x, t)) + perceptual_weight * LPIPS(x, t)

``features`` compares image gradients over an average-pooling pyramid (see `feature_distance`): it
is fixed, has no weights and needs no other model, and like a perceptual distance it judges edges
at every scale and not the absolute brightness. The last term is by a network
(`generators.perceptual`). What has no weight is not computed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.similarity.measures import dissimilarity
from transforms.inversion.method import Images

PYRAMID_LEVELS = 4


class RowLosses:
    """Loss of every row of drawn images (n, 3, h, w) -> (n,): see the module text.

    images : the targets, with settings that have the weights. What is compared of them is computed
        once.
    largest : pixels of the height at which larger pictures are compared
    """

    def __init__(self, images: Images, largest: int | None = None) -> None:
        self.settings: Any = images.settings
        self.largest = largest
        target = self.reduced(images.pixels)
        self._pyramid = pyramid(target)
        self._distance = images.perceptual if self.settings.perceptual_weight else None
        if self._distance is not None:
            with torch.no_grad():
                self._maps = self._distance.maps(target)

    def reduced(self, images: Tensor) -> Tensor:
        """Images of the size at which they are compared, each pixel the mean of what it covers."""
        height, width = images.shape[-2:]
        if self.largest is None or height <= self.largest:
            return images
        size = (self.largest, max(1, round(width * self.largest / height)))
        return F.interpolate(images, size, mode="area")

    def __call__(self, drawn: Tensor) -> Tensor:
        settings, pixels = self.settings, self._pyramid[0]
        drawn = self.reduced(drawn)
        loss: Tensor = settings.pixel_weight * (drawn - pixels).square().flatten(1).mean(dim=1)
        if settings.feature_weight:
            distance = _feature_distance(pyramid(drawn), self._pyramid)
            loss = loss + settings.feature_weight * distance
        if settings.structural_weight:
            loss = loss + settings.structural_weight * dissimilarity(drawn, pixels)
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
