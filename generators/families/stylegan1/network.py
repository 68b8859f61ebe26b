"""StyleGAN generator as torch modules.

Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks" (2019).
Every layer ends alike: noise, bias, leaky ReLU, instance normalisation, style. Weights have unit
scale and are multiplied by their gain, sqrt(2 / inputs), when used; the activation has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.families.stylegan1.config import StyleGAN1Config
from generators.style_based import StyleSlice

EPSILON = 1e-8
SQRT2 = math.sqrt(2.0)
BLUR = (1.0, 2.0, 1.0)
NOISE_MODES = ("const", "none")


class ScaledLinear(nn.Module):
    """Linear layer, (n, inputs) -> (n, outputs): weight * weight_gain, bias * bias_gain."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.weight_gain = gain * rate / math.sqrt(inputs)
        self.bias_gain = rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


class MappingNetwork(nn.Module):
    """z and class label to w: the label's row of a matrix beside z, both normalised as one vector,
    then `num_mapping_layers` layers.

    Buffer `w_avg`, (w_dim,), is the mean of w, the centre of truncation.
    """

    w_avg: Tensor

    def __init__(self, config: StyleGAN1Config) -> None:
        super().__init__()
        self.config = config
        if config.c_dim:
            self.embed = nn.Linear(config.c_dim, config.z_dim, bias=False)
        widths = [config.mapping_input]
        widths += [config.mapping_features] * (config.num_mapping_layers - 1)
        for i in range(config.num_mapping_layers):
            last = i == config.num_mapping_layers - 1
            out = config.w_dim if last else config.mapping_features
            layer = ScaledLinear(widths[i], out, SQRT2, config.lr_multiplier)
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """z (n, z_dim) and weights of the classes (n, c_dim), None without any -> w (n, w_dim)."""
        x = z.to(self.w_avg.dtype)
        if self.config.c_dim:
            if c is None:
                raise ValueError("'c' is missing: this generator is class-conditional")
            x = torch.cat([x, self.embed(c.to(x.dtype))], dim=1)
        x = x * (x.square().mean(dim=1, keepdim=True) + EPSILON).rsqrt()
        for i in range(self.config.num_mapping_layers):
            x = F.leaky_relu(getattr(self, f"fc{i}")(x), 0.2)
        return x


def blur_filter(channels: int) -> Tensor:
    """[1, 2, 1] outer itself with sum 1, (channels, 1, 3, 3)."""
    taps = torch.tensor(BLUR, device="cpu")
    kernel = torch.outer(taps, taps)
    return (kernel / kernel.sum()).repeat(channels, 1, 1, 1)


class StyledLayer(nn.Module):
    """A learned constant, a 3x3 convolution, or one that doubles the resolution; then noise, bias,
    leaky ReLU (slope 0.2), instance normalisation, and the style: ``x * (1 + scale) + shift``."""

    noise_const: Tensor
    blur: Tensor

    def __init__(self, config: StyleGAN1Config, name: str) -> None:
        super().__init__()
        resolution, inputs, outputs = config.layer(name)
        self.config = config
        self.up, self.fused = name.endswith("conv0"), config.fused(resolution)
        if inputs:
            self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
            self.gain = SQRT2 / math.sqrt(inputs * 9)
        else:
            self.input = nn.Parameter(torch.ones(outputs, resolution, resolution))
            self.gain = 1.0
        self.noise_strength = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.affine = ScaledLinear(config.w_dim, 2 * outputs)
        if self.up:
            self.register_buffer("blur", blur_filter(outputs), persistent=False)

    def forward(
        self, x: Tensor | None, style: Tensor, noise: str = "const", own_noise: Tensor | None = None
    ) -> Tensor:
        """x (n, inputs, h, w), or None for the constant; style (n, 2 outputs).

        noise : "const" adds the stored noise image, or of the rows of `own_noise` (n, h, w) that
            are not NaN these; "none" adds nothing.
        """
        gain, offset = self.gain, self.bias[:, None, None]
        if x is None:
            x = self.input.expand(len(style), -1, -1, -1)
        elif self.up:
            x = self._upsampled(x)
            if self.config.bias_before_blur:
                x, gain, offset = torch.add(offset, x, alpha=gain), 1.0, torch.zeros_like(offset)
            x = F.conv2d(x, self.blur, padding=1, groups=self.blur.shape[0])
        else:
            x = F.conv2d(x, self.weight, padding=1)
        if noise == "const":
            image = self.noise_const
            if own_noise is not None:
                image = torch.where(own_noise.isnan(), image, own_noise)[:, None]
            offset = offset + image * self.noise_strength[:, None, None]
        x = F.leaky_relu(torch.add(offset, x, alpha=gain), 0.2)
        x = F.instance_norm(x, eps=self.config.norm_epsilon)
        scale, shift = style[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, x, scale + 1)

    def _upsampled(self, x: Tensor) -> Tensor:
        """Twice the resolution, convolved."""
        if not self.fused:
            return F.conv2d(
                F.interpolate(x, scale_factor=2, mode="nearest"), self.weight, padding=1
            )
        w = F.pad(self.weight, (1, 1, 1, 1))
        w = w[:, :, 1:, 1:] + w[:, :, :-1, 1:] + w[:, :, 1:, :-1] + w[:, :, :-1, :-1]
        return F.conv_transpose2d(x, w.transpose(0, 1), stride=2, padding=1)


class SynthesisNetwork(nn.Module):
    """w codes to image, fully grown: the last block alone is turned into colours.

    `style_slices` gives, layer by layer, the columns of its style in a code of s.
    """

    def __init__(self, config: StyleGAN1Config) -> None:
        super().__init__()
        self.config = config
        slices: list[StyleSlice] = []
        start = 0
        for i, (layer, _, _, outputs) in enumerate(config.layers):
            block, part = layer.split(".")
            if not hasattr(self, block):
                self.add_module(block, nn.Module())
            getattr(self, block).add_module(part, StyledLayer(config, layer))
            slices.append(StyleSlice(layer, i, start, start + 2 * outputs))
            start += 2 * outputs
        self.torgb = nn.Conv2d(config.channels[-1], config.img_channels, 1)
        self.style_slices: tuple[StyleSlice, ...] = tuple(slices)

    def styles(self, ws: Tensor) -> list[Tensor]:
        """Scales and shifts of every layer for ws (n, layers, w_dim): list of (n, 2 channels)."""
        return [
            self.get_submodule(f"{part.name}.affine")(ws[:, part.ws_index])
            for part in self.style_slices
        ]

    def from_styles(
        self,
        styles: list[Tensor],
        noise: str = "const",
        own_noise: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Images (n, img_channels, r, r), about [-1, 1], from the list that `styles` returns.

        noise, own_noise : see `StyledLayer`; own_noise by layer, such as "b8.conv0".
        """
        if noise not in NOISE_MODES:
            raise ValueError(f"'noise' is {noise!r}, expected one of {NOISE_MODES!r}")
        images = own_noise or {}
        x: Tensor | None = None
        for part, style in zip(self.style_slices, styles, strict=True):
            x = self.get_submodule(part.name)(x, style, noise, images.get(part.name))
        if x is None:
            raise ValueError("the synthesis network has no layers")
        weight = self.torgb.weight * (1.0 / math.sqrt(self.config.channels[-1]))
        image = F.conv2d(x, weight, self.torgb.bias)
        return image.tanh() if self.config.output_activation == "tanh" else image


class StyleGAN1(nn.Module):
    """Mapping and synthesis networks."""

    def __init__(self, config: StyleGAN1Config) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config)
        self.synthesis = SynthesisNetwork(config)
