"""Sizes of the pictures and codes of an encoder that is designed for a generator, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self


@dataclass(frozen=True)
class EncoderShape:
    """What the shapes of all such encoders have; their widths are those of a subclass.

    FAMILY : name of the `generators.encoders.base.EncoderArchitecture`.
    size : (height, width) of the images in pixels.
    space, shape : of the codes, as the generator has them.
    repeated : the space whose code each layer of ``space`` repeats, into which it also encodes.
        None where there is none.
    classes : of the labels that the encoder takes, 0 for none.
    """

    FAMILY: ClassVar[str]

    size: tuple[int, int]
    space: str
    shape: tuple[int, ...]
    repeated: str | None = None
    classes: int = 0

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Self:
        """Inverse of `architecture`. Raises KeyError, TypeError or ValueError."""
        given = {name: value for name, value in architecture.items() if name != "family"}
        size = tuple(int(side) for side in given.pop("size"))
        shape = tuple(int(n) for n in given.pop("shape"))
        if len(size) != 2:
            raise ValueError(f"'size' is {list(size)!r}, expected (height, width)")
        return cls(size=(size[0], size[1]), shape=shape, **given)

    def architecture(self) -> dict[str, Any]:
        """Canonical description, part of the fingerprint."""
        given = asdict(self)
        return {
            "family": self.FAMILY,
            **given,
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
