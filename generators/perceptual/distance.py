"""The distance between two pictures' maps: LPIPS (Zhang, Isola, Efros, Shechtman and Wang 2018).

    d(a, b) = sum over maps l of mean over positions of sum_c w_lc (a_lc / |a_l| - b_lc / |b_l|)^2

with |a_l| the length of a position's channels. Without weights every w is 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-10
"""Added to a position's length, as the authors do."""


def channel_distance(
    a: Sequence[Tensor], b: Sequence[Tensor], weights: Sequence[Tensor] | None = None
) -> Tensor:
    """Distance of every row, float32 (n,).

    a, b : of each layer the maps of n pictures, float32 (n, c, h, w)
    weights : of each layer float32 (c,)
    """
    total = torch.zeros(len(a[0]), device=a[0].device)
    for k, (x, y) in enumerate(zip(a, b, strict=True)):
        difference = (_unit(x) - _unit(y)).square()
        if weights is not None:
            difference = difference * weights[k].view(-1, 1, 1)
        total = total + difference.sum(dim=1).mean(dim=(1, 2))
    return total


def _unit(maps: Tensor) -> Tensor:
    """Every position's channels scaled to length 1; zeros, whose length has no gradient, stay."""
    length = maps.square().sum(dim=1, keepdim=True).clamp_min(EPSILON**2).sqrt()
    return maps / (length + EPSILON)
