"""Feed-forward encoder of images into w_plus."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of a `WPlusEncoder`.

    resolution : input width and height in pixels, a power of two from 8.
    channels : feature maps after each halving; the last map is resolution / 2^len(channels) wide.
    features : width of the hidden layer before the heads.
    num_ws, w_dim : the generator's w_plus shape.
    """

    resolution: int = 64
    channels: tuple[int, ...] = (24, 48, 96, 96)
    features: int = 192
    num_ws: int = 10
    w_dim: int = 64

    def architecture(self) -> dict:
        """Canonical description, part of the fingerprint."""
        return {"family": "w_plus_encoder", **asdict(self), "channels": list(self.channels)}


class WPlusEncoder(nn.Module):
    """Strided convolutions, then one linear head for w and one for each layer's offset from it.

    The code of layer l is ``w_avg + w(x) + offset_l(x)`` (Tov et al., e4e, 2021).
    """

    w_avg: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        width = 3
        for k, features in enumerate(config.channels):
            stride_in = features if k else config.channels[0] // 2
            layers += [nn.Conv2d(width, stride_in, 3, padding=1), nn.LeakyReLU(0.2)]
            layers += [nn.Conv2d(stride_in, features, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            width = features
        self.trunk = nn.Sequential(*layers)
        side = config.resolution // 2 ** len(config.channels)
        flat = width * side * side
        self.hidden = nn.Sequential(nn.Linear(flat, config.features), nn.LeakyReLU(0.2))
        self.w_head = nn.Linear(config.features, config.w_dim)
        self.offset_head = nn.Linear(config.features, config.num_ws * config.w_dim)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (n, 3, R, R) in [-1, 1] -> w (n, w_dim), offsets (n, num_ws, w_dim)."""
        x = self.hidden(self.trunk(images).flatten(1))
        w = self.w_avg + self.w_head(x)
        offsets = self.offset_head(x).view(-1, self.config.num_ws, self.config.w_dim)
        return w, offsets

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.config.resolution, self.config.resolution

    def architecture(self) -> dict[str, Any]:
        """See `EncoderConfig.architecture`."""
        return self.config.architecture()

    def encode(self, images: Tensor, space: str = "w_plus") -> Tensor:
        """Codes of images (n, 3, R, R) in [-1, 1]: of w_plus float32 (n, num_ws, w_dim), of w
        without the layers' offsets, (n, w_dim)."""
        w, offsets = self(images)
        return w if space == "w" else w[:, None] + offsets
