"""Two more pictures of every picture, on which its key areas stand out (Yu and Wang 2021, III.B).

`CentreCrops` is for aligned pictures. The paper prints mu_1 = 0.375 and mu_2 = 0.625 for it, and
uses the same letters for weights of 1, 5 and 9; here they are the parts of the sides that are cut
away, so that the second attention lies within the first, as it is said to be "based on" it. What is
left is enlarged to the picture's own size.

`GradCam` is for others: the first attention is the heat map of a network, the second the picture
with the heat map laid over it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.perceptual.load import PerceptualDistance

CUT = (0.375, 0.625)
"""Parts of each side that the two crops take away."""


class Attention(Protocol):
    """Pictures float32 (n, 3, h, w) in [-1, 1] -> two of the same shape, differentiable."""

    def __call__(self, images: Tensor, constant: bool) -> tuple[Tensor, Tensor]:
        """constant : where the attention lies counts as given: no gradient goes through the
        network that finds it."""


class CentreCrops:
    """The middle of each picture, twice."""

    def __call__(self, images: Tensor, constant: bool = True) -> tuple[Tensor, Tensor]:
        """See `Attention`. Where a crop lies is always given."""
        first, second = (_middle(images, 1.0 - cut) for cut in CUT)
        return first, second


class GradCam:
    """Heat maps by the gradient of a score (Selvaraju et al. 2017), and pictures labelled by them.

    maps : images -> the last convolution's maps (n, c, h, w), none negative
    score : maps -> (n,), such as the logit of the class that a network finds. None, for a network
        without classes: half the squared distance of the maps' means from those of an even grey
        picture, so that heat lies where a picture is most unlike grey. The gradient of that score
        at a map A_c is (mean(A_c) - mean(A_c of grey)) / (h w) at every place, and no backward
        pass is needed.
    """

    def __init__(
        self,
        maps: Callable[[Tensor], Tensor],
        score: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._maps, self._score = maps, score

    @classmethod
    def of(cls, distance: PerceptualDistance) -> GradCam:
        """With the network of a perceptual distance: the project's own, or VGG16 or AlexNet."""
        return cls(lambda images: distance.maps(images)[-1])

    def heat(self, images: Tensor) -> Tensor:
        """Heat maps (n, 1, h, w) from 0, the coldest place, to 1; 0 of pictures without any."""
        maps = self._maps(images)
        if self._score is None:
            with torch.no_grad():
                grey = self._maps(torch.zeros_like(images[:1]))
            weights = maps.mean(dim=(2, 3)) - grey.mean(dim=(2, 3))
        else:
            with torch.enable_grad():
                seen = maps if maps.requires_grad else maps.detach().requires_grad_()
                score = self._score(seen).sum()
                (slope,) = torch.autograd.grad(score, seen, create_graph=maps.requires_grad)
            weights = slope.mean(dim=(2, 3))
        found = F.relu((weights[:, :, None, None] * maps).sum(dim=1, keepdim=True))
        least, most = found.amin(dim=(2, 3), keepdim=True), found.amax(dim=(2, 3), keepdim=True)
        found = (found - least) / (most - least).clamp_min(1e-12)
        return F.interpolate(found, images.shape[-2:], mode="bilinear", align_corners=False)

    def __call__(self, images: Tensor, constant: bool = True) -> tuple[Tensor, Tensor]:
        """See `Attention`."""
        heat = self.heat(images.detach()).detach() if constant else self.heat(images)
        return (2 * heat - 1).expand_as(images), (images + 2 * coloured(heat) - 1) / 2


def coloured(heat: Tensor) -> Tensor:
    """Heat (n, 1, h, w) from 0 to 1 -> colours (n, 3, h, w) from blue over green to red ("jet")."""
    peaks = torch.tensor([3.0, 2.0, 1.0], device=heat.device)[:, None, None]
    return (1.5 - (4 * heat - peaks).abs()).clamp(0, 1)


def _middle(images: Tensor, part: float) -> Tensor:
    """The middle of images, `part` of each side, in their own size."""
    sides = images.shape[-2:]
    kept = [max(1, round(part * side)) for side in sides]
    top, left = ((side - keep) // 2 for side, keep in zip(sides, kept, strict=True))
    crop = images[..., top : top + kept[0], left : left + kept[1]]
    return F.interpolate(crop, sides, mode="bilinear", align_corners=False)
