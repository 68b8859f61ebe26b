"""LAPGAN (Denton et al. 2015): a coarse picture, and details of finer and finer ones.

``l_K = G_K(z_K)``, then ``l_k = u(l_{k+1}) + G_k(z_k, u(l_{k+1}))`` with u the bilinear picture of
twice the side. The coarse network is linear layers with ReLU between; each level is convolutions
with ReLU between, of the picture and one more channel, its noise. A code holds all noises on end,
the coarse one first. No one code of it is in general use, so that the names are ours.

===========================  ==================================================
name in the file             where
===========================  ==================================================
coarse.<i>.*                 i-th part of a Sequential of linear layers
levels.<k>.<i>.*             i-th part of one of convolutions; the coarsest is 0
===========================  ==================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from generators.families.plain.architectures.base import (
    CHANNELS,
    Architecture,
    Found,
    Shapes,
    layer,
    numbered,
    prefix_of,
)

if TYPE_CHECKING:
    from torch import Tensor

_LEAVES = ("weight", "bias")


def find(shapes: Shapes) -> Found | None:
    """See `Architecture.find`."""
    prefix = prefix_of(shapes, "coarse.0.weight")
    levels = [] if prefix is None else numbered(shapes, f"{prefix}levels.")
    if prefix is None or not levels or levels != list(range(len(levels))):
        return None
    parts = [f"{prefix}coarse.{i}" for i in numbered(shapes, f"{prefix}coarse.")]
    names = _chain(shapes, parts, "coarse", 2)
    ends = [shapes.get(f"{part}.weight", ()) for part in (parts[0], parts[-1])]
    channels: int | None = None
    for k in levels:
        within = [f"{prefix}levels.{k}.{i}" for i in numbered(shapes, f"{prefix}levels.{k}.")]
        inner = _chain(shapes, within, f"level{k}", 4)
        first, last = (shapes.get(f"{part}.weight", ()) for part in (within[0], within[-1]))
        if names is None or inner is None or last[0] not in CHANNELS or first[1] != last[0] + 1:
            return None
        if channels not in (None, last[0]) or any(n % 2 == 0 for n in (*first[2:], *last[2:])):
            return None
        names, channels = {**names, **inner}, last[0]
    if names is None or channels is None:
        return None
    side = math.isqrt(ends[1][0] // channels)
    if side < 1 or side * side * channels != ends[1][0]:
        return None
    planes = sum((side << k) ** 2 for k in range(1, len(levels) + 1))
    whole = side << len(levels)
    return Found(prefix, names, (ends[0][1] + planes,), (whole, whole), channels)


def _chain(shapes: Shapes, parts: list[str], to: str, axes: int) -> dict[str, str] | None:
    """Layers of weights (out, in, ...) that fit on one another; None where they do not."""
    names: dict[str, str] = {}
    width: int | None = None
    for i, part in enumerate(parts):
        weight = shapes.get(f"{part}.weight", ())
        if len(weight) != axes or width not in (None, weight[1]):
            return None
        width = weight[0]
        names |= layer(shapes, part, f"{to}.{i}", _LEAVES)
    return names or None


def draw(tensors: Mapping[str, Tensor], z: Tensor) -> Tensor:
    """See `Architecture.draw`."""
    import torch
    import torch.nn.functional as F

    width = tensors["coarse.0.weight"].shape[1]
    x, rest = z[:, :width], z[:, width:]
    for i in range(_length(tensors, "coarse")):
        x = F.relu(x) if i else x
        x = F.linear(x, tensors[f"coarse.{i}.weight"], tensors.get(f"coarse.{i}.bias"))
    last = _length(tensors, "level0") - 1
    channels = len(tensors[f"level0.{last}.weight"])
    side, k = math.isqrt(x.shape[1] // channels), 0
    picture = x.unflatten(1, (channels, side, side))
    while f"level{k}.0.weight" in tensors:
        picture = F.interpolate(picture, scale_factor=2, mode="bilinear", align_corners=False)
        side *= 2
        noise, rest = rest[:, : side * side], rest[:, side * side :]
        x = torch.cat([picture, noise.reshape(-1, 1, side, side)], dim=1)
        for i in range(_length(tensors, f"level{k}")):
            weight = tensors[f"level{k}.{i}.weight"]
            x = F.relu(x) if i else x
            x = F.conv2d(x, weight, tensors.get(f"level{k}.{i}.bias"), padding="same")
        picture, k = picture + x, k + 1
    return picture


def _length(tensors: Mapping[str, Tensor], part: str) -> int:
    return sum(name.startswith(f"{part}.") and name.endswith(".weight") for name in tensors)


PLUGIN = Architecture(
    "lapgan", "cascade of Denton et al., with names of our own", find, draw, prior="uniform"
)
