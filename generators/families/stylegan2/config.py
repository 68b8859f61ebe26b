"""Shape of a StyleGAN2 generator and the names and shapes of its tensors (no torch needed)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RESAMPLE_TAPS: tuple[float, ...] = (1.0, 3.0, 3.0, 1.0)
#: How blocks are connected: only the last one draws; each adds to the picture so far; residual.
CONNECTIONS = ("orig", "skip", "resnet")
#: Channels of a picture that can be drawn: grey, RGB, and RGB with opacity.
CHANNELS = (1, 3, 4)
MAX_TAPS = 64


@dataclass(frozen=True)
class StyleGAN2Config:
    """Shape of a StyleGAN2 generator.

    z_dim, w_dim : widths of the input and intermediate latent.
    c_dim : number of class-label inputs, 0 for an unconditional generator.
    img_resolution : output width and height in pixels, a power of two from 4; of a generator that
        does not begin with 4 x 4, the one that it would have if it did.
    img_channels : output colour channels: grey, RGB, or RGB and opacity.
    channel_base, channel_max : feature maps at resolution r are
        ``min(channel_base // r, channel_max)``.
    channels : feature maps for each resolution 4, 8, ..., given explicitly; replaces the rule of
        channel_base and channel_max (which are then ignored) when not empty.
    num_mapping_layers, mapping_features, embed_features : depth of the mapping network, width of
        its hidden layers and of the label embedding (both default to w_dim).
    lr_multiplier : learning-rate multiplier of the mapping layers; part of the function computed.
    w_avg_beta : decay of the running average of w.
    conv_clamp : clamp of every layer's activations to [-conv_clamp, conv_clamp], or None.
    connections : one of `CONNECTIONS`, "architecture" of the official code.
    resample_filter : taps of the filter of every upsampling, the same in both directions, as
        `filters.taps_of` gives them; their scale makes no difference.
    const_size : (height, width) of the constant that the first block begins with.
    use_noise : whether layers have noise inputs.
    num_fp16_res : draw the blocks of so many highest resolutions in float16, at most those from 8.
    """

    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    img_resolution: int = 1024
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    num_mapping_layers: int = 8
    lr_multiplier: float = 0.01
    w_avg_beta: float = 0.998
    conv_clamp: float | None = None
    mapping_features: int | None = None
    embed_features: int | None = None
    channels: tuple[int, ...] = field(default=())
    connections: str = "skip"
    resample_filter: tuple[float, ...] = RESAMPLE_TAPS
    const_size: tuple[int, int] = (4, 4)
    use_noise: bool = True
    num_fp16_res: int = 0

    def __post_init__(self) -> None:
        resolution = self.img_resolution
        if resolution < 4 or resolution & (resolution - 1):
            raise ValueError(
                f"'img_resolution' is {resolution!r}, expected a power of two from 4: "
                "give 4, 8, 16, ..."
            )
        for name in ("z_dim", "w_dim", "img_channels", "num_mapping_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name!r} is {getattr(self, name)!r}, expected at least 1")
        if self.c_dim < 0:
            raise ValueError(f"'c_dim' is {self.c_dim!r}, expected 0 (no labels) or more")
        if self.channels and len(self.channels) != len(self.block_resolutions):
            raise ValueError(
                f"'channels' has {len(self.channels)} entries, 'img_resolution' {resolution} has "
                f"{len(self.block_resolutions)} blocks: give one entry for each resolution"
            )
        if min(self.block_channels) < 1:
            raise ValueError(
                f"feature maps {self.block_channels!r} include less than 1: raise 'channel_base' "
                f"({self.channel_base!r}) or 'channel_max' ({self.channel_max!r})"
            )
        if self.connections not in CONNECTIONS:
            raise ValueError(
                f"'connections' is {self.connections!r}, expected one of {CONNECTIONS!r}"
            )
        taps = self.resample_filter
        if not 1 <= len(taps) <= MAX_TAPS or not math.isfinite(sum(taps)) or abs(sum(taps)) < 1e-6:
            raise ValueError(
                f"'resample_filter' is {list(taps)[:8]!r}, expected from 1 to {MAX_TAPS} finite "
                "numbers whose sum is not 0"
            )
        if len(self.const_size) != 2 or min(self.const_size) < 1:
            raise ValueError(
                f"'const_size' is {self.const_size!r}, expected height and width from 1"
            )
        if self.num_fp16_res < 0:
            raise ValueError(f"'num_fp16_res' is {self.num_fp16_res!r}, expected 0 or more")
        most = len(self.block_resolutions) - 1
        if self.num_fp16_res > most:
            raise ValueError(
                f"'num_fp16_res' is {self.num_fp16_res!r}, a generator of {resolution!r} pixels "
                f"has {most!r} resolutions from 8 on: give at most that"
            )

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """Resolutions of the synthesis blocks: 4, 8, ..., img_resolution."""
        return tuple(2**i for i in range(2, self.img_resolution.bit_length()))

    @property
    def block_channels(self) -> tuple[int, ...]:
        """Feature maps of each synthesis block, in the order of `block_resolutions`."""
        if self.channels:
            return tuple(self.channels)
        return tuple(
            min(self.channel_base // resolution, self.channel_max)
            for resolution in self.block_resolutions
        )

    @property
    def num_ws(self) -> int:
        """Number of w vectors that the synthesis network reads: 2 log2(resolution) - 2."""
        return 2 * len(self.block_resolutions)

    @property
    def block_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each block's feature maps, in the order of `block_resolutions`."""
        height, width = self.const_size
        return tuple((height << i, width << i) for i in range(len(self.block_resolutions)))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images in pixels."""
        return self.block_sizes[-1]

    def draws(self, resolution: int) -> bool:
        """Whether the block of a resolution has an image output (torgb)."""
        return self.connections == "skip" or resolution == self.img_resolution

    def in_float16(self, resolution: int) -> bool:
        """Whether the block of a resolution is drawn in float16; never the first."""
        return resolution >= max(2 * self.img_resolution >> self.num_fp16_res, 8)

    @property
    def style_widths(self) -> dict[str, int]:
        """Width of every layer's style, its input channels, in the order of s: b4.conv1, b4.torgb,
        b8.conv0, b8.conv1, b8.torgb, ..., as far as there are such layers."""
        widths: dict[str, int] = {}
        previous = 0
        for res, n in zip(self.block_resolutions, self.block_channels, strict=True):
            if previous:
                widths[f"b{res}.conv0"] = previous
            widths[f"b{res}.conv1"] = n
            if self.draws(res):
                widths[f"b{res}.torgb"] = n
            previous = n
        return widths

    @property
    def style_dim(self) -> int:
        """Styles of all layers."""
        return sum(self.style_widths.values())

    @property
    def feature_shapes(self) -> dict[str, tuple[int, int, int]]:
        """(channels, height, width) of what each convolution layer puts out, b4.conv1 first."""
        blocks = zip(self.block_resolutions, self.block_channels, self.block_sizes, strict=True)
        return {
            f"b{res}.{layer}": (channels, *size)
            for res, channels, size in blocks
            for layer in (("conv1",) if res == 4 else ("conv0", "conv1"))
        }

    def architecture(self) -> dict[str, Any]:
        """Everything beside the tensors that decides what the generator computes (canonical).

        Connections, noise, the first size and float16 stand in it where they are not the usual.
        """
        unusual = {
            "connections": (self.connections, "skip"),
            "const_size": (list(self.const_size), [4, 4]),
            "use_noise": (self.use_noise, True),
            "num_fp16_res": (self.num_fp16_res, 0),
        }
        return {
            "family": "stylegan2",
            "z_dim": self.z_dim,
            "c_dim": self.c_dim,
            "w_dim": self.w_dim,
            "img_resolution": self.img_resolution,
            "img_channels": self.img_channels,
            "channels": list(self.block_channels),
            "num_mapping_layers": self.num_mapping_layers,
            "mapping_features": self.mapping_features or self.w_dim,
            "embed_features": (self.embed_features or self.w_dim) if self.c_dim else 0,
            "lr_multiplier": float(self.lr_multiplier),
            "conv_clamp": None if self.conv_clamp is None else float(self.conv_clamp),
            "resample_filter": list(self.resample_filter),
            **{name: value for name, (value, usual) in unusual.items() if value != usual},
        }

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> StyleGAN2Config:
        """Inverse of `architecture`; raises ValueError for another family."""
        if architecture.get("family") != "stylegan2":
            raise ValueError(
                f"'family' is {architecture.get('family')!r}, expected 'stylegan2': "
                "open the file with the adapter of its own family"
            )
        names = (
            "z_dim c_dim w_dim img_resolution img_channels num_mapping_layers mapping_features "
            "lr_multiplier conv_clamp"
        ).split()
        return cls(
            **{name: architecture[name] for name in names},
            embed_features=architecture["embed_features"] or None,
            channels=tuple(architecture["channels"]),
            connections=architecture.get("connections", "skip"),
            resample_filter=tuple(map(float, architecture.get("resample_filter", RESAMPLE_TAPS))),
            const_size=tuple(architecture.get("const_size", (4, 4))),
            use_noise=architecture.get("use_noise", True),
            num_fp16_res=architecture.get("num_fp16_res", 0),
        )

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor by its official name, e.g. "mapping.fc0.weight"."""
        shapes: dict[str, tuple[int, ...]] = {}
        hidden = self.mapping_features or self.w_dim
        width = self.z_dim
        if self.c_dim:
            embed = self.embed_features or self.w_dim
            shapes["mapping.embed.weight"] = (embed, self.c_dim)
            shapes["mapping.embed.bias"] = (embed,)
            width += embed
        for i in range(self.num_mapping_layers):
            out = self.w_dim if i == self.num_mapping_layers - 1 else hidden
            shapes[f"mapping.fc{i}.weight"] = (out, width)
            shapes[f"mapping.fc{i}.bias"] = (out,)
            width = out
        shapes["mapping.w_avg"] = (self.w_dim,)
        previous = 0
        blocks = zip(self.block_resolutions, self.block_channels, self.block_sizes, strict=True)
        for res, n, size in blocks:
            block = f"synthesis.b{res}"
            layers = {"conv0": previous, "conv1": n} if previous else {"conv1": n}
            if not previous:
                shapes[f"{block}.const"] = (n, *size)
            for layer, n_in in layers.items():
                name = f"{block}.{layer}"
                shapes[f"{name}.weight"] = (n, n_in, 3, 3)
                if self.use_noise:
                    shapes[f"{name}.noise_strength"] = ()
                    shapes[f"{name}.noise_const"] = size
                shapes[f"{name}.bias"] = (n,)
                shapes[f"{name}.affine.weight"] = (n_in, self.w_dim)
                shapes[f"{name}.affine.bias"] = (n_in,)
            if self.connections == "resnet" and previous:
                shapes[f"{block}.skip.weight"] = (n, previous, 1, 1)
            if self.draws(res):
                shapes[f"{block}.torgb.weight"] = (self.img_channels, n, 1, 1)
                shapes[f"{block}.torgb.bias"] = (self.img_channels,)
                shapes[f"{block}.torgb.affine.weight"] = (n, self.w_dim)
                shapes[f"{block}.torgb.affine.bias"] = (n,)
            previous = n
        return shapes
