"""Mapping network of StyleGAN2, and the linear layer that all its parts use."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.families.stylegan2.config import StyleGAN2Config

SQRT2 = math.sqrt(2.0)


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
