"""Shape of a Progressive GAN generator and the names and shapes of its tensors (no torch needed).

The codes that there are train the same function in different forms: weights scaled at run time or
not, biases scaled with them or not, upsampling fused with a convolution or not. Ours are the
weights as they act, so that the same function has the same tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FAMILY = "pggan"
ACTIVATIONS = ("linear", "tanh")
#: Channels of a picture that can be drawn: grey and RGB.
CHANNELS = (1, 3)
#: Combinations of labels that are drawn as classes, at most.
MAX_CLASSES = 65536


@dataclass(frozen=True)
class PGGANConfig:
    """Shape of a Progressive GAN generator.

    inputs : width of what the first layer reads: z, then the labels.
    channels : feature maps of the blocks of 4, 8, ... pixels.
    label_sizes : values of each label, one hot after z; () for an unconditional generator. A class
        is a combination of one value of each label, the last label's counted first.
    img_channels : 1 (grey) or 3 (RGB).
    normalize_input : the input, z and labels together, is scaled to mean square 1.
    pixel_norm : so is every pixel of what a layer puts out.
    epsilon : added to these mean squares.
    slope : of the leaky ReLU; 0 is a ReLU.
    output_activation : of the picture, "linear" or "tanh".
    blend : share, from 0 to below 1, of the picture of half the size in a training that fades a
        resolution in.
    upscale : how often, as a power of two, the picture's side is repeated, of a training that has
        not come to the full resolution.
    """

    inputs: int
    channels: tuple[int, ...]
    label_sizes: tuple[int, ...] = ()
    img_channels: int = 3
    normalize_input: bool = True
    pixel_norm: bool = True
    epsilon: float = 1e-8
    slope: float = 0.2
    output_activation: str = "linear"
    blend: float = 0.0
    upscale: int = 1

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"'channels' is {self.channels!r}, expected at least 1 in each block")
        if self.img_channels not in CHANNELS:
            raise ValueError(
                f"images have {self.img_channels!r} channels, only 1 (grey) and 3 (RGB) are "
                "implemented: of RGB and further channels keep the first three of the last layer"
            )
        if any(size < 1 for size in self.label_sizes):
            raise ValueError(f"'label_sizes' is {self.label_sizes!r}, expected at least 1 in each")
        if self.classes > MAX_CLASSES:
            raise ValueError(
                f"labels of {self.label_sizes!r} values have {self.classes!r} combinations, at "
                f"most {MAX_CLASSES!r} are drawn as classes"
            )
        if self.z_dim < 1:
            raise ValueError(
                f"labels of {self.label_sizes!r} values leave none of {self.inputs!r} inputs for z"
            )
        if self.output_activation not in ACTIVATIONS:
            raise ValueError(
                f"'output_activation' is {self.output_activation!r}, expected one of "
                f"{list(ACTIVATIONS)!r}"
            )
        if not (0 <= self.slope and 0 < self.epsilon and math.isfinite(self.slope + self.epsilon)):
            raise ValueError(
                f"'slope' is {self.slope!r} and 'epsilon' {self.epsilon!r}, expected at least 0 "
                "and more than 0"
            )
        if not 0 <= self.blend < 1 or (self.blend and len(self.channels) == 1):
            raise ValueError(
                f"'blend' is {self.blend!r} with {len(self.channels)!r} blocks, expected a share "
                "from 0 to below 1, of one block 0"
            )
        if self.upscale < 1 or self.upscale & (self.upscale - 1):
            raise ValueError(f"'upscale' is {self.upscale!r}, expected 1, 2, 4, ...")

    @property
    def sides(self) -> tuple[int, ...]:
        """Height and width of what each block puts out: 4, 8, ..."""
        return tuple(4 << i for i in range(len(self.channels)))

    @property
    def resolution(self) -> int:
        """Height and width of the images."""
        return self.sides[-1] * self.upscale

    @property
    def z_dim(self) -> int:
        """Width of z."""
        return self.inputs - sum(self.label_sizes)

    @property
    def classes(self) -> int:
        """Combinations of the labels' values, 0 where there are no labels."""
        return math.prod(self.label_sizes) if self.label_sizes else 0

    @property
    def feature_shapes(self) -> dict[str, tuple[int, int, int]]:
        """(channels, height, width) of what each layer puts out, b4.dense first."""
        return {
            f"b{side}.{layer}": (channels, side, side)
            for side, channels in zip(self.sides, self.channels, strict=True)
            for layer in (("dense", "conv") if side == 4 else ("conv0", "conv1"))
        }

    def architecture(self) -> dict[str, Any]:
        """Everything beside the tensors that decides what the generator computes (canonical)."""
        return {
            "family": FAMILY,
            "inputs": self.inputs,
            "channels": list(self.channels),
            "label_sizes": list(self.label_sizes),
            "img_channels": self.img_channels,
            "normalize_input": self.normalize_input,
            "pixel_norm": self.pixel_norm,
            "epsilon": float(self.epsilon),
            "slope": float(self.slope),
            "output_activation": self.output_activation,
            "blend": float(self.blend),
            "upscale": self.upscale,
        }

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> PGGANConfig:
        """Inverse of `architecture`; raises ValueError for another family."""
        if architecture.get("family") != FAMILY:
            raise ValueError(
                f"'family' is {architecture.get('family')!r}, expected {FAMILY!r}: "
                "open the file with the adapter of its own family"
            )
        return cls(
            inputs=int(architecture["inputs"]),
            channels=tuple(int(n) for n in architecture["channels"]),
            label_sizes=tuple(int(n) for n in architecture["label_sizes"]),
            img_channels=int(architecture["img_channels"]),
            normalize_input=bool(architecture["normalize_input"]),
            pixel_norm=bool(architecture["pixel_norm"]),
            epsilon=float(architecture["epsilon"]),
            slope=float(architecture["slope"]),
            output_activation=str(architecture["output_activation"]),
            blend=float(architecture["blend"]),
            upscale=int(architecture["upscale"]),
        )

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by its name.

        The first layer, "b4.dense", has one row and one bias a number that it puts out, (channels,
        4, 4) in C order; only pictures that are drawn have their layer, "b<side>.torgb".
        """
        shapes: dict[str, tuple[int, ...]] = {}
        previous = self.inputs
        for name, (channels, _, _) in self.feature_shapes.items():
            if name == "b4.dense":
                shapes[f"{name}.weight"] = (16 * channels, previous)
                shapes[f"{name}.bias"] = (16 * channels,)
            else:
                shapes[f"{name}.weight"] = (channels, previous, 3, 3)
                shapes[f"{name}.bias"] = (channels,)
            previous = channels
        drawn = 2 if self.blend else 1
        for side, channels in list(zip(self.sides, self.channels, strict=True))[-drawn:]:
            shapes[f"b{side}.torgb.weight"] = (self.img_channels, channels, 1, 1)
            shapes[f"b{side}.torgb.bias"] = (self.img_channels,)
        return shapes
