"""Losses of the bundled models' training; images are (n, 3, size, size) in [-1, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.training.annotators import Annotators


def reconstruction_loss(y: Tensor, x: Tensor) -> Tensor:
    """Squared and absolute pixel error and absolute error of the image gradients."""
    d = y - x
    edges = d.diff(dim=2).abs().mean() + d.diff(dim=3).abs().mean()
    return 4 * d.square().mean() + 0.5 * d.abs().mean() + edges


def structure_loss(y: Tensor, x: Tensor) -> Tensor:
    """1 - SSIM with a uniform 7 x 7 window, images in [-1, 1] (Wang et al. 2004)."""

    def mean(a: Tensor) -> Tensor:
        return F.avg_pool2d(a, 7, stride=1)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.02**2, 0.06**2
    ssim_map = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return 1 - ssim_map.mean()


def feature_weight(landmarks: Tensor, size: int) -> Tensor:
    """1 far from the face's features, 11 on them, (n, 1, size, size).

    landmarks : (n, 68, 2) pixels; brows, nose, eyes and mouth (18 to 68) have Gaussian spots.
    """
    at = torch.arange(size) + 0.5
    spread = -0.5 / 1.5**2
    x = torch.exp(spread * (landmarks[:, 17:, 0, None] - at) ** 2)
    y = torch.exp(spread * (landmarks[:, 17:, 1, None] - at) ** 2)
    return 1 + 10 * torch.einsum("npy,npx->nyx", y, x).clamp(max=1)[:, None]


def detail_loss(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Squared, absolute and gradient error, weighted by pixel."""
    d = y - x
    pixels = (weight * (4 * d.square() + d.abs())).mean()
    down = (weight[:, :, 1:] * d.diff(dim=2).abs()).mean()
    return pixels + down + (weight[..., 1:] * d.diff(dim=3).abs()).mean()


def feature_loss(net: Annotators, y: Tensor, x: Tensor) -> Tensor:
    """Relative absolute difference of the feature maps of `y` and `x`, mean over four scales."""
    with torch.no_grad():
        wanted = net.features(x)
    pairs = zip(net.features(y), wanted, strict=True)
    return torch.stack([(a - b).abs().mean() / b.abs().mean() for a, b in pairs]).mean()


def code_loss(w: Tensor, offsets: Tensor) -> Tensor:
    """Zero mean, unit variance, uncorrelated w over the batch; small offsets."""
    mean = w.mean(dim=0)
    spread = w.var(dim=0)
    return (
        0.02 * mean.square().mean()
        + 0.02 * (spread - 1).square().mean()
        + 0.004 * offsets.square().mean()
        + 0.002 * w.square().mean()
    )


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two samples (n, d), (m, d) (Szekely and Rizzo 2013)."""
    n, m = len(x), len(y)
    between = torch.cdist(x, y).mean()
    return 2 * between - torch.pdist(x).sum() * 2 / (n * n) - torch.pdist(y).sum() * 2 / (m * m)
