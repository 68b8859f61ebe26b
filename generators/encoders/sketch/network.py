"""The lines of a picture, and an encoder that sees these alone."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LUMA = (0.299, 0.587, 0.114)
WHITE, BLACK = 1.0, -1.0


def lines_of(images: Tensor, width: float = 1 / 32, darkness: float = 0.1) -> Tensor:
    """Black lines on white, float32 of the shape of the images, each value -1 or 1.

    images : (n, 3, height, width) in [-1, 1]

    The "colour dodge" of a pencil filter, grey / blurred grey, made binary: a pixel is of a line
    where it is darker than what lies around it by more than the share `darkness`. `width` is the
    deviation of the Gaussian blur as part of the shorter side. A drawing in lines thinner than that
    is what it was; one that is white on black is turned first (more than half of it is dark).
    """
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype)
    grey = ((images + 1) / 2 * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    drawing = ((grey < 0.1) | (grey > 0.9)).flatten(1).float().mean(dim=1) > 0.9
    inverted = drawing & ((grey < 0.5).flatten(1).float().mean(dim=1) > 0.5)
    grey = torch.where(inverted.view(-1, 1, 1, 1), 1 - grey, grey)
    around = blurred(grey, width * min(images.shape[-2:]))
    lines = grey < (1 - darkness) * around - 1e-3
    solid = drawing.view(-1, 1, 1, 1) & (grey < 0.5)
    return torch.where(lines | solid, BLACK, WHITE).expand(-1, 3, -1, -1).to(images.dtype)


def blurred(grey: Tensor, deviation: float) -> Tensor:
    """Gaussian blur of (n, 1, height, width), edges repeated."""
    reach = max(1, math.ceil(3 * deviation))
    at = torch.arange(-reach, reach + 1, device=grey.device, dtype=grey.dtype)
    kernel = torch.exp(-0.5 * (at / deviation) ** 2)
    kernel = kernel / kernel.sum()
    wide = F.pad(grey, (reach, reach, reach, reach), mode="replicate")
    across = F.conv2d(wide, kernel.view(1, 1, 1, -1))
    return F.conv2d(across, kernel.view(1, 1, -1, 1))


class SketchEncoder(nn.Module):
    """See `generators.encoders.base.EncoderNetwork`. network : is shown `lines_of` the images."""

    def __init__(self, network: Any, width: float, darkness: float) -> None:
        super().__init__()
        self.network = network
        self.width, self.darkness = width, darkness
        self.classes = int(getattr(network, "classes", 0))

    @property
    def size(self) -> tuple[int, int] | None:
        """Of the encoder inside."""
        size: tuple[int, int] | None = self.network.size
        return size

    def architecture(self) -> dict[str, Any]:
        """With that of the encoder inside."""
        lines = {"width": self.width, "darkness": self.darkness}
        return {"family": "sketch", "network": self.network.architecture(), **lines}

    def encode(self, images: Tensor, space: str, *labels: Any) -> Tensor:
        """Codes of the lines of images (n, 3, *size) in [-1, 1]."""
        seen = lines_of(images, self.width, self.darkness)
        codes: Tensor = self.network.encode(seen, space, *labels)
        return codes
