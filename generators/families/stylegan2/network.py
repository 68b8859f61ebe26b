"""StyleGAN2 generator as trainable torch modules, with the official parameter names.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), skip architecture.
Module and parameter names are those of the official ``G_ema.state_dict()``
(``mapping.fc0.weight``, ``synthesis.b8.conv0.affine.weight``, ...), so official tensors load as
they are; only the derived ``resample_filter`` buffers are not stored.

The modulated convolution is not fused: input channels are scaled by the style, one ordinary
convolution serves the whole batch, and output channels are scaled by the demodulation
coefficients. This equals the fused per-sample form (paper, equations 1 and 3) and trains several
times faster on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.families.stylegan2.config import RESAMPLE_TAPS, StyleGAN2Config
from generators.style_based import StyleSlice

__all__ = ["StyleGAN2", "StyleGAN2Config", "StyleSlice"]

NoiseMode = Literal["const", "none", "random"]
NOISE_MODES: tuple[str, ...] = ("const", "none", "random")
SQRT2 = math.sqrt(2.0)
RowGenerators = torch.Generator | Sequence[torch.Generator] | None


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale each row of x, (n, d), to mean square 1 (with 1e-8 added under the root)."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def _content(tensor: Tensor) -> tuple[object, ...]:
    """Another value whenever the tensor holds other numbers."""
    return (tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device)


class FullyConnectedLayer(nn.Module):
    """Linear layer with equalised learning rate, (n, in_features) -> (n, out_features).

    The stored weight is multiplied by ``lr_multiplier / sqrt(in_features)`` and the stored bias by
    `lr_multiplier`, of a layer that is not trained once for all batches: of 64 rows, the products
    would take as long as the layer. `activation` is "linear" or "lrelu" (slope 0.2, gain sqrt 2).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: Literal["linear", "lrelu"] = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features).div_(lr_multiplier))
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self._kept: tuple[tuple[object, ...], Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, *self._scaled())
        return F.leaky_relu(y, 0.2) * SQRT2 if self.activation == "lrelu" else y

    def _scaled(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as they are used."""
        weight, bias = self.weight, self.bias
        trained = weight.requires_grad or bias.requires_grad or weight.is_inference()
        if trained or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return weight * self.weight_gain, bias * self.bias_gain
        now = (*_content(weight), *_content(bias))
        if self._kept is None or self._kept[0] != now:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = now, weight * self.weight_gain, bias * self.bias_gain
        return self._kept[1:]


class MappingNetwork(nn.Module):
    """z and class label to w: normalise, embed the label, `num_mapping_layers` layers.

    Buffer `w_avg`, (w_dim,), is the running average of w, the centre of truncation.
    """

    w_avg: Tensor

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        embed_features = 0
        if config.c_dim > 0:
            embed_features = config.embed_features or config.w_dim
            self.embed = FullyConnectedLayer(config.c_dim, embed_features)
        hidden = config.mapping_features or config.w_dim
        widths = [config.z_dim + embed_features] + [hidden] * (config.num_mapping_layers - 1)
        widths.append(config.w_dim)
        for i, (n_in, n_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            layer = FullyConnectedLayer(n_in, n_out, "lrelu", config.lr_multiplier)
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z: Tensor, c: Tensor | None = None, update_w_avg: bool = False) -> Tensor:
        """Map z (n, z_dim) and labels c (n, c_dim), None when c_dim is 0, to w (n, w_dim).

        No truncation is applied. `update_w_avg` moves `w_avg` towards the batch's mean by
        ``1 - w_avg_beta``.
        """
        config = self.config
        if z.ndim != 2 or z.shape[1] != config.z_dim:
            raise ValueError(f"'z' has shape {tuple(z.shape)!r}, expected (n, {config.z_dim})")
        x = normalize_2nd_moment(z.to(self.w_avg.dtype))
        if config.c_dim > 0:
            if c is None or tuple(c.shape) != (z.shape[0], config.c_dim):
                raise ValueError(
                    f"'c' has shape {None if c is None else tuple(c.shape)!r}, expected "
                    f"{(z.shape[0], config.c_dim)!r}: this generator is class-conditional"
                )
            x = torch.cat([x, normalize_2nd_moment(self.embed(c.to(self.w_avg.dtype)))], dim=1)
        for i in range(config.num_mapping_layers):
            x = getattr(self, f"fc{i}")(x)
        if update_w_avg:
            with torch.no_grad():
                self.w_avg.copy_(x.detach().mean(dim=0).lerp(self.w_avg, config.w_avg_beta))
        return x


def _upsampling_filter(channels: int) -> Tensor:
    """FIR [1, 3, 3, 1] outer itself with sum 4 (the gain of up=2), (channels, 1, 4, 4)."""
    taps = torch.tensor(RESAMPLE_TAPS, device="cpu")
    kernel = torch.outer(taps, taps)
    return (kernel * (4.0 / kernel.sum())).repeat(channels, 1, 1, 1)


def upsample2x(x: Tensor) -> Tensor:
    """Upsample x, (n, k, h, w), twice with FIR [1, 3, 3, 1] and zeros outside the image.

    Bilinear interpolation has the same taps (1/4, 3/4); the zero border replaces its clamping.
    """
    y = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear", align_corners=False)
    return y[:, :, 2:-2, 2:-2]


def draw_noise(n: int, resolution: int, generator: RowGenerators, device: torch.device) -> Tensor:
    """Standard normal noise (n, 1, resolution, resolution).

    `generator`: one for the batch (then a row's noise depends on the rows before it), a sequence
    with one for each row (then it does not), or None for torch's global state.
    """
    shape = (1, resolution, resolution)
    if generator is None:
        return torch.randn(n, *shape, device=device)
    if isinstance(generator, torch.Generator):
        noise = torch.randn(n, *shape, generator=generator, device=generator.device)
        return noise.to(device)
    if len(generator) != n:
        raise ValueError(f"'generator' has {len(generator)} entries for {n} rows: give one a row")
    rows = [torch.randn(shape, generator=g, device=g.device) for g in generator]
    return torch.stack(rows).to(device)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU (slope 0.2, gain sqrt 2), clamp.

    With ``up=2`` a stride-2 transposed convolution is followed by the FIR filter.
    """

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        up: int = 1,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.up = up
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        if up == 2:
            self.register_buffer(
                "resample_filter", _upsampling_filter(out_channels), persistent=False
            )

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
        n = x.shape[0]
        energy = self.weight.square().sum(dim=(2, 3))
        demodulation = (styles.square() @ energy.t() + 1e-8).rsqrt() * SQRT2
        x = x * styles[:, :, None, None]
        if self.up == 2:
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            x = F.conv2d(x, self.resample_filter, padding=1, groups=x.shape[1])
        else:
            x = F.conv2d(x, self.weight, padding=1)
        # The gain sqrt(2) is applied before the leaky ReLU, which is positively homogeneous.
        offset = (self.bias * SQRT2)[None, :, None, None]
        if noise_mode == "const":
            image = self.noise_const
            if own_noise is not None:
                image = torch.where(own_noise.isnan(), image, own_noise)[:, None]
            offset = offset + image * (self.noise_strength * SQRT2)
        elif noise_mode == "random":
            noise = draw_noise(n, self.resolution, generator, x.device)
            offset = offset + noise * (self.noise_strength * SQRT2)
        x = torch.addcmul(offset, x, demodulation[:, :, None, None])
        x = F.leaky_relu(x, 0.2)
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp, self.conv_clamp)


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation."""

    def __init__(
        self, in_channels: int, img_channels: int, w_dim: int, conv_clamp: float | None = None
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))
        self.weight_gain = 1.0 / math.sqrt(in_channels)

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        """x (n, in, h, w), styles (n, in), before the gain 1/sqrt(in) -> (n, img, h, w)."""
        x = x * (styles * self.weight_gain)[:, :, None, None]
        x = F.conv2d(x, self.weight, self.bias)
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp, self.conv_clamp)


class SynthesisBlock(nn.Module):
    """One resolution: (upsampling convolution), convolution, and image skip."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resolution: int,
        config: StyleGAN2Config,
    ) -> None:
        super().__init__()
        w_dim, clamp = config.w_dim, config.conv_clamp
        self.is_first = in_channels == 0
        if self.is_first:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, 2, clamp)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, 1, clamp)
        self.torgb = ToRGBLayer(out_channels, config.img_channels, w_dim, clamp)

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        styles: list[Tensor],
        noise_mode: NoiseMode,
        generator: RowGenerators,
        own_noise: Mapping[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """`styles`: of (conv0), conv1, torgb, in this order; `own_noise` by layer."""
        if self.is_first:
            const = self.const[None].expand(styles[0].shape[0], -1, -1, -1)
            x = const.contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(x, styles[0], noise_mode, generator, own_noise.get("conv0"))
        x = self.conv1(x, styles[-2], noise_mode, generator, own_noise.get("conv1"))
        rgb = self.torgb(x, styles[-1])
        return x, rgb if img is None else upsample2x(img) + rgb


class SynthesisNetwork(nn.Module):
    """w codes to image, skip architecture.

    Layers in order: b4.conv1, b4.torgb, b8.conv0, b8.conv1, b8.torgb, b16.conv0, ... A block's
    torgb reads the same w as the next block's conv0. `style_slices` gives, in this order, the
    columns of each layer's style in a concatenated S-space code.
    """

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        self.num_ws = config.num_ws
        slices: list[StyleSlice] = []
        in_channels, ws_index, start = 0, 0, 0
        for resolution, channels in zip(
            config.block_resolutions, config.block_channels, strict=True
        ):
            block = SynthesisBlock(in_channels, channels, resolution, config)
            self.add_module(f"b{resolution}", block)
            layers = ["conv1", "torgb"] if block.is_first else ["conv0", "conv1", "torgb"]
            for layer in layers:
                width = in_channels if layer == "conv0" else channels
                slices.append(StyleSlice(f"b{resolution}.{layer}", ws_index, start, start + width))
                start += width
                ws_index += layer != "torgb"
            in_channels = channels
        self.style_slices: tuple[StyleSlice, ...] = tuple(slices)
        self.style_dim = start

    def reset_filters(self) -> None:
        """Fill the derived filters again, after the module was made without memory."""
        for module in self.modules():
            if isinstance(module, SynthesisLayer) and module.up == 2:
                kernel = _upsampling_filter(module.resample_filter.shape[0])
                module.resample_filter.copy_(kernel)

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
            count = 2 if used == 0 else 3
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
