"""How close a reconstruction is to its original: MSE, PSNR and SSIM per image.

All take two batches uint8 (n, height, width, channels), that is images already rounded to 8 bits,
read as values in [0, 1], and return float64 (n,). An image's result does not depend on the others
in its batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1 = 0.01
SSIM_K2 = 0.03

_STRIP = 54  # outputs a filter product makes at once: 64 inputs for the 11-tap window
_CHUNK_BYTES = 1 << 19  # one float64 map of a chunk of planes: the working set stays in cache


def mse(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean squared error over pixels and channels, in [0, 1].

    a, b : uint8 (n, height, width, channels)
    Returns float64 (n,). The squares are summed in integers, so the result is exact.
    """
    a, b = _checked(a, b)
    out = np.empty(len(a))
    for i in range(len(a)):  # per image: temporaries stay small for 1024 px batches
        difference = a[i].astype(np.int32) - b[i]
        out[i] = np.square(difference, out=difference).sum(dtype=np.int64)
    if len(a):
        out /= 255.0**2 * a[0].size
    return out


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB with peak 1: ``10 log10(1 / mse)``.

    a, b : uint8 (n, height, width, channels)
    Returns float64 (n,); ``inf`` where the two images are equal.
    """
    return psnr_from_mse(mse(a, b))


def psnr_from_mse(error: NDArray[np.float64]) -> NDArray[np.float64]:
    """PSNR in dB of mean squared errors on the [0, 1] scale; ``inf`` at zero."""
    out = np.full(np.shape(error), np.inf)
    positive = np.asarray(error) > 0
    out[positive] = -10.0 * np.log10(np.asarray(error)[positive])
    return out


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004, eq. 13), mean over channels.

    a, b : uint8 (n, height, width, channels), both sides at least 11 pixels
    Returns float64 (n,) in [-1, 1]; exactly 1 for equal images.

    Gaussian window 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, population moments, averaged over
    the positions where the window lies inside the image ("valid"), as in the authors' ssim_index.m
    without its optional downsampling. Raises DataError for smaller images.
    """
    a, b = _checked(a, b)
    n, height, width, channels = a.shape
    if min(height, width) < SSIM_WINDOW:
        raise DataError(
            f"ssim needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, "
            f"got {height} x {width}"
        )
    x = a.transpose(0, 3, 1, 2).reshape(n * channels, height, width)
    y = b.transpose(0, 3, 1, 2).reshape(n * channels, height, width)
    per_plane = np.empty(n * channels)
    step = max(1, _CHUNK_BYTES // (8 * height * width))
    for start in range(0, len(per_plane), step):
        part = slice(start, start + step)
        per_plane[part] = _ssim_planes(x[part] / 255.0, y[part] / 255.0).mean(axis=(1, 2))
    similarity: NDArray[np.float64] = per_plane.reshape(n, channels).mean(axis=1)
    return similarity


def _ssim_planes(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """SSIM maps (n, height - 10, width - 10) of float64 planes (n, height, width) in [0, 1].

    The variances enter only as their sum, so four filtered maps do instead of five.
    """
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    mean_x, mean_y = _blur(x), _blur(y)
    squares = _blur(x * x + y * y)
    products = _blur(x * y)
    mean_xy = mean_x * mean_y
    mean_xx_yy = mean_x * mean_x + mean_y * mean_y
    numerator = (2.0 * mean_xy + c1) * (2.0 * (products - mean_xy) + c2)
    similarity: NDArray[np.float64] = numerator / ((mean_xx_yy + c1) * (squares - mean_xx_yy + c2))
    return similarity


def _gaussian() -> NDArray[np.float64]:
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    window: NDArray[np.float64] = np.exp(-(offsets**2) / (2.0 * SSIM_SIGMA**2))
    window /= window.sum()
    return window


def _band(outputs: int) -> NDArray[np.float64]:
    """(outputs, outputs + 10): row i holds the window at columns i..i + 10."""
    band = np.zeros((outputs, outputs + SSIM_WINDOW - 1))
    window = _gaussian()
    for i in range(outputs):
        band[i, i : i + SSIM_WINDOW] = window
    return band


def _blur(planes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Separable valid Gaussian filter over the last two axes, as banded matrix products.

    A band of 54 outputs by 64 inputs costs six times the arithmetic of 11 taps and is still
    faster: one BLAS product replaces 11 passes over memory.
    """
    return _blur_rows(np.swapaxes(_blur_rows(np.swapaxes(planes, -1, -2)), -1, -2))


def _blur_rows(planes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Valid filter along the last axis."""
    outputs = planes.shape[-1] - SSIM_WINDOW + 1
    strips = []
    for start in range(0, outputs, _STRIP):
        size = min(_STRIP, outputs - start)
        # contiguous, so that every plane takes the same BLAS path whatever the batch
        inputs = np.ascontiguousarray(planes[..., start : start + size + SSIM_WINDOW - 1])
        strips.append(inputs @ _band(size).T)
    return strips[0] if len(strips) == 1 else np.concatenate(strips, axis=-1)


def _checked(
    a: NDArray[np.uint8], b: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise DataError(
            f"metrics compare uint8 images, got {a.dtype} and {b.dtype}: round with to_uint8()"
        )
    if a.ndim != 4 or a.shape != b.shape:
        raise DataError(
            f"metrics compare two batches (n, height, width, channels) of one shape, "
            f"got {a.shape} and {b.shape}"
        )
    return a, b
