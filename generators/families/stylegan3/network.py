"""StyleGAN3 generator as trainable torch modules, with the official parameter names.

Karras et al., "Alias-Free Generative Adversarial Networks" (2021), configurations T and R, and
StyleGAN-XL (Sauer et al., 2022), whose layers are the same. Module and parameter names are those
of the official ``G_ema.state_dict()`` (``synthesis.L0_36_512.affine.weight``, ...).

As in our StyleGAN2 the modulated convolution is not fused: input channels are scaled by the style,
one ordinary convolution serves the whole batch, output channels are scaled by the demodulation.
The leaky ReLU between its filters is in `generators.families.stylegan3.resampling`.

A row is computed by itself: the official code divides styles by their magnitude over the whole
batch, here it is that of the row. The demodulation cancels both but for the 1e-8 under its root:
images of random weights differ by 4e-6 of their standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.equalised import SQRT2, FullyConnectedLayer, normalize_2nd_moment
from generators.families.stylegan3.config import LayerShape, StyleGAN3Config
from generators.families.stylegan3.resampling import Axis, filtered_lrelu
from generators.style_based import StyleSlice

__all__ = ["StyleGAN3", "StyleGAN3Config"]


class MappingNetwork(nn.Module):
    """z and class label to w.

    Buffer `w_avg`, (w_dim,) or of a model with a table of embeddings (c_dim, w_dim), is the running
    average of w, the centre of truncation.
    """

    w_avg: Tensor

    def __init__(self, config: StyleGAN3Config) -> None:
        super().__init__()
        self.config = config
        width = config.z_dim
        by_class: tuple[int, ...] = ()
        if config.labels == "linear":
            self.embed: nn.Module = FullyConnectedLayer(config.c_dim, config.w_dim)
            width += config.w_dim
        elif config.labels == "table":
            self.embed = nn.Embedding(config.c_dim, config.embed_features)
            self.embed_proj = FullyConnectedLayer(config.embed_features, config.z_dim, "lrelu")
            width += config.z_dim
            by_class = (config.c_dim,)
        for i in range(config.num_mapping_layers):
            layer = FullyConnectedLayer(width, config.w_dim, "lrelu", config.lr_multiplier)
            self.add_module(f"fc{i}", layer)
            width = config.w_dim
        self.register_buffer("w_avg", torch.zeros(*by_class, config.w_dim))

    def forward(self, z: Tensor, c: Tensor | None = None, update_w_avg: bool = False) -> Tensor:
        """Map z (n, z_dim) and labels c (n, c_dim), None when c_dim is 0, to w (n, w_dim).

        No truncation is applied. `update_w_avg` moves `w_avg` towards the batch's mean by
        ``1 - w_avg_beta``; of a model with a mean for each class, the means of the labels' classes.
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
            x = torch.cat([x, normalize_2nd_moment(self._embedded(c.to(x)))], dim=1)
        for i in range(config.num_mapping_layers):
            x = getattr(self, f"fc{i}")(x)
        if update_w_avg:
            self._update(x.detach(), c)
        return x

    def _embedded(self, c: Tensor) -> Tensor:
        """Labels as the mapping takes them; weights of several classes mix their embeddings."""
        if isinstance(self.embed, nn.Embedding):
            projected: Tensor = self.embed_proj(c @ self.embed.weight)
            return projected
        embedded: Tensor = self.embed(c)
        return embedded

    @torch.no_grad()
    def _update(self, w: Tensor, c: Tensor | None) -> None:
        beta = self.config.w_avg_beta
        if self.w_avg.ndim == 1 or c is None:
            self.w_avg.copy_(w.mean(dim=0).lerp(self.w_avg, beta))
            return
        for row, label in zip(w, c.argmax(dim=1).tolist(), strict=True):
            self.w_avg[label].copy_(row.lerp(self.w_avg[label], beta))


