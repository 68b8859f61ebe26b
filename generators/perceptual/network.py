"""The feature network of the project: five scales of a 64 px picture.

``python -m pipelines.training --only perceptual`` trains it and writes its weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.perceptual.files import SIDE, WIDTHS

POOLED = (2, 4)
"""The maps whose means are a picture's features."""


class FeatureNetwork(nn.Module):
    """Convolutions 3 x 3, each followed by ReLU: one, then a pair (the first halving) each scale.

    Maps float32 (n, 16, 64, 64), (n, 32, 32, 32), (n, 64, 16, 16), (n, 96, 8, 8), (n, 128, 4, 4).
    """

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(3, WIDTHS[0], 3, padding=1)]
        for width, wider in zip(WIDTHS, WIDTHS[1:], strict=False):
            convolutions.append(nn.Conv2d(width, wider, 3, stride=2, padding=1))
            convolutions.append(nn.Conv2d(wider, wider, 3, padding=1))
        self.layers = nn.ModuleList(convolutions)

    def convolutions(self) -> list[nn.Conv2d]:
        """In order."""
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images float32 (n, 3, 64, 64) in [-1, 1] -> what each scale puts out."""
        found, x = [], images
        for k, layer in enumerate(self.layers):
            x = F.relu(layer(x))
            if k % 2 == 0:
                found.append(x)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Features float32 (n, 192), none negative: means over the 16 px map and the 4 px map."""
        maps = self.maps(images)
        return torch.cat([maps[k].mean(dim=(2, 3)) for k in POOLED], dim=1)

    @staticmethod
    def fitted(images: Tensor) -> Tensor:
        """Images of any size at 64 x 64: larger ones averaged over areas, smaller ones between
        pixels."""
        if images.shape[-2:] == (SIDE, SIDE):
            return images
        if min(images.shape[-2:]) >= SIDE:
            return F.interpolate(images, (SIDE, SIDE), mode="area")
        return F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
