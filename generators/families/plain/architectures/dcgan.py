"""DCGAN (Radford et al. 2016): transposed convolutions, each doubling the side but the first.

As in PyTorch's tutorial and examples: one ``Sequential`` of 4 x 4 convolutions (stride 1 without
padding, then stride 2 with padding 1), each but the last with batch normalisation and ReLU, then
tanh. The number of layers, and so the size of the images, may be any.

===================  ================================
name in the file     where
===================  ================================
<any>.<i>.weight     i-th convolution, (in, out, 4, 4)
<any>.<i>.bias       its bias, if it has one
<any>.<i+1>.*        its batch normalisation
===================  ================================
"""

from __future__ import annotations

import re
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
)

if TYPE_CHECKING:
    from torch import Tensor

KERNEL = 4
_FIRST = re.compile(r"(|.*\.)0\.weight")


def find(shapes: Shapes) -> Found | None:
    """See `Architecture.find`."""
    found = [_at(shapes, m[1]) for name in shapes if (m := _FIRST.fullmatch(name))]
    whole = [each for each in found if each is not None]
    return whole[0] if len(whole) == 1 else None


def _at(shapes: Shapes, prefix: str) -> Found | None:
    """The network whose layers have these names; None for another chain of layers."""
    convolutions = [i for i in numbered(shapes, prefix) if len(_weight(shapes, prefix, i)) == 4]
    names: dict[str, str] = {}
    width: int | None = None
    for k, i in enumerate(convolutions):
        into, out, *kernel = _weight(shapes, prefix, i)
        if kernel != [KERNEL, KERNEL] or width not in (None, into):
            return None
        names |= layer(shapes, f"{prefix}{i}", f"conv{k}", ("weight", "bias"))
        if k + 1 < len(convolutions):
            if not is_norm(shapes, f"{prefix}{i + 1}", out):
                return None
            names |= layer(shapes, f"{prefix}{i + 1}", f"norm{k}", NORM)
        width = out
    held = {n for n in shapes if n.startswith(prefix) and not n.endswith("num_batches_tracked")}
    if len(convolutions) < 2 or width not in CHANNELS or held != set(names.values()):
        return None
    side = KERNEL * 2 ** (len(convolutions) - 1)
    first = _weight(shapes, prefix, convolutions[0])
    return Found(prefix, names, (first[0],), (side, side), width)


def _weight(shapes: Shapes, prefix: str, i: int) -> tuple[int, ...]:
    return shapes.get(f"{prefix}{i}.weight", ())


def draw(tensors: Mapping[str, Tensor], z: Tensor) -> Tensor:
    """See `Architecture.draw`."""
    import torch.nn.functional as F

    x, k = z[:, :, None, None], 0
    while f"conv{k}.weight" in tensors:
        weight, bias = tensors[f"conv{k}.weight"], tensors.get(f"conv{k}.bias")
        x = F.conv_transpose2d(x, weight, bias, stride=2 if k else 1, padding=1 if k else 0)
        if f"norm{k}.weight" in tensors:
            x = F.relu(normalised(tensors, x, f"norm{k}"))
        k += 1
    return x.tanh()


PLUGIN = Architecture("dcgan", "DCGAN of PyTorch's tutorial and examples", find, draw)
