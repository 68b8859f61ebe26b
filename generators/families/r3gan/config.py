"""Shape of an R3GAN generator and the names and shapes of its tensors (no torch needed)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: Height and width of the learned basis, the first feature maps.
BASE = 4


@dataclass(frozen=True)
class Stage:
    """One resolution: feature maps, those within a block, their groups, and number of blocks."""

    channels: int
    expanded: int
    groups: int
    blocks: int


@dataclass(frozen=True)
class R3GANConfig:
    """Shape of an R3GAN generator.

    z_dim : width of the input. c_dim, embed_features : class-label inputs, 0 for an unconditional
        generator, and what they are embedded into beside z.
    stages : of 4 x 4, 8 x 8, ... pixels.
    img_channels : of the picture. kernel_size : of the grouped convolutions.
    filter_size : of the filter after zeros are put between the pixels, 0 where nothing is enlarged.
    """

    z_dim: int
    stages: tuple[Stage, ...]
    c_dim: int = 0
    embed_features: int = 0
    img_channels: int = 3
    kernel_size: int = 3
    filter_size: int = 4

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("'stages' is empty: give one a resolution, 4 x 4 first")
        for name in ("z_dim", "img_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name!r} is {getattr(self, name)!r}, expected at least 1")
        if self.kernel_size % 2 != 1:
            raise ValueError(f"'kernel_size' is {self.kernel_size!r}, expected an odd number")
        if self.filter_size < 2 and len(self.stages) > 1:
            raise ValueError(f"'filter_size' is {self.filter_size!r}, expected at least 2")
        if (self.c_dim > 0) != (self.embed_features > 0):
            raise ValueError(
                f"'c_dim' is {self.c_dim!r} and 'embed_features' {self.embed_features!r}: labels "
                "are embedded, so both are 0 or neither is"
            )
        for stage in self.stages:
            if min(stage.channels, stage.expanded, stage.groups) < 1 or stage.blocks < 0:
                raise ValueError(f"'stages' has {stage!r}: widths and groups are at least 1")
            if stage.expanded % stage.groups:
                raise ValueError(f"'stages' has {stage!r}: groups do not divide its maps")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Height and width of each stage: 4, 8, ..."""
        return tuple(BASE << i for i in range(len(self.stages)))

    @property
    def feature_shapes(self) -> dict[str, tuple[int, int, int]]:
        """(channels, height, width) of what each layer puts out, in the order in which they draw:
        b4.basis, b4.block0, ..., b8.up, b8.block0, ..."""
        return {
            f"b{side}.{layer}": (stage.channels, side, side)
            for side, stage in zip(self.resolutions, self.stages, strict=True)
            for layer in (
                "basis" if side == BASE else "up",
                *(f"block{j}" for j in range(stage.blocks)),
            )
        }

    def architecture(self) -> dict[str, Any]:
        """Everything beside the tensors that decides what the generator computes (canonical)."""
        return {**asdict(self), "family": "r3gan", "stages": [asdict(s) for s in self.stages]}

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> R3GANConfig:
        """Inverse of `architecture`; raises ValueError, TypeError or KeyError for another's."""
        fields = {**architecture}
        if fields.pop("family") != "r3gan":
            raise ValueError(f"'family' is {architecture['family']!r}, expected 'r3gan'")
        return cls(**{**fields, "stages": tuple(Stage(**stage) for stage in fields["stages"])})

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor by its name, e.g. "b8.block0.conv1.weight"."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.c_dim:
            shapes["embed.weight"] = (self.embed_features, self.c_dim)
        previous = 0
        for side, stage in zip(self.resolutions, self.stages, strict=True):
            n, wide, kernel = stage.channels, stage.expanded, (self.kernel_size,) * 2
            if not previous:
                shapes[f"b{side}.basis.maps"] = (n, BASE, BASE)
                shapes[f"b{side}.basis.weight"] = (n, self.z_dim + self.embed_features)
            else:
                if previous != n:
                    shapes[f"b{side}.up.weight"] = (n, previous, 1, 1)
                shapes[f"b{side}.up.filter"] = (self.filter_size,) * 2
            for block in (f"b{side}.block{j}" for j in range(stage.blocks)):
                shapes[f"{block}.conv0.weight"] = (wide, n, 1, 1)
                shapes[f"{block}.conv0.bias"] = (wide,)
                shapes[f"{block}.conv1.weight"] = (wide, wide // stage.groups, *kernel)
                shapes[f"{block}.conv1.bias"] = (wide,)
                shapes[f"{block}.conv2.weight"] = (n, wide, 1, 1)
            previous = n
        shapes["torgb.weight"] = (self.img_channels, previous, 1, 1)
        return shapes
