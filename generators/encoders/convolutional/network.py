"""The general convolutional encoder as torch modules.

Each stage is a convolution 3 x 3 of stride 2 and a residual one that keeps the size. The last maps
go, flattened, through a hidden layer, so that a place in the image keeps its meaning; codes with
layers are one code for all and each layer's offset from it (Tov et al., e4e, 2021). Nothing
depends on the other images of a batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.encoders.convolutional.config import ConvolutionalConfig
from generators.encoders.networks import ShapedEncoder
from generators.labelled import label_weights
from generators.protocols import Labels

SLOPE = 0.2


class Stage(nn.Module):
    """Halve the maps, then look at them once more."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.look = nn.Conv2d(outputs, outputs, 3, padding=1)
        for conv in (self.halve, self.look):
            nn.init.kaiming_normal_(conv.weight, SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.halve(x), SLOPE)
        return (x + F.leaky_relu(self.look(x), SLOPE)) * math.sqrt(0.5)


class Convolutional(ShapedEncoder[ConvolutionalConfig]):
    """See the module text; an `generators.encoders.base.EncoderNetwork`.

    centre, deviation : buffers (*shape): a code is ``centre + deviation * what the network finds``.
    """

    centre: Tensor
    deviation: Tensor

    def __init__(self, config: ConvolutionalConfig) -> None:
        super().__init__(config)
        widths = (3, *config.widths)
        self.stages = nn.ModuleList(
            Stage(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        flat = widths[-1] * math.prod(config.last_size)
        self.hidden = nn.Linear(flat, config.features)
        if config.classes:
            self.embed = nn.Linear(config.classes, config.features, bias=False)
        layered = config.repeated is not None
        base = math.prod(config.shape[1:]) if layered else config.dimensions
        self.code = nn.Linear(config.features, base)
        if layered:
            self.offsets = nn.Linear(config.features, config.dimensions)
            nn.init.zeros_(self.offsets.weight)
            nn.init.zeros_(self.offsets.bias)
        nn.init.zeros_(self.code.bias)
        nn.init.normal_(self.code.weight, std=0.1 / math.sqrt(config.features))
        self.register_buffer("centre", torch.zeros(config.shape))
        self.register_buffer("deviation", torch.ones(config.shape))

    def calibrate(self, codes: Tensor) -> None:
        """Take mean and standard deviation of codes (n, *shape) for those of all codes; entries
        that do not vary keep 1."""
        with torch.no_grad():
            self.centre.copy_(codes.mean(dim=0))
            deviation = codes.std(dim=0, correction=0)
            self.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def forward(self, images: Tensor, labels: Labels = None) -> Tensor:
        """images (n, 3, *size) in [-1, 1] -> codes (n, *shape); labels as for
        `generators.protocols.Generator`.

        Raises UsageError where labels are missing, or of other classes.
        """
        x = images
        for stage in self.stages:
            x = stage(x)
        hidden = self.hidden(x.flatten(1))
        if self.config.classes:
            weights = label_weights(self.config.classes, labels, len(images), images.device)
            hidden = hidden + self.embed(weights)
        hidden = F.leaky_relu(hidden, SLOPE)
        code = self.code(hidden)
        if self.config.repeated is not None:
            offsets = self.offsets(hidden).reshape(-1, *self.config.shape)
            code = code.reshape(-1, 1, *self.config.shape[1:]) + offsets
        return self.centre + self.deviation * code.reshape(-1, *self.config.shape)

    def encode(self, images: Tensor, space: str, labels: Labels = None) -> Tensor:
        """Codes float32 (n, *shape of the space): see `forward`; of the space that layers repeat,
        their mean."""
        code = self(images, labels)
        return code.mean(dim=1) if space == self.config.repeated else code
