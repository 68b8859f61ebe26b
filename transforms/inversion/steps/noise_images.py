"""Noise images that are moved beside a code (Karras et al. 2020, appendix D).

Left alone they would take over what the code should say, so that they are kept noise: their pixels
must not tell of their neighbours at any scale, and after each step they have mean 0 and deviation
1 again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 8
"""Pixels of the smallest scale."""


def first_noise(
    shapes: Mapping[str, tuple[int, ...]], rngs: Sequence[np.random.Generator]
) -> dict[str, Tensor]:
    """Standard normal noise images of every row by its own random numbers, layer by layer.

    shapes : of one row's image, by layer
    """
    drawn = {}
    for name, shape in shapes.items():
        rows = [rng.standard_normal(shape, np.float32) for rng in rngs]
        drawn[name] = torch.from_numpy(np.stack(rows))
    return drawn


def regularity(images: Mapping[str, Tensor]) -> Tensor:
    """Of each row, summed over layers and scales: squares of the mean products of pixels with their
    neighbours along x and y, the edges' beyond the other edge. (n,).

    images : by layer, (n, h, w). Each scale is the one before, averaged over 2 x 2 pixels, down to
    8; as in the official program, which leaves out the paper's factor 2 of every average.
    """
    total = torch.zeros(())
    for image in images.values():
        while True:
            for axis in (2, 1):
                product = image * torch.roll(image, 1, axis)
                total = total + product.flatten(1).mean(dim=1).square()
            if image.shape[2] <= SMALLEST:
                break
            image = F.avg_pool2d(image, 2)
    return total


def renormalise(images: Mapping[str, Tensor]) -> None:
    """Give every image (n, h, w) mean 0 and deviation 1, in place."""
    with torch.no_grad():
        for image in images.values():
            image -= image.mean(dim=(1, 2), keepdim=True)
            image *= image.square().mean(dim=(1, 2), keepdim=True).rsqrt()
