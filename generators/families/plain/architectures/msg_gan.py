"""MSG-GAN (Karnewar and Wang 2020), as in its authors' code; the picture of the finest scale.

Blocks of two convolutions with leaky ReLU and pixel-wise normalisation, the side doubled before
each but the first; every block has a 1 x 1 convolution to a picture, of which the last is drawn.
Weights are scaled at run time (equalised learning rate) by sqrt(2 / fan-in), where the fan-in of
the first, transposed, convolution is its number of input channels.

===========================  ================================================
name in the file             where
===========================  ================================================
layers.0.conv_1.*            transposed convolution of the code, (in, out, 4, 4)
layers.0.conv_2.*            convolution, (out, in, 3, 3)
layers.<i>.conv_1.*, 2.*     convolutions of the i-th block
rgb_converters.<last>.*      convolution to the picture, (3, in, 1, 1)
===========================  ================================================
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

SIDE = 4
SLOPE = 0.2
_LEAVES = ("weight", "bias")


def find(shapes: Shapes) -> Found | None:
    """See `Architecture.find`."""
    prefix = prefix_of(shapes, "layers.0.conv_1.weight")
    if prefix is None:
        return None
    blocks = numbered(shapes, f"{prefix}layers.")
    first = shapes[f"{prefix}layers.0.conv_1.weight"]
    if blocks != list(range(len(blocks))) or first[2:] != (SIDE, SIDE):
        return None
    names: dict[str, str] = {}
    width = first[0]
    for i in blocks:
        for part in (1, 2):
            at = f"{prefix}layers.{i}.conv_{part}"
            weight = shapes.get(f"{at}.weight", ())
            transposed = (i, part) == (0, 1)
            if len(weight) != 4 or weight[0 if transposed else 1] != width:
                return None
            if not transposed and weight[2:] != (3, 3):
                return None
            width = weight[1 if transposed else 0]
            names |= layer(shapes, at, f"block{i}.conv{part}", _LEAVES)
    at = f"{prefix}rgb_converters.{blocks[-1]}"
    last = shapes.get(f"{at}.weight", ())
    if len(last) != 4 or last[0] not in CHANNELS or last[1:] != (width, 1, 1):
        return None
    names |= layer(shapes, at, "picture", _LEAVES)
    side = SIDE * 2 ** (len(blocks) - 1)
    return Found(prefix, names, (first[0],), (side, side), last[0])


def draw(tensors: Mapping[str, Tensor], z: Tensor) -> Tensor:
    """See `Architecture.draw`."""
    import torch.nn.functional as F

    def convolved(x: Tensor, name: str) -> Tensor:
        weight = tensors[f"{name}.weight"]
        scale = math.sqrt(2 / math.prod(weight.shape[1:]))
        return F.conv2d(x, weight * scale, tensors.get(f"{name}.bias"), padding="same")

    first = tensors["block0.conv1.weight"]
    scaled = first * math.sqrt(2 / len(first))
    x = F.conv_transpose2d(z[:, :, None, None], scaled, tensors.get("block0.conv1.bias"))
    x = F.leaky_relu(x, SLOPE)
    x = _pixel_norm(F.leaky_relu(convolved(x, "block0.conv2"), SLOPE))
    i = 1
    while f"block{i}.conv1.weight" in tensors:
        x = F.interpolate(x, scale_factor=2)
        for part in (1, 2):
            x = _pixel_norm(F.leaky_relu(convolved(x, f"block{i}.conv{part}"), SLOPE))
        i += 1
    return convolved(x, "picture")


def _pixel_norm(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


PLUGIN = Architecture("msg_gan", "MSG-GAN of its authors' BMSG-GAN", find, draw)
