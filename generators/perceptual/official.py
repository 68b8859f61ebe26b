"""VGG16 and AlexNet up to their last convolution, as LPIPS takes them (Zhang et al. 2018).

Constants and maps are those of the authors' package lpips 0.1.4, version "0.1".
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.errors import UsageError

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation, of channels in [-1, 1]."""

_MAPS = {"vgg16": (2, 7, 14, 21, 28), "alexnet": (0, 3, 6, 8, 10)}
"""The convolutions whose ReLU puts out a map; pooling follows some of them."""
_POOLED = {"vgg16": (2, 7, 14, 21), "alexnet": (0, 3)}
_WINDOW = {"vgg16": 2, "alexnet": 3}
_PADDING = {"vgg16": {}, "alexnet": {0: 2, 3: 2}}
SMALLEST = {"vgg16": 16, "alexnet": 31}
"""Pixels of the shorter side that leave something to the last map."""


def official_maps(name: str, tensors: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
    """Images float32 (n, 3, h, w) in [-1, 1] -> five maps, (n, c, h', w').

    Raises UsageError for images below `SMALLEST` pixels.
    """
    if min(images.shape[-2:]) < SMALLEST[name]:
        raise UsageError(
            f"LPIPS by {name} compares images of at least {SMALLEST[name]} pixels a side, got "
            f"{list(images.shape[-2:])!r}: use the project's own network for smaller ones"
        )
    x = (images - _constant(SHIFT, images)) / _constant(SCALE, images)
    maps = []
    for k in sorted(int(key.partition(".")[0]) for key in tensors if key.endswith(".weight")):
        stride, padding = (4 if (name, k) == ("alexnet", 0) else 1), _PADDING[name].get(k, 1)
        x = F.relu(F.conv2d(x, tensors[f"{k}.weight"], tensors[f"{k}.bias"], stride, padding))
        if k in _MAPS[name]:
            maps.append(x)
        if k in _POOLED[name]:
            x = F.max_pool2d(x, _WINDOW[name], 2)
    return maps


def _constant(values: tuple[float, ...], images: Tensor) -> Tensor:
    return torch.tensor(values, dtype=images.dtype, device=images.device).view(-1, 1, 1)
