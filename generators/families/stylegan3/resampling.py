"""The leaky ReLU between an upsampling and a downsampling filter, one tile of a picture at a time.

Resampling along an axis is a matrix with a narrow band, of which a tile needs a small block: all
of it is matrix products with channels last in memory, only samples that are kept are computed, and
what lies between the filters, four times the picture and more, is never held as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 32
"""Samples that come out of a tile along each axis."""


@dataclass(frozen=True)
class Axis:
    """Resampling along one axis.

    n_in, n_out : samples. up, down : factors. padding : samples before the upsampled ones.
    """

    n_in: int
    n_out: int
    up: int
    down: int
    padding: int


@dataclass(frozen=True, eq=False)
class Block:
    """What leads to some of the samples along an axis.

    outs, ins : samples that come out and go in. up : (bent, in). down : (out, bent); between them
        lie the samples that are bent.
    """

    outs: slice
    ins: slice
    up: Tensor
    down: Tensor


def blocks(axis: Axis, up_taps: Tensor, down_taps: Tensor, size: int = TILE) -> Iterator[Block]:
    """The blocks of an axis, in order, from filters (taps,)."""
    n_up, n_down = len(up_taps), len(down_taps)
    # A bent sample t is number t + shift of the full convolution, in which sample i begins at i up.
    shift = n_up - 1 - axis.padding
    up_taps, down_taps = up_taps * axis.up, down_taps.flip(0)
    for start in range(0, axis.n_out, size):
        stop = min(start + size, axis.n_out)
        first, last = start * axis.down, (stop - 1) * axis.down + n_down
        begin = max(-(-(first + shift - n_up + 1) // axis.up), 0)
        end = min((last - 1 + shift) // axis.up + 1, axis.n_in)
        begin = min(begin, max(end - 1, 0))
        bent = torch.arange(first, last, device=up_taps.device)
        ins = torch.arange(begin, max(end, begin + 1), device=up_taps.device)
        outs = torch.arange(start, stop, device=up_taps.device)
        yield Block(
            slice(start, stop),
            slice(begin, begin + len(ins)),
            _banded(up_taps, bent[:, None] + shift - ins * axis.up),
            _banded(down_taps, bent - outs[:, None] * axis.down),
        )


def _banded(taps: Tensor, number: Tensor) -> Tensor:
    """The tap of each number, 0 where there is none."""
    inside = (number >= 0) & (number < len(taps))
    return torch.where(inside, taps[number.clamp(0, len(taps) - 1)], 0.0)


def _growth(taps: Tensor, axes: tuple[Axis, Axis]) -> float:
    """How much larger than every value that goes in one can be that is upsampled."""
    sums = [
        max(float(taps[i :: axis.up].abs().sum()) for i in range(axis.up)) * axis.up
        for axis in axes
    ]
    return sums[0] * sums[1]


def filtered_lrelu(
    x: Tensor,
    gain: Tensor,
    offset: Tensor,
    axes: tuple[Axis, Axis],
    up_taps: Tensor,
    down_taps: Tensor,
    clamp: float | None,
) -> Tensor:
    """``x gain + offset``, upsampled, leaky ReLU of slope 0.2, clamped, downsampled.

    x : (n, channels, height, width), best with channels last. gain : (n, channels). offset :
    (channels,). axes : of x and y. up_taps : (taps,). down_taps : (taps,), or of a filter that is
    not separable (taps, taps).
    """
    n, channels, _, width = x.shape
    if n == 0:
        return x.new_zeros(0, channels, axes[1].n_out, axes[0].n_out)
    radial = down_taps.ndim == 2
    line = down_taps[0] if radial else down_taps
    across = list(blocks(axes[0], up_taps, line))
    kernel = down_taps.flip(0, 1).repeat(channels, 1, 1, 1) if radial else None
    growth = _growth(up_taps, axes)
    x = x.permute(0, 2, 3, 1)
    gain = gain[:, None, None]
    stripes = []
    for rows in blocks(axes[1], up_taps, line):
        stripe = torch.addcmul(offset, x[:, rows.ins], gain)
        # To look costs less than to clamp and to differentiate that, and changes no value.
        largest = float(torch.stack(torch.aminmax(stripe.detach())).abs().amax())
        clamps = clamp is not None and not largest * growth < clamp
        stripe = (rows.up @ stripe.reshape(n, -1, width * channels)).view(n, -1, width, channels)
        tiles = []
        for columns in across:
            tile = F.leaky_relu_(columns.up @ stripe[:, :, columns.ins], 0.2)
            if clamps:
                tile = tile.clamp(-clamp, clamp)  # type: ignore[operator]
            if kernel is None:
                tiles.append(columns.down @ tile)
            else:
                tile = tile.permute(0, 3, 1, 2)
                stride = (axes[1].down, axes[0].down)
                tile = F.conv2d(tile, kernel, stride=stride, groups=channels)
                tiles.append(tile.permute(0, 2, 3, 1))
        stripe = torch.cat(tiles, dim=2)
        if kernel is None:
            wide = stripe.reshape(n, -1, axes[0].n_out * channels)
            stripe = (rows.down @ wide).view(n, -1, axes[0].n_out, channels)
        stripes.append(stripe)
    return torch.cat(stripes, dim=1).permute(0, 3, 1, 2)
