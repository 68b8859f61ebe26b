"""Mapping network of StyleGAN2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from generators.equalised import FullyConnectedLayer, normalize_2nd_moment
from generators.families.stylegan2.config import StyleGAN2Config


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
