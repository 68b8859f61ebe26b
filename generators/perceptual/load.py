"""Perceptual distances from files, ready to compare pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from generators.perceptual.distance import channel_distance
from generators.perceptual.files import FEATURES64, PerceptualFile, read_perceptual
from generators.perceptual.network import FeatureNetwork
from generators.perceptual.official import official_maps
from schemas.errors import UsageError

CHUNK = 32
"""Pictures that are compared at once when many are given."""


class PerceptualDistance:
    """LPIPS with one network: "LPIPS*" by the project's own, "LPIPS" by VGG16 or AlexNet.

    title, key : what its figures are called where they are shown, and where they are stored
    fingerprint : 64 hex digits, the same for the same distance
    """

    def __init__(self, file: PerceptualFile, device: torch.device | str = "cpu") -> None:
        architecture = file.architecture
        self.title, self.key, self.fingerprint = architecture.title, architecture.key, ""
        self.fingerprint = file.fingerprint
        self.device = torch.device(device)
        tensors = {k: torch.from_numpy(v.copy()).to(device) for k, v in file.tensors.items()}
        self._weights: list[Tensor] | None = None
        if architecture.linear:
            self._weights = [tensors.pop(f"lin{k}") for k in range(len(architecture.maps))]
        self._maps: Callable[[Tensor], list[Tensor]]
        if architecture is FEATURES64:
            network = FeatureNetwork().to(device).requires_grad_(False)
            network.load_state_dict({f"layers.{name}": v for name, v in tensors.items()})
            self._maps = lambda images: network.maps(network.fitted(images))
        else:
            self._maps = lambda images: official_maps(architecture.name, tensors, images)

    def maps(self, images: Tensor) -> list[Tensor]:
        """What is compared, of images float32 (n, 3, h, w) in [-1, 1], grey ones in each channel.

        Maps of a target that is compared again and again are made once. Differentiable.
        Raises UsageError for another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UsageError(
                f"'images' must be float (n, 3, height, width) in [-1, 1], got {images.dtype} "
                f"{list(images.shape)!r}: repeat grey in three channels"
            )
        return self._maps(images)

    def between_maps(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """`between` of images whose `maps` these are."""
        return channel_distance(a, b, self._weights)

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each pair, float32 (n,), 0 of equal images; differentiable.

        a, b : float32 (n, 3, height, width) in [-1, 1]. A row that is not finite gives NaN, and
        touches no other.

        Raises UsageError for images of two shapes, or of another than this.
        """
        if a.shape != b.shape:
            raise UsageError(
                f"images of one shape are compared, got {list(a.shape)!r} and {list(b.shape)!r}"
            )
        return self.between_maps(self.maps(a), self.maps(b))

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Distance of each pair of images uint8 (n, height, width, 3): float32 (n,).

        Raises UsageError for another type or shape, or two shapes.
        """
        for images in (a, b):
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
                raise UsageError(
                    f"images must be uint8 (n, height, width, 3), got {images.dtype} "
                    f"{list(images.shape)!r}: repeat grey in three channels"
                )
        if a.shape != b.shape:
            raise UsageError(
                f"images of one shape are compared, got {list(a.shape)!r} and {list(b.shape)!r}"
            )
        found = np.empty(len(a), np.float32)
        with torch.no_grad():
            for start in range(0, len(a), CHUNK):
                rows = slice(start, start + CHUNK)
                found[rows] = self.between(self._given(a[rows]), self._given(b[rows])).cpu().numpy()
        return found

    def _given(self, images: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def load_perceptual(
    uri: str, linear: str | None = None, device: torch.device | str = "cpu"
) -> PerceptualDistance:
    """The distance by the network at ``uri``; see `generators.perceptual.files`.

    linear : path of the linear weights, where the network's file has none

    Raises CheckpointError for a file that is missing, damaged or of another network.
    """
    return PerceptualDistance(read_perceptual(uri, linear), device)
