"""Shape of a StyleGAN generator and the names and shapes of its tensors (no torch needed)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

#: Least resolution at which ``fused_scale`` "auto" upsamples by a transposed convolution.
FUSED_FROM = 128
FusedScale = bool | Literal["auto"]
ACTIVATIONS = ("linear", "tanh")


def fused_scale_of(fused: Collection[int], resolution: int) -> FusedScale:
    """The setting of a generator that upsamples to the sides `fused` by transposed convolutions,
    to the other ones up to `resolution` by repeated pixels.

    Raises ValueError where there is none.
    """
    sides = [2**i for i in range(3, resolution.bit_length())]
    by_setting: dict[FusedScale, list[int]] = {
        False: [],
        True: sides,
        "auto": [side for side in sides if side >= FUSED_FROM],
    }
    for setting, expected in by_setting.items():
        if sorted(fused) == expected:
            return setting
    raise ValueError(
        f"upsampling is a transposed convolution at {sorted(fused)!r} of {sides!r} pixels, "
        f"expected at none, at all, or from {FUSED_FROM} on"
    )


@dataclass(frozen=True)
class StyleGAN1Config:
    """Shape of a StyleGAN generator.

    z_dim, w_dim : widths of the input and intermediate latent.
    c_dim : number of class-label inputs, 0 for an unconditional generator.
    img_resolution : output width and height in pixels, a power of two from 4.
    img_channels : output colour channels.
    channels : feature maps at each resolution 4, 8, ..., img_resolution.
    num_mapping_layers, mapping_features : depth of the mapping network, from 0, and width of its
        hidden layers.
    lr_multiplier : learning-rate multiplier of the mapping layers; part of the function computed.
    fused_scale : upsampling is a convolution transposed with stride 2 (True), nearest-neighbour
        followed by a convolution (False), or the first from 128 px on ("auto"). Both read the same
        weights, but one of them flipped: the images differ.
    norm_epsilon : added to the variance by instance normalisation.
    bias_before_blur : the bias of an upsampling layer is added before its blur, and noise alone
        after it.
    output_activation : of the picture, "linear" or "tanh".
    """

    z_dim: int
    w_dim: int
    c_dim: int
    img_resolution: int
    img_channels: int
    channels: tuple[int, ...]
    num_mapping_layers: int
    mapping_features: int
    lr_multiplier: float = 0.01
    fused_scale: FusedScale = "auto"
    norm_epsilon: float = 1e-8
    bias_before_blur: bool = False
    output_activation: str = "linear"

    def __post_init__(self) -> None:
        resolution = self.img_resolution
        if resolution < 4 or resolution & (resolution - 1):
            raise ValueError(
                f"'img_resolution' is {resolution!r}, expected a power of two from 4: "
                "give 4, 8, 16, ..."
            )
        least = {"z_dim": 1, "w_dim": 1, "c_dim": 0, "img_channels": 1, "num_mapping_layers": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name!r} is {getattr(self, name)!r}, expected at least {value}")
        if len(self.channels) != len(self.resolutions) or min(self.channels) < 1:
            raise ValueError(
                f"'channels' are {self.channels!r}, 'img_resolution' {resolution} has "
                f"{len(self.resolutions)} blocks: give one count for each, from 1"
            )
        if not self.num_mapping_layers and self.mapping_input != self.w_dim:
            raise ValueError(
                f"'w_dim' is {self.w_dim!r}, but without mapping layers it is that of z and label, "
                f"{self.mapping_input!r}"
            )
        if not isinstance(self.fused_scale, bool) and self.fused_scale != "auto":
            raise ValueError(
                f"'fused_scale' is {self.fused_scale!r}, expected true, false or 'auto'"
            )
        if self.output_activation not in ACTIVATIONS:
            raise ValueError(
                f"'output_activation' is {self.output_activation!r}, expected one of "
                f"{list(ACTIVATIONS)!r}"
            )

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Of the blocks: 4, 8, ..., img_resolution."""
        return tuple(2**i for i in range(2, self.img_resolution.bit_length()))

    @property
    def mapping_input(self) -> int:
        """Width of z, and of the label's row, which has z's width."""
        return self.z_dim * (2 if self.c_dim else 1)

    @property
    def layers(self) -> tuple[tuple[str, int, int, int], ...]:
        """(name, resolution, channels in, channels out) of each layer, one w_plus row each:
        b4.const (0 in), b4.conv1, b8.conv0, b8.conv1, ..."""
        return tuple(self._layers())

    def layer(self, name: str) -> tuple[int, int, int]:
        """Resolution, channels in and channels out of one layer."""
        return next((side, n_in, n) for layer, side, n_in, n in self._layers() if layer == name)

    def _layers(self) -> Iterator[tuple[str, int, int, int]]:
        before = 0
        for side, n in zip(self.resolutions, self.channels, strict=True):
            yield f"b{side}.conv0" if before else "b4.const", side, before, n
            yield f"b{side}.conv1", side, n, n
            before = n

    @property
    def style_dim(self) -> int:
        """Styles of all layers: a scale and a shift for each channel."""
        return sum(2 * out for _, _, _, out in self.layers)

    def fused(self, resolution: int) -> bool:
        """Whether upsampling to a resolution is a transposed convolution."""
        if self.fused_scale == "auto":
            return resolution >= FUSED_FROM
        return bool(self.fused_scale)

    def architecture(self) -> dict[str, Any]:
        """Everything beside the tensors that decides what the generator computes (canonical)."""
        unused = self.fused_scale is False and self.img_resolution < FUSED_FROM
        other: dict[str, Any] = {}  # than in the official code
        if self.norm_epsilon != 1e-8:
            other["norm_epsilon"] = float(self.norm_epsilon)
        if self.bias_before_blur:
            other["bias_before_blur"] = True
        if self.output_activation != "linear":
            other["output_activation"] = self.output_activation
        return {
            "family": "stylegan1",
            "z_dim": self.z_dim,
            "w_dim": self.w_dim,
            "c_dim": self.c_dim,
            "img_resolution": self.img_resolution,
            "img_channels": self.img_channels,
            "channels": list(self.channels),
            "num_mapping_layers": self.num_mapping_layers,
            "mapping_features": self.mapping_features,
            "lr_multiplier": float(self.lr_multiplier),
            "fused_scale": "auto" if unused else self.fused_scale,
            **other,
        }

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> StyleGAN1Config:
        """Inverse of `architecture`; raises ValueError, KeyError or TypeError for another."""
        if architecture.get("family") != "stylegan1":
            raise ValueError(
                f"'family' is {architecture.get('family')!r}, expected 'stylegan1': "
                "open the file with the adapter of its own family"
            )
        given = {name: value for name, value in architecture.items() if name != "family"}
        return cls(**{**given, "channels": tuple(architecture["channels"])})

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor by name, e.g. "synthesis.b8.conv0.weight"."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.c_dim:
            shapes["mapping.embed.weight"] = (self.z_dim, self.c_dim)
        width = self.mapping_input
        for i in range(self.num_mapping_layers):
            last = i == self.num_mapping_layers - 1
            out = self.w_dim if last else self.mapping_features
            shapes[f"mapping.fc{i}.weight"] = (out, width)
            shapes[f"mapping.fc{i}.bias"] = (out,)
            width = out
        shapes["mapping.w_avg"] = (self.w_dim,)
        for layer, side, n_in, n in self.layers:
            name = f"synthesis.{layer}"
            if n_in:
                shapes[f"{name}.weight"] = (n, n_in, 3, 3)
            else:
                shapes[f"{name}.input"] = (n, side, side)
            shapes[f"{name}.noise_strength"] = (n,)
            shapes[f"{name}.noise_const"] = (side, side)
            shapes[f"{name}.bias"] = (n,)
            shapes[f"{name}.affine.weight"] = (2 * n, self.w_dim)
            shapes[f"{name}.affine.bias"] = (2 * n,)
        shapes["synthesis.torgb.weight"] = (self.img_channels, self.channels[-1], 1, 1)
        shapes["synthesis.torgb.bias"] = (self.img_channels,)
        return shapes
