"""R3GAN generator as torch modules.

Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline" (2024), configuration E:
a learned basis of 4 x 4 maps weighted by a linear function of z (and of the embedded label),
residual blocks with a grouped convolution each, enlargement between them, and a linear readout.
Nothing is normalised, and there is no noise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.families.r3gan.config import BASE, R3GANConfig, Stage

#: Slope of the leaky ReLU for negative numbers; no gain follows it.
SLOPE = 0.2


def parameter(*shape: int) -> nn.Parameter:
    """One to be loaded."""
    return nn.Parameter(torch.empty(shape))


class Basis(nn.Module):
    """(n, z_dim + embed_features) -> (n, channels, 4, 4): each map times its weight."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.maps = parameter(channels, BASE, BASE)
        self.weight = parameter(channels, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps * F.linear(x, self.weight)[:, :, None, None]


class Enlargement(nn.Module):
    """(n, in, h, w) -> (n, channels, 2 h, 2 w).

    A linear map of the channels where their number changes; then zeros between the pixels, and the
    filter (a convolution, not a correlation) with the gain 4, zeros outside.
    """

    filter: Tensor

    def __init__(self, inputs: int, channels: int, filter_size: int) -> None:
        super().__init__()
        self.weight = parameter(channels, inputs, 1, 1) if inputs != channels else None
        self.register_buffer("filter", torch.empty(filter_size, filter_size))
        self.before = (filter_size - 2) // 2

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is not None:
            x = F.conv2d(x, self.weight)
        n, k, h, w = x.shape
        maps = x.reshape(n * k, 1, h, w)
        y = F.conv_transpose2d(maps, 4.0 * self.filter[None, None], stride=2, padding=self.before)
        return y[:, :, : 2 * h, : 2 * w].reshape(n, k, 2 * h, 2 * w)


class Convolution(nn.Module):
    """Convolution to as high and wide maps, then bias and leaky ReLU where `biased`."""

    def __init__(
        self, inputs: int, channels: int, kernel: int = 1, groups: int = 1, biased: bool = True
    ) -> None:
        super().__init__()
        self.groups, self.padding = groups, kernel // 2
        self.weight = parameter(channels, inputs // groups, kernel, kernel)
        self.bias = parameter(channels) if biased else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.weight, self.bias, padding=self.padding, groups=self.groups)
        return y if self.bias is None else F.leaky_relu(y, SLOPE)


class Block(nn.Module):
    """Residual block: widened, grouped convolution, narrowed."""

    def __init__(self, stage: Stage, kernel: int) -> None:
        super().__init__()
        n, wide = stage.channels, stage.expanded
        self.conv0 = Convolution(n, wide)
        self.conv1 = Convolution(wide, wide, kernel, stage.groups)
        self.conv2 = Convolution(wide, n, biased=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(self.conv0(x)))


class R3GAN(nn.Module):
    """z (n, z_dim) and weights of labels (n, c_dim) to pictures (n, img_channels, size, size)."""

    def __init__(self, config: R3GANConfig) -> None:
        super().__init__()
        self.config = config
        if config.c_dim:
            self.embed = nn.Linear(config.c_dim, config.embed_features, bias=False)
        previous = 0
        for side, stage in zip(config.resolutions, config.stages, strict=True):
            layers = nn.ModuleDict()
            if side == BASE:
                layers["basis"] = Basis(config.z_dim + config.embed_features, stage.channels)
            else:
                layers["up"] = Enlargement(previous, stage.channels, config.filter_size)
            for j in range(stage.blocks):
                layers[f"block{j}"] = Block(stage, config.kernel_size)
            self.add_module(f"b{side}", layers)
            previous = stage.channels
        self.torgb = Convolution(previous, config.img_channels, biased=False)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = z if labels is None else torch.cat([z, self.embed(labels)], dim=1)
        for name in self.config.feature_shapes:
            x = self.get_submodule(name)(x)
        return self.torgb(x)
