"""Shapes of a general convolutional encoder, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from generators.encoders.shape import EncoderShape
from generators.protocols import ModelFacts

LAST_SIDE = 4
"""Pixels: images are halved while both sides stay at least this long."""


@dataclass(frozen=True)
class ConvolutionalConfig(EncoderShape):
    """Shape of a `generators.encoders.convolutional.network.Convolutional`.

    size : any. repeated : codes are one of that space and the layers' offsets from it.
    channels, channel_max : feature maps after the first halving, and the most of all.
    features : width of the hidden layer before the code.
    """

    FAMILY = "convolutional"

    channels: int = 32
    channel_max: int = 256
    features: int = 512

    @classmethod
    def for_generator(cls, facts: ModelFacts, space: str, **widths: int) -> Self:
        """The encoder of a generator's images into one of its spaces."""
        target = facts.space(space)
        return cls(
            size=facts.size,
            space=space,
            shape=target.shape,
            repeated=facts.repeated(space),
            classes=facts.classes if target.conditional else 0,
            **widths,
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Feature maps after each halving."""
        halvings, side = 0, min(self.size)
        while (side := math.ceil(side / 2)) >= LAST_SIDE:
            halvings += 1
        return tuple(min(self.channels << k, self.channel_max) for k in range(max(halvings, 1)))

    @property
    def last_size(self) -> tuple[int, int]:
        """Height and width of the last feature maps."""
        height, width = self.size
        for _ in self.widths:
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        return height, width