class SynthesisInput(nn.Module):
    """Fourier features of random frequencies, placed by w and by the user.

    Buffer `transform`, (3, 3), is the inverse of what the user does to the picture, in picture
    widths; a row's own stands in for it.
    """

    transform: Tensor
    freqs: Tensor
    phases: Tensor

    def __init__(self, config: StyleGAN3Config) -> None:
        super().__init__()
        self.config = config
        n = config.layers[0].in_channels
        # On the CPU even where modules are made without memory: arithmetic without it is slow to
        # import.
        freqs = torch.randn(n, 2, device="cpu")
        radii = freqs.square().sum(dim=1, keepdim=True).sqrt()
        freqs = freqs / (radii * radii.square().exp().pow(0.25)) * config.bandwidth
        self.weight = nn.Parameter(torch.randn(n, n))
        self.affine = FullyConnectedLayer(config.w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.register_buffer("transform", torch.eye(3, device="cpu"))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand(n, device="cpu") - 0.5)

    def forward(self, placed: Tensor) -> Tensor:
        """placed (n, 3, 3), from places in the picture to those of the features, in picture widths
        -> (n, channels, height, width)."""
        phases = self.phases + (self.freqs @ placed[:, :2, 2:]).squeeze(2)
        freqs = self.freqs @ placed[:, :2, :2]
        bandwidth, nyquist = self.config.bandwidth, self.config.sampling_rate / 2
        outside = (freqs.norm(dim=2) - bandwidth) / (nyquist - bandwidth)
        amplitudes = (1 - outside).clamp(0, 1)
        # sin(2 pi (fx x + fy y + phase)) of the sums of two angles: sines of rows and columns only.
        x, y = (self._positions(axis) for axis in (0, 1))
        across = freqs[:, None, :, 0] * x[:, None] + phases[:, None]
        down = freqs[:, None, :, 1] * y[:, None]
        across, down = across * (2 * math.pi), down * (2 * math.pi)
        scale = amplitudes[:, None]
        a, b = (across.sin() * scale)[:, None], (across.cos() * scale)[:, None]
        waves = a * down.cos()[:, :, None] + b * down.sin()[:, :, None]
        features = waves @ (self.weight.t() / math.sqrt(len(self.phases)))
        return features.permute(0, 3, 1, 2)

    def _positions(self, axis: int) -> Tensor:
        """Centres of the samples along an axis, in picture widths from the middle."""
        n = self.config.layers[0].in_size[axis]
        steps = torch.arange(n, dtype=self.freqs.dtype, device=self.freqs.device)
        return (steps - (n - 1) / 2) / self.config.sampling_rate


def learned_transform(styles: Tensor) -> Tensor:
    """The inverse of how w places the picture, which it first turns, then shifts: (n, 3, 3) of
    styles (n, 4), cosine, sine and shift before they are normalised together."""
    t = styles / styles[:, :2].norm(dim=1, keepdim=True)
    c, s, x, y = t.unbind(dim=1)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = (c, -s, s * y - c * x, s, c, -s * x - c * y, zero, zero, one)
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)


class Placement(nn.Module):
    """Where a picture lies: its shift to the right and down, in pixels, and its turn counter
    clockwise, in degrees, (n, 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, placed: Tensor) -> Tensor:
        """Of transforms (n, 3, 3) as the input reads them: where its own middle comes to lie."""
        linear, offset = placed[:, :2, :2], placed[:, :2, 2:]
        x, y = torch.linalg.solve(linear, -offset).squeeze(2).unbind(dim=1)
        # The turn that is nearest to the linear part.
        sine, cosine = linear[:, 1, 0] - linear[:, 0, 1], linear[:, 0, 0] + linear[:, 1, 1]
        turn = torch.atan2(sine, cosine).rad2deg()
        return torch.stack((x * self.width, y * self.width, turn), dim=1)

    def moved(self, placed: Tensor) -> Tensor:
        """Transforms of pictures moved by what hooks add to this module's output."""
        here = self.forward(placed)
        x, y, turn = (self(placed) - here).unbind(dim=1)
        turn = turn.deg2rad()
        c, s = turn.cos(), turn.sin()
        turned = placed[:, :2, :2] @ torch.stack((c, -s, s, c), dim=1).reshape(-1, 2, 2)
        middle = torch.stack((here[:, 0] + x, here[:, 1] + y), dim=1) / self.width
        offset = -turned @ middle[:, :, None]
        return torch.cat((torch.cat((turned, offset), dim=2), placed[:, 2:]), dim=1)


