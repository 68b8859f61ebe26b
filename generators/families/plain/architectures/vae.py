"""Decoder of a convolutional VAE (Kingma and Welling 2014), as in the PyTorch-VAE collection.

A linear layer to 2 x 2 pixels; transposed convolutions (3 x 3, stride 2), each with batch
normalisation and leaky ReLU; a last one, a convolution and tanh.
`generators.families.plain.vae_encoder` has its encoder.

==========================  ===========================================
name in the file            where
==========================  ===========================================
decoder_input.*             linear layer, (4 * width, latent)
decoder.<i>.0.*             i-th transposed convolution, (in, out, 3, 3)
decoder.<i>.1.*             its batch normalisation
final_layer.0.*, .1.*       the last of these
final_layer.3.*             convolution to the picture, (3, width, 3, 3)
==========================  ===========================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from generators.families.plain.architectures.base import (
    CHANNELS,
    NORM,
    Architecture,
    Found,
    Shapes,
    is_norm,
    layer,
    normalised,
    numbered,
    prefix_of,
)

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 2
SLOPE = 0.01


def find(shapes: Shapes) -> Found | None:
    """See `Architecture.find`."""
    prefix = prefix_of(shapes, "decoder_input.weight")
    if prefix is None or len(shapes[f"{prefix}decoder_input.weight"]) != 2:
        return None
    flat, latent = shapes[f"{prefix}decoder_input.weight"]
    names = layer(shapes, f"{prefix}decoder_input", "input", ("weight", "bias"))
    blocks = [f"{prefix}decoder.{i}." for i in numbered(shapes, f"{prefix}decoder.")]
    width = flat // SIDE**2
    for k, block in enumerate([*blocks, f"{prefix}final_layer."]):
        weight = shapes.get(f"{block}0.weight", ())
        if len(weight) != 4 or weight[0] != width or weight[2:] != (3, 3):
            return None
        width = weight[1]
        if not is_norm(shapes, f"{block}1", width):
            return None
        names |= layer(shapes, f"{block}0", f"conv{k}", ("weight", "bias"))
        names |= layer(shapes, f"{block}1", f"norm{k}", NORM)
    last = shapes.get(f"{prefix}final_layer.3.weight", ())
    if len(last) != 4 or last[0] not in CHANNELS or last[1:] != (width, 3, 3):
        return None
    names |= layer(shapes, f"{prefix}final_layer.3", "picture", ("weight", "bias"))
    side = SIDE * 2 ** (len(blocks) + 1)
    return Found(prefix, names, (latent,), (side, side), last[0])


def draw(tensors: Mapping[str, Tensor], z: Tensor) -> Tensor:
    """See `Architecture.draw`."""
    import torch.nn.functional as F

    x = F.linear(z, tensors["input.weight"], tensors.get("input.bias"))
    x, k = x.unflatten(1, (-1, SIDE, SIDE)), 0
    while f"conv{k}.weight" in tensors:
        weight, bias = tensors[f"conv{k}.weight"], tensors.get(f"conv{k}.bias")
        x = F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)
        x = F.leaky_relu(normalised(tensors, x, f"norm{k}"), SLOPE)
        k += 1
    return F.conv2d(x, tensors["picture.weight"], tensors.get("picture.bias"), padding=1).tanh()


PLUGIN = Architecture(
    "vae", "decoder of the vanilla VAE of PyTorch-VAE", find, draw, log_variance=True
)
