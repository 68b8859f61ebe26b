"""Progressive GAN generator as torch modules.

Karras et al., "Progressive Growing of GANs for Improved Quality, Stability, and Variation" (2018),
table 2 and section 4: upsampling by repeated pixels, 3 x 3 convolutions, leaky ReLU, and after it
every pixel scaled to mean square 1 over its channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.families.pggan.config import PGGANConfig


def normalized(x: Tensor, epsilon: float) -> Tensor:
    """x, (n, channels, ...), scaled to mean square 1 over the channels."""
    return x * (x.square().mean(dim=1, keepdim=True) + epsilon).rsqrt()


def repeated(x: Tensor, times: int) -> Tensor:
    """x, (n, channels, h, w), with every pixel repeated in both directions."""
    return F.interpolate(x, scale_factor=times, mode="nearest") if times > 1 else x


class Layer(nn.Module):
    """A linear map of the input or a 3 x 3 convolution, leaky ReLU and, where the model has it,
    normalisation of every pixel.

    up : the input's pixels are repeated so often.
    """

    def __init__(
        self, config: PGGANConfig, shape: tuple[int, ...], bias: tuple[int, ...], up: int = 1
    ) -> None:
        super().__init__()
        self.config = config
        self.up = up
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(bias))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) or (n, in, h, w) -> (n, out, up h, up w)."""
        if x.ndim == 2:
            x = F.linear(x, self.weight, self.bias).unflatten(1, (-1, 4, 4))
        else:
            x = F.conv2d(repeated(x, self.up), self.weight, self.bias, padding=1)
        x = F.leaky_relu(x, self.config.slope)
        return normalized(x, self.config.epsilon) if self.config.pixel_norm else x


class Block(nn.Module):
    """The layers of one side, in their order. Its layer to a picture, ``torgb``, is not of them:
    not every block has one."""

    def __init__(self, layers: dict[str, Layer]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """What the last layer puts out."""
        for name in self.layers:
            x = self.get_submodule(name)(x)
        return x


class PGGAN(nn.Module):
    """Codes and labels to images. Modules are named as the tensors: ``b8.conv0``, ``b8.torgb``."""

    def __init__(self, config: PGGANConfig) -> None:
        super().__init__()
        self.config = config
        shapes = config.tensor_shapes()
        for side, channels in zip(config.sides, config.channels, strict=True):
            layers = {}
            for layer in ("dense", "conv", "conv0", "conv1"):
                name = f"b{side}.{layer}"
                if name in config.feature_shapes:
                    sizes = shapes[f"{name}.weight"], shapes[f"{name}.bias"]
                    layers[layer] = Layer(config, *sizes, up=2 if layer == "conv0" else 1)
            block = Block(layers)
            if f"b{side}.torgb.weight" in shapes:
                block.add_module("torgb", nn.Conv2d(channels, config.img_channels, 1))
            self.add_module(f"b{side}", block)

    def forward(self, z: Tensor, weights: Tensor | None = None) -> Tensor:
        """z (n, z_dim) and weights of the classes (n, classes), None of a model without, to images
        (n, img_channels, resolution, resolution)."""
        config = self.config
        x = z if weights is None else torch.cat([z, self._labels(weights)], dim=1)
        if config.normalize_input:
            x = normalized(x, config.epsilon)
        smaller = x
        for side in config.sides:
            smaller, x = x, self.get_submodule(f"b{side}")(x)
        image: Tensor = self.get_submodule(f"b{config.sides[-1]}.torgb")(x)
        if config.blend:
            half = self.get_submodule(f"b{config.sides[-2]}.torgb")(smaller)
            image = image.lerp(repeated(half, 2), config.blend)
        if config.output_activation == "tanh":
            image = image.tanh()
        return repeated(image, config.upscale)

    def _labels(self, weights: Tensor) -> Tensor:
        """Weights of each label's values, one label after the other, (n, sum of label_sizes)."""
        sizes = self.config.label_sizes
        joint = weights.reshape(-1, *sizes)
        rows = [joint.movedim(axis, 1).flatten(1) for axis in range(1, joint.ndim)]
        parts = [row.unflatten(1, (n, -1)).sum(dim=2) for row, n in zip(rows, sizes, strict=True)]
        return torch.cat(parts, dim=1)
