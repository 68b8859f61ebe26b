"""The network of `latentflow_woodcut.rubbing`."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn


class Linear(nn.Module):
    """See `generators.encoders.base.EncoderNetwork`."""

    def __init__(self, architecture: dict[str, Any]) -> None:
        super().__init__()
        self._architecture = architecture
        height, width = architecture["size"]
        self.size = (int(height), int(width))
        self.layer = nn.Linear(3 * height * width, math.prod(architecture["shape"]))

    def architecture(self) -> dict[str, Any]:
        """As it was designed."""
        return self._architecture

    def encode(self, images: Tensor, space: str) -> Tensor:
        """Codes (n, *shape) of pictures (n, 3, height, width) in [-1, 1]."""
        return self.layer(images.flatten(1)).unflatten(1, self._architecture["shape"])
