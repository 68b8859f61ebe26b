"""Four distances of every row of two tensors (n, ...) -> (n,), differentiable, 0 of equal rows.

Yu and Wang (2021), eqs. 3, 4 and 7. What they leave open is settled thus:

- eq. 3 prints |w - w'|_2 / n; with the name MSE beside it, and as the authors' code has it, it is
  the mean of the squares over the entries of a row.
- eq. 4, -sum S(w') log(S(w) / S(w')), is the divergence KL(S(w') || S(w)) of the reconstruction
  from the original, at least 0 as printed. The softmax S goes over all entries of a row, of a
  picture over its pixels and colours; near 0 it is half the variance of w' - w under S(w).
- the cosine is of all entries of a row as one vector, and no row sees another: the authors' code
  takes the whole batch as one vector.
- SSIM enters as 1 - SSIM, so that all are distances.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def mean_squared(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference (eq. 3)."""
    return (a - b).flatten(1).square().mean(dim=1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of the rows as vectors (eq. 3), from 0 to 2."""
    return 1.0 - F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1, eps=1e-12)


def divergence(a: Tensor, b: Tensor) -> Tensor:
    """KL(softmax(b) || softmax(a)) (eq. 4), with a the original."""
    original, other = F.log_softmax(a.flatten(1), dim=1), F.log_softmax(b.flatten(1), dim=1)
    return F.kl_div(original, other, reduction="none", log_target=True).sum(dim=1)


def dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """1 - SSIM of images (n, c, h, w) in [-1, 1], from 0 to 2; as `transforms.images.metrics.ssim`
    measures it.

    Images narrower than its window of 11 pixels get one that is their shorter side wide.
    """
    x, y = a / 2 + 0.5, b / 2 + 0.5
    n, channels, height, width = x.shape
    window = _window(min(SSIM_WINDOW, height, width), x)
    maps, k = torch.cat([x, y, x * x + y * y, x * y], dim=1), 4 * channels
    along_x, along_y = (window.view(1, 1, *s).expand(k, -1, -1, -1) for s in ((1, -1), (-1, 1)))
    blurred = F.conv2d(F.conv2d(maps, along_x, groups=k), along_y, groups=k)
    mean_x, mean_y, squares, products = blurred.reshape(n, 4, -1).unbind(dim=1)
    mean_xy, mean_squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    numerator = (2 * mean_xy + SSIM_C1) * (2 * (products - mean_xy) + SSIM_C2)
    denominator = (mean_squares + SSIM_C1) * (squares - mean_squares + SSIM_C2)
    return 1.0 - (numerator / denominator).mean(dim=1)


def _window(width: int, like: Tensor) -> Tensor:
    """A Gaussian of sum 1, (width,)."""
    offsets = [k - (width - 1) / 2 for k in range(width)]
    weights = [math.exp(-(t * t) / (2.0 * SSIM_SIGMA**2)) for t in offsets]
    total = sum(weights)
    return torch.tensor([w / total for w in weights], dtype=like.dtype, device=like.device)
