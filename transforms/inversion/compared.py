"""What is measured of reconstructions: of each drawn image beside its original."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transforms.images.metrics import SSIM_WINDOW, mse, psnr_from_mse, ssim

if TYPE_CHECKING:
    from generators.perceptual import PerceptualDistance


def measure(
    images: NDArray[np.uint8],
    drawn: NDArray[np.uint8],
    perceptual: PerceptualDistance | None = None,
) -> dict[str, NDArray[np.floating]]:
    """Qualities of drawn images against the originals, both uint8 (n, h, w, 3): name -> (n,).

    SSIM is NaN for images smaller than its window.
    """
    error = mse(images, drawn)
    small = min(images.shape[1:3]) < SSIM_WINDOW or not len(images)
    similarity = np.full(len(images), np.nan) if small else ssim(images, drawn)
    found = {"mse": error, "psnr": psnr_from_mse(error), "ssim": similarity}
    return found if perceptual is None else {**found, perceptual.key: perceptual(images, drawn)}
