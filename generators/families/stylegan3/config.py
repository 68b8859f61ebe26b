"""Shape of a StyleGAN3 generator and the names and shapes of its tensors (no torch needed).

What no tensor shows stands here layer by layer: sizes, factors of resampling, padding, clamp. The
filters themselves are tensors, so the cutoffs that they were once designed for decide nothing more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: How labels enter the mapping network: not at all, by a linear layer, or (StyleGAN-XL) by a table
#: of embeddings and a projection of them, with a mean of w for each class.
LABELS = ("none", "linear", "table")


@dataclass(frozen=True)
class LayerShape:
    """One layer: modulated convolution, then a leaky ReLU between resampling filters.

    name : "L<number>_<width>_<channels>" in the official code.
    in_size, out_size : (width, height) in samples, margins included.
    kernel : side of the convolution's kernel.
    up, down : factors of resampling around the leaky ReLU. up_taps, down_taps : length of their
        filters, 1 for none. radial : the filter after it is not separable.
    padding : samples added before and after, in x and in y, at the upsampled rate; negative ones
        are cut off.
    to_rgb : the last layer, neither demodulated nor bent.
    """

    name: str
    in_channels: int
    out_channels: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: int
    up: int = 1
    down: int = 1
    up_taps: int = 1
    down_taps: int = 1
    radial: bool = False
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    to_rgb: bool = False

    def __post_init__(self) -> None:
        counts = ("in_channels", "out_channels", "kernel", "up", "down", "up_taps", "down_taps")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{self.name!r} has {name!r} {getattr(self, name)!r}: give 1 or more"
                )
        if self.to_rgb and (self.up, self.down) != (1, 1):
            raise ValueError(
                f"{self.name!r} resamples by {self.up!r} and {self.down!r}, but a last layer that "
                "does is not implemented: give it the sampling rate of the layer before it"
            )
        for axis, at in (("width", 0), ("height", 1)):
            found = self.drawn(axis=at)
            if found != self.out_size[at]:
                raise ValueError(
                    f"{self.name!r} draws a {axis} of {found!r} from {self.in_size[at]!r} samples, "
                    f"'out_size' says {self.out_size[at]!r}: give the padding of its filters"
                )

    def drawn(self, axis: int) -> int:
        """Samples that come out along x (0) or y (1)."""
        before, after = self.padding[2 * axis : 2 * axis + 2]
        bent = (self.in_size[axis] + self.kernel - 1) * self.up + before + after - self.up_taps + 1
        return (bent - self.down_taps) // self.down + 1


@dataclass(frozen=True)
class StyleGAN3Config:
    """Shape of a StyleGAN3 generator.

    z_dim, w_dim : widths of the input and intermediate latent.
    c_dim : classes of labels, 0 for an unconditional generator. labels : one of `LABELS`.
    embed_features : width of the table of embeddings, 0 without one.
    layers : see `LayerShape`; `generators.families.stylegan3.design` makes them of the official
        arguments. The first reads the Fourier features that a drawing begins with.
    sampling_rate : of the Fourier features, samples in a picture's width. bandwidth : their
        frequencies above it are dampened, to 0 at half the sampling rate.
    num_mapping_layers : depth of the mapping network.
    lr_multiplier : learning-rate multiplier of the mapping layers; part of the function computed.
    conv_clamp : clamp of every layer's activations to [-conv_clamp, conv_clamp], or None.
    output_scale : of the last layer's values.
    w_avg_beta, magnitude_ema_beta : decay in training of the running averages of w and of each
        layer's magnitude.
    """

    layers: tuple[LayerShape, ...]
    sampling_rate: float
    bandwidth: float
    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    labels: str = "none"
    embed_features: int = 0
    num_mapping_layers: int = 2
    lr_multiplier: float = 0.01
    conv_clamp: float | None = 256.0
    output_scale: float = 0.25
    w_avg_beta: float = 0.998
    magnitude_ema_beta: float = 0.999

    def __post_init__(self) -> None:
        for name in ("z_dim", "w_dim", "num_mapping_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name!r} is {getattr(self, name)!r}, expected at least 1")
        if self.labels not in LABELS or (self.labels == "none") != (self.c_dim == 0):
            raise ValueError(
                f"'labels' is {self.labels!r} with 'c_dim' {self.c_dim!r}, expected one of "
                f"{LABELS!r}, and 'none' with 0"
            )
        if (self.labels == "table") != (self.embed_features != 0):
            raise ValueError(
                f"'embed_features' is {self.embed_features!r} with 'labels' {self.labels!r}: give "
                "it with 'table' alone"
            )
        if [layer.to_rgb for layer in self.layers] != [False] * (len(self.layers) - 1) + [True]:
            raise ValueError("'layers' must end with the one layer that is 'to_rgb'")
        for before, layer in zip(self.layers, self.layers[1:], strict=False):
            read, given = (
                (layer.in_channels, layer.in_size),
                (before.out_channels, before.out_size),
            )
            if read != given:
                raise ValueError(
                    f"{layer.name!r} reads {read!r}, channels and size, {before.name!r} gives "
                    f"{given!r}"
                )

    def check_features(self) -> None:
        """Raise ValueError where no Fourier features have the bandwidth and sampling rate, which no
        tensor shows: a specification may give them for a state dict that was read."""
        if not 0 < self.bandwidth < self.sampling_rate / 2:
            raise ValueError(
                f"'bandwidth' is {self.bandwidth!r} at a 'sampling_rate' of "
                f"{self.sampling_rate!r}, expected more than 0 and less than half of it: give both "
                "as the network was trained, of a state dict under 'generator'"
            )
        if not self.lr_multiplier > 0:
            raise ValueError(f"'lr_multiplier' is {self.lr_multiplier!r}, expected more than 0")

    @property
    def img_size(self) -> tuple[int, int]:
        """(width, height) of the images."""
        return self.layers[-1].out_size

    @property
    def img_channels(self) -> int:
        """Channels of the images."""
        return self.layers[-1].out_channels

    @property
    def num_ws(self) -> int:
        """Number of w vectors that the synthesis network reads: of the input, then each layer."""
        return 1 + len(self.layers)

    @property
    def style_dim(self) -> int:
        """Styles of all layers: four numbers that place the input, then each layer's channels."""
        return 4 + sum(layer.in_channels for layer in self.layers)

    @property
    def feature_shapes(self) -> dict[str, tuple[int, int, int]]:
        """(channels, height, width) of what each layer before the last puts out, margins
        included."""
        return {
            layer.name: (layer.out_channels, layer.out_size[1], layer.out_size[0])
            for layer in self.layers[:-1]
        }

    def architecture(self) -> dict[str, Any]:
        """Everything beside the tensors that decides what the generator computes (canonical)."""
        return {
            "family": "stylegan3",
            "z_dim": self.z_dim,
            "c_dim": self.c_dim,
            "w_dim": self.w_dim,
            "labels": self.labels,
            "embed_features": self.embed_features,
            "num_mapping_layers": self.num_mapping_layers,
            "lr_multiplier": float(self.lr_multiplier),
            "conv_clamp": None if self.conv_clamp is None else float(self.conv_clamp),
            "output_scale": float(self.output_scale),
            "sampling_rate": float(self.sampling_rate),
            "bandwidth": float(self.bandwidth),
            "layers": [_written(layer) for layer in self.layers],
        }

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> StyleGAN3Config:
        """Inverse of `architecture`; raises KeyError, TypeError or ValueError for another family
        or what is no layer."""
        if architecture.get("family") != "stylegan3":
            raise ValueError(
                f"'family' is {architecture.get('family')!r}, expected 'stylegan3': "
                "open the file with the adapter of its own family"
            )
        names = (
            "z_dim c_dim w_dim labels embed_features num_mapping_layers lr_multiplier conv_clamp "
            "output_scale sampling_rate bandwidth"
        ).split()
        config = cls(
            layers=tuple(_read(layer) for layer in architecture["layers"]),
            **{name: architecture[name] for name in names},
        )
        config.check_features()
        return config

    @cached_property
    def _mapping_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        width = self.z_dim
        if self.labels == "linear":
            shapes["embed.weight"] = (self.w_dim, self.c_dim)
            shapes["embed.bias"] = (self.w_dim,)
            width += self.w_dim
        elif self.labels == "table":
            shapes["embed.weight"] = (self.c_dim, self.embed_features)
            shapes["embed_proj.weight"] = (self.z_dim, self.embed_features)
            shapes["embed_proj.bias"] = (self.z_dim,)
            width += self.z_dim
        for i in range(self.num_mapping_layers):
            shapes[f"fc{i}.weight"] = (self.w_dim, width)
            shapes[f"fc{i}.bias"] = (self.w_dim,)
            width = self.w_dim
        by_class = (self.c_dim,) if self.labels == "table" else ()
        shapes["w_avg"] = (*by_class, self.w_dim)
        return shapes

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor by its official name, e.g. "synthesis.input.freqs"."""
        shapes = {f"mapping.{name}": shape for name, shape in self._mapping_shapes.items()}
        n = self.layers[0].in_channels
        shapes |= {
            "synthesis.input.weight": (n, n),
            "synthesis.input.transform": (3, 3),
            "synthesis.input.freqs": (n, 2),
            "synthesis.input.phases": (n,),
            "synthesis.input.affine.weight": (4, self.w_dim),
            "synthesis.input.affine.bias": (4,),
        }
        for layer in self.layers:
            name = f"synthesis.{layer.name}"
            kernel = (layer.kernel, layer.kernel)
            shapes[f"{name}.weight"] = (layer.out_channels, layer.in_channels, *kernel)
            shapes[f"{name}.bias"] = (layer.out_channels,)
            shapes[f"{name}.magnitude_ema"] = ()
            if layer.up_taps > 1:
                shapes[f"{name}.up_filter"] = (layer.up_taps,)
            if layer.down_taps > 1:
                shapes[f"{name}.down_filter"] = (layer.down_taps,) * (2 if layer.radial else 1)
            shapes[f"{name}.affine.weight"] = (layer.in_channels, self.w_dim)
            shapes[f"{name}.affine.bias"] = (layer.in_channels,)
        return shapes


def _pair(value: Any) -> tuple[int, int]:
    width, height = value
    return int(width), int(height)


def _written(layer: LayerShape) -> dict[str, Any]:
    values = dataclasses.asdict(layer)
    for name in ("in_size", "out_size", "padding"):
        values[name] = list(values[name])
    return values


def _read(values: Mapping[str, Any]) -> LayerShape:
    padding = tuple(int(value) for value in values["padding"])
    sizes = {name: _pair(values[name]) for name in ("in_size", "out_size")}
    return LayerShape(**{**values, **sizes, "padding": padding})
