"""StyleGAN2 generator as trainable torch modules, with the official parameter names.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), figure 7.
Module and parameter names are those of the official ``G_ema.state_dict()``
(``mapping.fc0.weight``, ``synthesis.b8.conv0.affine.weight``, ...), so official tensors load as
they are; only the derived ``resample_filter`` buffers are not stored.

The modulated convolution is not fused: input channels are scaled by the style, one ordinary
convolution serves the whole batch, and output channels are scaled by the demodulation
coefficients. This equals the fused per-sample form (paper, equations 1 and 3) and trains several
times faster on a CPU.

Blocks of the highest resolutions may be drawn in float16, as the official code does on a GPU:
weights and styles are scaled to at most 1 before they meet, which demodulation undoes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.equalised import SQRT2, FullyConnectedLayer
from generators.families.stylegan2.config import RESAMPLE_TAPS, StyleGAN2Config
from generators.families.stylegan2.mapping import MappingNetwork
from generators.style_based import StyleSlice

__all__ = ["StyleGAN2", "StyleGAN2Config", "StyleSlice"]

NoiseMode = Literal["const", "none", "random"]
#: Pixels of a large picture, see `is_large`, and numbers of a strip of it.
LARGE, STRIP = 256 * 256, 1 << 17
NOISE_MODES: tuple[str, ...] = ("const", "none", "random")
RowGenerators = torch.Generator | Sequence[torch.Generator] | None


def _dtype(weight: Tensor, float16: bool) -> torch.dtype:
    """What a layer computes in: in float16 where it is to and the model is in float32."""
    return torch.float16 if float16 and weight.dtype is torch.float32 else weight.dtype


def _upsampling_filter(channels: int, taps: Sequence[float] = RESAMPLE_TAPS) -> Tensor:
    """FIR `taps` outer itself with sum 4 (the gain of up=2), (channels, 1, k, k).

    As correlations need it: turned round.
    """
    line = torch.tensor(taps, device="cpu").flip(0)
    kernel = torch.outer(line, line)
    return (kernel * (4.0 / kernel.sum())).repeat(channels, 1, 1, 1)


def upsample2x(x: Tensor, taps: Sequence[float] = RESAMPLE_TAPS) -> Tensor:
    """Upsample x, (n, k, h, w), twice with a FIR filter and zeros outside the image.

    Of [1, 3, 3, 1], bilinear interpolation has the same taps (1/4, 3/4); the zero border replaces
    its clamping.
    """
    if tuple(taps) == RESAMPLE_TAPS:
        padded = F.pad(x, (1, 1, 1, 1))
        y = F.interpolate(padded, scale_factor=2, mode="bilinear", align_corners=False)
        return y[:, :, 2:-2, 2:-2]
    kernel = _upsampling_filter(x.shape[1], taps).flip(2, 3).to(x)
    y = F.conv_transpose2d(x, kernel, stride=2, groups=x.shape[1])
    ahead = (len(taps) + 1) // 2  # zeros before the first pixel, in the official code
    before, after = ahead - len(taps) + 1, 1 - ahead
    return F.pad(y, (before, after, before, after))


def draw_noise(
    n: int, size: tuple[int, int], generator: RowGenerators, device: torch.device
) -> Tensor:
    """Standard normal noise (n, 1, height, width).

    `generator`: one for the batch (then a row's noise depends on the rows before it), a sequence
    with one for each row (then it does not), or None for torch's global state.
    """
    shape = (1, *size)
    if generator is None:
        return torch.randn(n, *shape, device=device)
    if isinstance(generator, torch.Generator):
        noise = torch.randn(n, *shape, generator=generator, device=generator.device)
        return noise.to(device)
    if len(generator) != n:
        raise ValueError(f"'generator' has {len(generator)} entries for {n} rows: give one a row")
    rows = [torch.randn(shape, generator=g, device=g.device) for g in generator]
    return torch.stack(rows).to(device)


def is_large(config: StyleGAN2Config) -> bool:
    """Whether pictures are so large that memory decides how long they take.

    Their feature maps are then in the memory format "channels last" in every layer. What is done to
    each number alone is then done in the processor's cache, strip by strip, where nothing is
    differentiated.
    """
    return math.prod(config.size) >= LARGE


def _strips(x: Tensor) -> Iterator[slice]:
    """Rows of x, (n, k, h, w), of which each strip stays in the CPU's cache; all of them at once on
    another device."""
    height = x.shape[2]
    rows = max(1, STRIP * height // max(1, x.numel())) if x.device.type == "cpu" else height
    for top in range(0, height, rows):
        yield slice(top, top + rows)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU (slope 0.2, gain sqrt 2), clamp.

    size : (height, width) of the output. up : with 2, a transposed convolution of stride 2 is
        followed by the FIR filter. gain : of the output, the clamp's limits included.
    float16 : draw in float16, where the weights are float32.
    """

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        config: StyleGAN2Config,
        up: int = 1,
        gain: float = 1.0,
        float16: bool = False,
    ) -> None:
        super().__init__()
        clamp = config.conv_clamp
        self.size = size
        self.up = up
        self.gain = SQRT2 * gain
        self.conv_clamp = None if clamp is None else clamp * gain
        self.use_noise = config.use_noise
        self.taps = config.resample_filter
        self.float16 = float16
        self.large = is_large(config)
        self.affine = FullyConnectedLayer(config.w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        if self.use_noise:
            self.register_buffer("noise_const", torch.randn(*size))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        if up == 2:
            kernel = _upsampling_filter(out_channels, self.taps)
            self.register_buffer("resample_filter", kernel, persistent=False)

    def forward(
        self,
        x: Tensor,
        styles: Tensor,
        noise_mode: NoiseMode = "const",
        generator: RowGenerators = None,
        own_noise: Tensor | None = None,
    ) -> Tensor:
        """x (n, in, h, w), styles (n, in) -> (n, out, up h, up w).

        `noise_mode`: "const" adds the stored noise image, or of the rows of `own_noise` (n, h, w)
        that are not NaN these, "random" a new one for each row (see `draw_noise`), "none" nothing.
        """
        weight: Tensor = self.weight
        dtype = _dtype(weight, self.float16)
        if dtype is torch.float16:
            largest = weight.abs().amax(dim=(1, 2, 3), keepdim=True)
            weight = weight / (largest * math.sqrt(weight[0].numel()))
            styles = styles / styles.abs().amax(dim=1, keepdim=True)
        energy = weight.square().sum(dim=(2, 3))
        demodulation = (styles.square() @ energy.t() + 1e-8).rsqrt() * self.gain
        x = x.to(dtype) * styles.to(dtype)[:, :, None, None]
        if self.up == 2:
            x = self._upsampled(x, weight.to(dtype))
        else:
            x = F.conv2d(x, weight.to(dtype), padding=1)
        image = self._noise(len(x), noise_mode, generator, own_noise)
        scale = demodulation[:, :, None, None].to(dtype)
        if not self.large or torch.is_grad_enabled():
            return self._activated(x, scale, image)
        for part in _strips(x):
            noise = None if image is None else image[:, :, part]
            self._activated(x[:, :, part], scale, noise, in_place=True)
        return x

    def _activated(
        self, x: Tensor, scale: Tensor, image: Tensor | None, in_place: bool = False
    ) -> Tensor:
        """x demodulated, with noise and bias added, activated and clamped.

        The gain is applied before the leaky ReLU, which is positively homogeneous.
        """
        offset = (self.bias * self.gain)[None, :, None, None]
        if image is not None:
            image = image * (self.noise_strength * self.gain)
            if self.large:  # in x's memory format
                offset = (offset.permute(0, 2, 3, 1) + image.permute(0, 2, 3, 1)).permute(
                    0, 3, 1, 2
                )
            else:
                offset = offset + image
        x = torch.addcmul(offset.to(x.dtype), x, scale, out=x if in_place else None)
        x = F.leaky_relu(x, 0.2, inplace=in_place)
        if self.conv_clamp is None:
            return x
        ends = (-self.conv_clamp, self.conv_clamp)
        return x.clamp_(*ends) if in_place else x.clamp(*ends)

    def _upsampled(self, x: Tensor, weight: Tensor) -> Tensor:
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        kernel = self.resample_filter.to(x.dtype)
        before, after = (len(self.taps) - 1) // 2, (len(self.taps) - 2) // 2
        if before != after:
            x, before = F.pad(x, (before, after, before, after)), 0
        return F.conv2d(x, kernel, padding=before, groups=x.shape[1])

    def _noise(
        self, n: int, noise_mode: NoiseMode, generator: RowGenerators, own_noise: Tensor | None
    ) -> Tensor | None:
        """Noise images (1 or n, 1, h, w) before their strength, None where there is none."""
        if not self.use_noise or noise_mode == "none":
            return None
        if noise_mode == "random":
            return draw_noise(n, self.size, generator, self.bias.device)
        if own_noise is None:
            return self.noise_const[None, None]
        return torch.where(own_noise.isnan(), self.noise_const, own_noise)[:, None]


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation."""

    def __init__(self, in_channels: int, config: StyleGAN2Config, float16: bool = False) -> None:
        super().__init__()
        self.conv_clamp = config.conv_clamp
        self.float16 = float16
        self.large = is_large(config)
        self.affine = FullyConnectedLayer(config.w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(config.img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(config.img_channels))
        self.weight_gain = 1.0 / math.sqrt(in_channels)

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        """x (n, in, h, w), styles (n, in), before the gain 1/sqrt(in) -> (n, img, h, w)."""
        dtype = _dtype(self.weight, self.float16)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        scale = (styles * self.weight_gain).to(dtype)[:, :, None, None]
        x = x.to(dtype)
        if not self.large or torch.is_grad_enabled():
            x = F.conv2d(x * scale, weight, bias)
        else:
            rows = [F.conv2d(x[:, :, part] * scale, weight, bias) for part in _strips(x)]
            x = torch.cat(rows, dim=2)
        x = x if self.conv_clamp is None else x.clamp(-self.conv_clamp, self.conv_clamp)
        return x.to(self.weight.dtype)


class ResidualLayer(nn.Module):
    """1x1 convolution past a block's layers, upsampled, times sqrt(1/2), without bias or clamp."""

    def __init__(
        self, in_channels: int, out_channels: int, config: StyleGAN2Config, float16: bool = False
    ) -> None:
        super().__init__()
        self.float16 = float16
        self.taps = config.resample_filter
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.weight_gain = 1.0 / math.sqrt(2 * in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, in, h, w) -> (n, out, 2 h, 2 w)."""
        dtype = _dtype(self.weight, self.float16)
        weight = (self.weight * self.weight_gain).to(dtype)
        return upsample2x(F.conv2d(x.to(dtype), weight), self.taps)


class SynthesisBlock(nn.Module):
    """One resolution: (upsampling convolution), convolution, and what `connections` says."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resolution: int,
        size: tuple[int, int],
        config: StyleGAN2Config,
    ) -> None:
        super().__init__()
        half = config.in_float16(resolution)
        self.taps = config.resample_filter
        self.is_first = in_channels == 0
        self.is_residual = config.connections == "resnet" and not self.is_first
        self.draws = config.draws(resolution)
        if self.is_first:
            self.const = nn.Parameter(torch.randn(out_channels, *size))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, size, config, 2, 1.0, half)
        gain = math.sqrt(0.5) if self.is_residual else 1.0
        self.conv1 = SynthesisLayer(out_channels, out_channels, size, config, 1, gain, half)
        if self.is_residual:
            self.skip = ResidualLayer(in_channels, out_channels, config, half)
        if self.draws:
            self.torgb = ToRGBLayer(out_channels, config, half)

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        styles: list[Tensor],
        noise_mode: NoiseMode,
        generator: RowGenerators,
        own_noise: Mapping[str, Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        """`styles`: of (conv0), conv1, (torgb), in this order; `own_noise` by layer."""
        of_layer = iter(styles)
        past = None
        if x is None:
            const = self.const[None].expand(styles[0].shape[0], -1, -1, -1)
            x = const.contiguous(memory_format=torch.channels_last)
        else:
            past = self.skip(x) if self.is_residual else None
            x = self.conv0(x, next(of_layer), noise_mode, generator, own_noise.get("conv0"))
        x = self.conv1(x, next(of_layer), noise_mode, generator, own_noise.get("conv1"))
        x = x if past is None else past + x
        img = None if img is None else upsample2x(img, self.taps)
        if self.draws:
            rgb = self.torgb(x, next(of_layer))
            img = rgb if img is None else img + rgb
        return x, img


class SynthesisNetwork(nn.Module):
    """w codes to image.

    Layers in order: b4.conv1, b4.torgb, b8.conv0, b8.conv1, b8.torgb, b16.conv0, ...; only the last
    block has a torgb where the blocks are not connected by "skip". A block's torgb reads the same w
    as the next block's conv0. `style_slices` gives, in this order, the columns of each layer's
    style in a concatenated S-space code.
    """

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        self.num_ws = config.num_ws
        blocks = zip(
            config.block_resolutions, config.block_channels, config.block_sizes, strict=True
        )
        in_channels = 0
        for resolution, channels, size in blocks:
            block = SynthesisBlock(in_channels, channels, resolution, size, config)
            self.add_module(f"b{resolution}", block)
            in_channels = channels
        slices: list[StyleSlice] = []
        ws_index, start = 0, 0
        for name, width in config.style_widths.items():
            to_rgb = name.endswith("torgb")
            slices.append(StyleSlice(name, ws_index, start, start + width, to_rgb))
            start += width
            ws_index += not to_rgb
        self.style_slices: tuple[StyleSlice, ...] = tuple(slices)
        self.style_dim = start

    def styles(self, ws: Tensor) -> list[Tensor]:
        """Affine outputs of every layer for ws (n, num_ws, w_dim): list of (n, channels)."""
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (self.num_ws, self.config.w_dim):
            raise ValueError(
                f"'ws' has shape {tuple(ws.shape)!r}, expected "
                f"(n, {self.num_ws}, {self.config.w_dim})"
            )
        styles: list[Tensor] = []
        for part in self.style_slices:
            affine = self.get_submodule(f"{part.name}.affine")
            styles.append(affine(ws[:, part.ws_index]))
        return styles

    def forward(
        self,
        ws: Tensor,
        noise_mode: NoiseMode = "const",
        generator: RowGenerators = None,
    ) -> Tensor:
        """ws (n, num_ws, w_dim) -> images float32 (n, img_channels, r, r), about [-1, 1]."""
        return self.from_styles(self.styles(ws), noise_mode, generator)

    def from_styles(
        self,
        styles: list[Tensor],
        noise_mode: NoiseMode = "const",
        generator: RowGenerators = None,
        own_noise: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Like `forward`, from the list that `styles` returns (S space, Wu et al. 2021).

        own_noise : layer, such as "b8.conv0" -> noise images (n, h, w), see `SynthesisLayer`.
        """
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"'noise_mode' is {noise_mode!r}, expected one of {NOISE_MODES!r}")
        x: Tensor | None = None
        img: Tensor | None = None
        used = 0
        for resolution in self.config.block_resolutions:
            count = (1 if x is None else 2) + self.config.draws(resolution)
            block = getattr(self, f"b{resolution}")
            noise = {
                name.removeprefix(f"b{resolution}."): value
                for name, value in (own_noise or {}).items()
                if name.startswith(f"b{resolution}.")
            }
            x, img = block(x, img, styles[used : used + count], noise_mode, generator, noise)
            used += count
        if img is None:
            raise ValueError("the synthesis network has no blocks")
        return img


class StyleGAN2(nn.Module):
    """Mapping and synthesis networks; parameters are initialised as the official code does."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config)
        self.synthesis = SynthesisNetwork(config)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        noise_mode: NoiseMode = "const",
        generator: RowGenerators = None,
    ) -> Tensor:
        """z (n, z_dim), c (n, c_dim) -> images (n, img_channels, r, r)."""
        w = self.mapping(z, c)
        if truncation_psi != 1.0:
            w = self.mapping.w_avg.lerp(w, truncation_psi)
        ws = w[:, None].expand(-1, self.config.num_ws, -1)
        images: Tensor = self.synthesis(ws, noise_mode, generator)
        return images
