"""Encoders of the pSp framework: a backbone, and heads for w or for the layers of w_plus.

Richardson et al. 2021 (pSp), Tov et al. 2021 (e4e), Alaluf et al. 2021 (ReStyle). Computed as their
programs do, of images in [-1, 1]. One that is also shown what its last code draws (six channels)
gives no code at once: from a code, of which the first is the mean of w, it finds a better one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.encoders.psp.backbone import Backbone, Norm
from generators.encoders.psp.config import PYRAMID, PspConfig
from generators.encoders.psp.framing import resized, shrunk
from generators.equalised import FullyConnectedLayer
from generators.protocols import Code
from schemas.errors import UsageError


class StyleHead(nn.Module):
    """One code of a map: strided convolutions until nothing of it is left to halve."""

    def __init__(self, width: int, w_dim: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k in range(depth):
            layers += [nn.Conv2d(w_dim if k else width, w_dim, 3, 2, padding=1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = FullyConnectedLayer(w_dim, w_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width, h, w) -> (n, w_dim)."""
        found: Tensor = self.linear(self.convs(x).flatten(1))
        return found


class PspEncoder(Backbone):
    """See `generators.encoders.psp.config.PspConfig`."""

    latent_avg: Tensor

    def __init__(self, config: PspConfig) -> None:
        super().__init__(config)
        self.config = config
        last, w_dim = config.channels[-1], config.w_dim
        if depths := config.depths():
            self.styles = nn.ModuleList(StyleHead(last, w_dim, depth) for depth in depths)
        if config.head == "pyramid":
            self.latlayer1 = nn.Conv2d(config.channels[-2], last, 1)
            self.latlayer2 = nn.Conv2d(config.channels[-3], last, 1)
        elif config.head == "linear":
            self.output_layer_2 = nn.Sequential(
                Norm(last),
                nn.AdaptiveAvgPool2d(7),
                nn.Flatten(),
                nn.Linear(last * 49, w_dim),
            )
            self.linear = FullyConnectedLayer(w_dim, w_dim * config.styles)
        elif config.head == "pooled":
            self.linear = FullyConnectedLayer(last, w_dim)
        self.register_buffer("latent_avg", torch.zeros(max(1, config.num_ws), w_dim))

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the images; None where they are cut to it."""
        height, width = self.config.size
        return (height, width) if height == width else None

    @property
    def refines(self) -> bool:
        """Whether it is shown what its last code draws."""
        return self.config.refines

    @property
    def mean(self) -> Tensor:
        """The code that is refined first, float32 (num_ws, w_dim) or of one w (w_dim,)."""
        return self.latent_avg if self.config.num_ws else self.latent_avg[0]

    def architecture(self) -> dict[str, Any]:
        """See `PspConfig.architecture`."""
        return self.config.architecture()

    def encode(self, images: Tensor, space: str) -> Tensor:
        """Codes of images (n, 3, h, w) in [-1, 1], of `size` where it has one.

        Raises UsageError of an encoder that refines.
        """
        if self.refines:
            raise UsageError(
                "this encoder refines a code by what it draws, and gives none of an image alone: "
                "use 'refine', or 'invert.method: refine'"
            )
        return self._offsets(resized(images, self.config.size), space) + self._mean_of(space)

    def refine(self, images: Tensor, drawn: Tensor, code: Code) -> Code:
        """A better code of images (n, 3, h, w) in [-1, 1] than the one that draws `drawn`
        (n, 3, H, W), of the generator's size."""
        size = self.config.size
        both = torch.cat([resized(images, size), shrunk(drawn, size)], dim=1)
        return code.moved(code.main + self._offsets(both, code.space))

    def _mean_of(self, space: str) -> Tensor:
        return self.latent_avg[0] if space == "w" else self.latent_avg

    def _offsets(self, x: Tensor, space: str) -> Tensor:
        """Codes before the mean is added."""
        config = self.config
        maps = list(self.maps(x))
        if config.head == "pooled":
            w: Tensor = self.linear(maps[-1].mean(dim=(2, 3)))
            return w if space == "w" else w[:, None].repeat(1, config.num_ws, 1)
        if config.head == "linear":
            hidden = self.linear(self.output_layer_2(maps[-1]))
            codes = hidden.view(-1, config.styles, config.w_dim)[:, : config.num_ws]
            return codes
        heads = self.styles[: config.num_ws]
        if config.head == "map":
            given = [maps[-1]] * len(heads)
        else:
            middle = _upsampled(maps[-1], self.latlayer1(maps[-2]))
            fine = _upsampled(middle, self.latlayer2(maps[-3]))
            levels = (maps[-1], middle, fine)
            given = [levels[sum(i >= at for at in PYRAMID)] for i in range(len(heads))]
        codes = torch.stack([head(x) for head, x in zip(heads, given, strict=True)], dim=1)
        if config.offsets:
            codes = torch.cat([codes[:, :1], codes[:, :1] + codes[:, 1:]], dim=1)
        return codes


def _upsampled(x: Tensor, beside: Tensor) -> Tensor:
    """A map resized to the size of another, and added to it."""
    size = beside.shape[-2:]
    return F.interpolate(x, size, mode="bilinear", align_corners=True) + beside
