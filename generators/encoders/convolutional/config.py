"""Shapes of a general convolutional encoder, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from generators.protocols import ModelFacts

FAMILY = "convolutional"
LAST_SIDE = 4
"""Pixels: images are halved while both sides stay at least this long."""


@dataclass(frozen=True)
class ConvolutionalConfig:
    """Shape of a `generators.encoders.convolutional.network.Convolutional`.

    size : (height, width) of the images in pixels, any.
    space, shape : of the codes, as the generator has them.
    repeated : the space whose code each layer of ``space`` repeats, into which it also encodes:
        codes are then one of that space and the layers' offsets from it. None where there is none.
    classes : of the labels that the encoder takes, 0 for none.
    channels, channel_max : feature maps after the first halving, and the most of all.
    features : width of the hidden layer before the code.
    """

    size: tuple[int, int]
    space: str
    shape: tuple[int, ...]
    repeated: str | None = None
    classes: int = 0
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

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Self:
        """Inverse of `architecture`. Raises KeyError, TypeError or ValueError."""
        given = {name: value for name, value in architecture.items() if name != "family"}
        height, width = (int(side) for side in given.pop("size"))
        shape = tuple(int(n) for n in given.pop("shape"))
        return cls(size=(height, width), shape=shape, **given)

    def architecture(self) -> dict[str, Any]:
        """Canonical description, part of the fingerprint."""
        facts = asdict(self)
        return {
            "family": FAMILY,
            **facts,
            "size": list(self.size),
            "shape": list(self.shape),
        }

    @property
    def spaces(self) -> dict[str, tuple[int, ...]]:
        """Spaces into which it encodes, its own one last."""
        base = {} if self.repeated is None else {self.repeated: self.shape[1:]}
        return {**base, self.space: self.shape}

    @property
    def dimensions(self) -> int:
        """Entries of a code."""
        return math.prod(self.shape)

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
