"""Shapes of a diverse similarity encoder, without torch: Tables I and II of Yu and Wang (2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from generators.encoders.shape import EncoderShape
from generators.protocols import ModelFacts
from schemas.errors import UsageError

LEAST_SIDE = 8
"""Pixels: the tables' last block but one; smaller images leave no block to halve them."""


@dataclass(frozen=True)
class DSEConfig(EncoderShape):
    """Shape of a `generators.encoders.dse.network.DSE`.

    size : a block halves the images until the shorter side is below 8, as the tables' 256, 512 and
        1,024 px end at 4.
    repeated : the layers' mean goes into that space.
    layered : codes have layers, each told by the statistics of one convolution (StyleGAN's form);
        else the last block's fully connected layer tells them (that of PGGAN and BigGAN).
    classes : for conditional batch normalisation in place of instance normalisation.
    class_dim : last entries of a code that stand for the class (BigGAN's c'), 0 for none.
    channel_base, channel_max : a block that sees images of ``side`` pixels takes
        min(channel_base / side, channel_max) channels. The tables' are 16,384 and 512.
    fused_scale : each halving is one convolution of stride 2, as in PGGAN (the paper's strategy 2).
    """

    FAMILY = "dse"

    layered: bool = False
    class_dim: int = 0
    channel_base: int = 16384
    channel_max: int = 512
    fused_scale: bool = False

    def __post_init__(self) -> None:
        if min(self.size) < LEAST_SIDE:
            raise ValueError(f"'size' is {list(self.size)!r}, expected sides of at least 8 pixels")
        if self.layered and len(self.shape) != 2:
            raise ValueError(
                f"'shape' is {list(self.shape)!r}, expected (layers, width) of a layered space"
            )
        if not 0 <= self.class_dim < self.dimensions or (self.class_dim and not self.classes):
            raise ValueError(
                f"'class_dim' is {self.class_dim!r} of codes with {self.dimensions!r} entries and "
                f"{self.classes!r} classes, expected a part of a code of a model with classes"
            )
        if min(self.channel_base // self.side, self.channel_max) < 1:
            raise ValueError(
                f"'channel_base' is {self.channel_base!r} and 'channel_max' {self.channel_max!r}, "
                f"which leaves no channel at {self.side} pixels: raise 'channel_base'"
            )

    @classmethod
    def for_generator(
        cls,
        facts: ModelFacts,
        *,
        space: str | None = None,
        channel_base: int = 16384,
        channel_max: int = 512,
        fused_scale: bool = False,
    ) -> Self:
        """The encoder of a generator's images into one of its spaces, by default its own one.

        Raises UsageError for images too small, and a space that is what a layer puts out.
        """
        target = facts.space(space or facts.default_space)
        if target.injected_into is not None:
            raise UsageError(
                f"space {target.name!r} is what a layer puts out, and no code is drawn from it: "
                f"encode into {facts.default_space!r}"
            )
        repeated = facts.repeated(target.name)
        latent = facts.spaces.get(target.derived_from or "")
        beside = 0
        if latent is not None and latent.conditional and not target.layered:
            # BigGAN's zc: z, and the class embedding at its end
            beside = math.prod(target.shape) - math.prod(latent.shape)
        labelled = target.conditional or beside > 0
        try:
            return cls(
                size=facts.size,
                space=target.name,
                shape=target.shape,
                repeated=repeated,
                layered=target.layered and len(target.shape) == 2,
                classes=facts.classes if labelled else 0,
                class_dim=max(beside, 0),
                channel_base=channel_base,
                channel_max=channel_max,
                fused_scale=fused_scale,
            )
        except ValueError as e:
            raise UsageError(f"no such encoder for this {facts.family} generator: {e}") from e

    @property
    def side(self) -> int:
        """Pixels of the longer side up to a power of two: what the widths go by."""
        return 1 << (max(self.size) - 1).bit_length()

    @cached_property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """Channels in and out of each block; all but the last halve the images."""
        count = min(self.size).bit_length() - 2
        widths = [
            min(self.channel_base * 2**k // self.side, self.channel_max) for k in range(count + 1)
        ]
        pairs = list(zip(widths, widths[1:], strict=False))
        return (*pairs[:-1], (widths[count - 1], widths[count - 1]))

    @property
    def last_size(self) -> tuple[int, int]:
        """Height and width of what the last block puts out, the constant z_c'."""
        halvings = len(self.blocks) - 1
        return self.size[0] >> halvings, self.size[1] >> halvings

    @cached_property
    def taps(self) -> tuple[int, ...]:
        """For each layer of a code, coarsest first, the convolution that tells it, counted from the
        images: the tables' order backwards where the generator has two layers for each block, and
        the nearest place in proportion otherwise (StyleGAN3)."""
        if not self.layered:
            return ()
        places, layers = 2 * len(self.blocks), self.shape[0]
        return tuple(places - 1 - layer * places // layers for layer in range(layers))