class SynthesisLayer(nn.Module):
    """Modulated convolution, bias, leaky ReLU (slope 0.2, gain sqrt 2) between two filters, clamp.

    ToRGB has neither demodulation nor leaky ReLU. Buffer `magnitude_ema` is the running average of
    the squared magnitude of what comes in, which is divided by its root.
    """

    magnitude_ema: Tensor
    up_filter: Tensor
    down_filter: Tensor

    def __init__(
        self,
        shape: LayerShape,
        config: StyleGAN3Config,
        filters: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.clamp = config.conv_clamp
        self.magnitude_ema_beta = config.magnitude_ema_beta
        self.affine = FullyConnectedLayer(config.w_dim, shape.in_channels, bias_init=1.0)
        kernel = (shape.kernel, shape.kernel)
        self.weight = nn.Parameter(torch.randn(shape.out_channels, shape.in_channels, *kernel))
        self.bias = nn.Parameter(torch.zeros(shape.out_channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        lengths = {
            "up_filter": (shape.up_taps,),
            "down_filter": (shape.down_taps,) * (2 if shape.radial else 1),
        }
        for name, size in lengths.items():
            taps = (filters or {}).get(name, np.ones(size, np.float32))
            # A filter of one tap is none, and the official code stores none.
            self.register_buffer(name, torch.tensor(taps), persistent=max(size) > 1)
        self.axes = (self._axis(0), self._axis(1))

    def _axis(self, at: int) -> Axis:
        shape = self.shape
        convolved = shape.in_size[at] + shape.kernel - 1
        return Axis(convolved, shape.out_size[at], shape.up, shape.down, shape.padding[2 * at])

    def forward(self, x: Tensor, styles: Tensor, update_ema: bool = False) -> Tensor:
        """x (n, in, h, w), styles (n, in) -> (n, out, out h, out w).

        Styles of ToRGB are taken before its gain 1 / sqrt(in). `update_ema` moves `magnitude_ema`
        towards the mean square of x by ``1 - magnitude_ema_beta``.
        """
        shape = self.shape
        if update_ema:
            with torch.no_grad():
                now = x.detach().square().mean()
                self.magnitude_ema.copy_(now.lerp(self.magnitude_ema, self.magnitude_ema_beta))
        scale = self.magnitude_ema.rsqrt()
        inputs = math.prod(self.weight.shape[1:])
        if shape.to_rgb:
            gain = torch.full_like(self.bias, 1 / math.sqrt(inputs)).expand(len(x), -1)
        else:
            styles = styles * styles.square().mean(dim=1, keepdim=True).rsqrt()
            energy = self.weight.square().sum(dim=(2, 3))
            size = energy.sum(dim=1) / inputs
            gain = (styles.square() @ (energy / size[:, None]).t() + 1e-8).rsqrt() * size.rsqrt()
        x = x * (styles * scale)[:, :, None, None]
        x = F.conv2d(x, self.weight, padding=shape.kernel - 1)
        if shape.to_rgb:
            x = torch.addcmul(self.bias[:, None, None], x, gain[:, :, None, None])
            x = F.pad(x, shape.padding)
            return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)
        # The gain sqrt(2) is applied before the leaky ReLU, which is positively homogeneous.
        return filtered_lrelu(
            x,
            gain * SQRT2,
            self.bias * SQRT2,
            self.axes,
            self.up_filter,
            self.down_filter,
            self.clamp,
        )


class SynthesisNetwork(nn.Module):
    """w codes to image: Fourier features, then one layer after the other.

    `style_slices` gives the columns of each layer's style in a concatenated S-space code, "input"
    first.
    """

    def __init__(
        self, config: StyleGAN3Config, filters: Mapping[str, np.ndarray] | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.num_ws = config.num_ws
        self.placement = Placement(config.img_size[0])
        self.input = SynthesisInput(config)
        slices = [StyleSlice("input", 0, 0, 4)]
        for i, shape in enumerate(config.layers):
            prefix = f"synthesis.{shape.name}."
            own = {
                k.removeprefix(prefix): v
                for k, v in (filters or {}).items()
                if k.startswith(prefix)
            }
            layer = SynthesisLayer(shape, config, own)
            self.add_module(shape.name, layer)
            start = slices[-1].stop
            stop = start + shape.in_channels
            slices.append(StyleSlice(shape.name, i + 1, start, stop, shape.to_rgb))
        self.style_slices: tuple[StyleSlice, ...] = tuple(slices)
        self.style_dim = slices[-1].stop

    def styles(self, ws: Tensor) -> list[Tensor]:
        """Affine outputs of the input and every layer for ws (n, num_ws, w_dim): list of
        (n, channels)."""
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (self.num_ws, self.config.w_dim):
            raise ValueError(
                f"'ws' has shape {tuple(ws.shape)!r}, expected "
                f"(n, {self.num_ws}, {self.config.w_dim})"
            )
        return [
            self.get_submodule(f"{part.name}.affine")(ws[:, part.ws_index])
            for part in self.style_slices
        ]

    def forward(self, ws: Tensor, update_emas: bool = False) -> Tensor:
        """ws (n, num_ws, w_dim) -> images float32 (n, img_channels, h, w), about [-1, 1]."""
        return self.from_styles(self.styles(ws), update_emas=update_emas)

    def from_styles(
        self,
        styles: Sequence[Tensor],
        transform: Tensor | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """Like `forward`, from the list that `styles` returns (S space, Wu et al. 2021).

        transform : (n, 3, 3), of the input instead of its own, see `SynthesisInput`.
        """
        transform = self.input.transform if transform is None else transform
        placed = learned_transform(styles[0]) @ transform
        x = self.input(self.placement.moved(placed))
        for shape, style in zip(self.config.layers, styles[1:], strict=True):
            x = getattr(self, shape.name)(x, style, update_emas)
        return x * self.config.output_scale


class StyleGAN3(nn.Module):
    """Mapping and synthesis networks; parameters are initialised as the official code does.

    filters : of the layers by tensor name, see `generators.families.stylegan3.design`; without
        them they are to be loaded.
    """

    def __init__(
        self, config: StyleGAN3Config, filters: Mapping[str, np.ndarray] | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config)
        self.synthesis = SynthesisNetwork(config, filters)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        update_emas: bool = False,
    ) -> Tensor:
        """z (n, z_dim), c (n, c_dim) -> images (n, img_channels, h, w).

        `update_emas` moves the running averages of w and of the layers' magnitudes, in training.
        """
        w = self.mapping(z, c, update_emas)
        if truncation_psi != 1.0:
            centre = self.mapping.w_avg
            if centre.ndim == 2 and c is not None:
                centre = c.to(centre) @ centre
            w = centre.lerp(w, truncation_psi)
        ws = w[:, None].expand(-1, self.config.num_ws, -1)
        images: Tensor = self.synthesis(ws, update_emas)
        return images
