"""The diverse similarity encoder as torch modules (Yu and Wang 2021, section III.C, Tables I, II).

A block is the mirror of a generator's: two times (normalisation, convolution 3 x 3, noise, leaky
ReLU), the images halved after the second, and a bypass around both. The last block has the first
half alone. Weights have unit scale and are multiplied by 1 / sqrt(inputs), Xavier's for as many
outputs as inputs, when used.

What the paper leaves open is settled thus:

- FC(2 C, width), which tells a layer's code, takes the means and standard deviations of the C maps
  that the instance normalisation beside it takes away, as ALAE and the authors' code do. The first
  one, at full resolution, tells the finest layer: the column "Res." of the tables counts the
  generator's blocks, not the encoder's.
- z_n' is a weight for each channel of a noise image. The image is fixed, as the generator's is: an
  encoder that draws it anew gives two codes of one picture.
- x and its bypass are added with equal shares, (x + bypass) / sqrt 2.
- "FC(1024 x 4 x 4, 512)" of PGGAN stands beside a last block of 512 channels: it takes 512 x 4 x 4.
- BigGAN's conditional normalisation is given the label's vector. In the authors' code it is given
  the generator's whole input, with the z that is to be found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.encoders.dse.config import DSEConfig
from generators.encoders.networks import ShapedEncoder
from generators.equalised import FullyConnectedLayer
from generators.labelled import label_weights
from generators.protocols import Labels

EPSILON = 1e-8
SQRT_HALF = math.sqrt(0.5)
CONDITION = 128
"""Width of a label's vector within the encoder."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the encoder tells of n images.

    code : float32 (n, *shape of the space)
    constant : z_c', what the last block puts out, float32 (n, channels, height, width)
    """

    code: Tensor
    constant: Tensor


class EqualisedConv(nn.Module):
    """Convolution with equalised learning rate and no bias, (n, inputs, h, w) -> (n, outputs, ...).

    halving : stride 2 with the kernel's mean over four shifts by a pixel, which is the convolution
        followed by averages of 2 x 2 in one.
    """

    def __init__(self, inputs: int, outputs: int, side: int, halving: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, side, side))
        self.gain = 1.0 / math.sqrt(inputs * side * side)
        self.halving = halving

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.gain
        if not self.halving:
            return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        w = F.pad(weight, (1, 1, 1, 1))
        w = (w[..., 1:, 1:] + w[..., :-1, 1:] + w[..., 1:, :-1] + w[..., :-1, :-1]) / 4
        return F.conv2d(x, w, stride=2, padding=1)


class ConditionalNorm(nn.Module):
    """Batch normalisation with scale 1 + linear(condition) and shift linear(condition).

    Batch statistics in training; in evaluation their running means, so that rows are independent.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = FullyConnectedLayer(CONDITION, channels)
        self.shift = FullyConnectedLayer(CONDITION, channels)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = F.batch_norm(x, self.running_mean, self.running_var, training=self.training)
        scale, shift = self.scale(condition), self.shift(condition)
        return torch.addcmul(shift[:, :, None, None], x, 1 + scale[:, :, None, None])


class Layer(nn.Module):
    """Normalisation, convolution, noise and bias, leaky ReLU; and the statistics of its input."""

    noise_const: Tensor

    def __init__(
        self, config: DSEConfig, inputs: int, outputs: int, size: tuple[int, int], halving: bool
    ) -> None:
        super().__init__()
        self.halving, fused = halving, halving and config.fused_scale
        if config.classes:
            self.norm = ConditionalNorm(inputs)
        self.conv = EqualisedConv(inputs, outputs, 3, fused)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noisy = config.layered
        if self.noisy:
            side = (size[0] // 2, size[1] // 2) if fused else size
            self.noise_strength = nn.Parameter(torch.zeros(outputs))
            self.register_buffer("noise_const", torch.randn(side))

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.conv(normalised(x) if condition is None else self.norm(x, condition))
        offset = self.bias[:, None, None]
        if self.noisy:
            offset = offset + self.noise_strength[:, None, None] * self.noise_const
        x = F.leaky_relu(x + offset, 0.2)
        return F.avg_pool2d(x, 2) if self.halving and not self.conv.halving else x


class Block(nn.Module):
    """Two layers and their bypass; of the last block one, which keeps the size."""

    def __init__(
        self, config: DSEConfig, inputs: int, outputs: int, size: tuple[int, int], last: bool
    ) -> None:
        super().__init__()
        self.last = last
        self.conv0 = Layer(config, inputs, inputs, size, halving=False)
        if not last:
            self.conv1 = Layer(config, inputs, outputs, size, halving=True)
            if inputs != outputs:
                self.bypass = EqualisedConv(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x (n, inputs, h, w) -> what it puts out, and what its two fully connected layers see."""
        y = self.conv0(x, condition)
        second = y
        bypass = x
        if not self.last:
            y = self.conv1(y, condition)
            bypass = F.avg_pool2d(x, 2)
            if hasattr(self, "bypass"):
                bypass = self.bypass(bypass)
        return (y + bypass) * SQRT_HALF, x, second


class DSE(ShapedEncoder[DSEConfig]):
    """See the module text; an `generators.encoders.base.EncoderNetwork`.

    centre : buffer (*shape), added to every code. 0 in the paper; training starts nearer with the
        generator's mean code.
    """

    centre: Tensor

    def __init__(self, config: DSEConfig) -> None:
        super().__init__(config)
        first = config.blocks[0][0]
        self.from_rgb = EqualisedConv(3, first, 1)
        self.from_rgb_bias = nn.Parameter(torch.zeros(first))
        if config.classes:
            self.embed = nn.Linear(config.classes, CONDITION, bias=False)
        blocks, (height, width) = [], config.size
        for k, (inputs, outputs) in enumerate(config.blocks):
            last = k == len(config.blocks) - 1
            blocks.append(Block(config, inputs, outputs, (height >> k, width >> k), last))
        self.blocks = nn.ModuleList(blocks)
        if config.layered:
            seen = [inputs for inputs, _ in config.blocks for _ in range(2)]
            self.styles = nn.ModuleList(
                FullyConnectedLayer(2 * seen[place], config.shape[1]) for place in config.taps
            )
        else:
            flat = config.blocks[-1][1] * math.prod(config.last_size)
            self.hidden = FullyConnectedLayer(flat, config.dimensions)
            if config.class_dim:
                self.latent = FullyConnectedLayer(
                    config.dimensions, config.dimensions - config.class_dim
                )
        self.register_buffer("centre", torch.zeros(config.shape))

    def forward(self, images: Tensor, labels: Labels = None) -> Encoded:
        """images (n, 3, *size) in [-1, 1]; labels as for `generators.protocols.Generator`.

        Raises UsageError where labels are missing, or of other classes.
        """
        condition = None
        if self.config.classes:
            weights = label_weights(self.config.classes, labels, len(images), images.device)
            condition = self.embed(weights)
        x = self.from_rgb(images) + self.from_rgb_bias[:, None, None]
        x = F.leaky_relu(x, 0.2)
        seen = []
        for block in self.blocks:
            x, *inputs = block(x, condition)
            seen += inputs
        if self.config.layered:
            told = [statistics(maps) for maps in seen]
            layers = [
                style(told[place])
                for style, place in zip(self.styles, self.config.taps, strict=True)
            ]
            code = torch.stack(layers, dim=1)
        else:
            code = self.hidden(x.flatten(1))
            if self.config.class_dim:
                code = torch.cat([self.latent(code), code[:, -self.config.class_dim :]], dim=1)
            code = code.reshape(-1, *self.config.shape)
        return Encoded(self.centre + code, x)

    def encode(self, images: Tensor, space: str, labels: Labels = None) -> Tensor:
        """Codes float32 (n, *shape of the space): see `forward`."""
        code = self(images, labels).code
        return code.mean(dim=1) if space == self.config.repeated else code


def normalised(x: Tensor) -> Tensor:
    """Maps (n, c, h, w) with mean 0 and variance 1 each (instance normalisation)."""
    return F.instance_norm(x, eps=EPSILON)


def statistics(x: Tensor) -> Tensor:
    """Means, then standard deviations of the maps (n, c, h, w): (n, 2 c)."""
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0)
    return torch.cat([mean, (variance + EPSILON).sqrt()], dim=1)
