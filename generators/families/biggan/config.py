"""Shape of a BigGAN and the names and shapes of its tensors (no torch needed).

Brock, Donahue, Simonyan 2019, appendix B: a first linear layer, residual blocks whose batch
normalisation is conditioned on the class embedding and on z, self attention (Zhang et al. 2019)
after one or more of them, and a last convolution. Spectral normalisation is folded into the
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

FAMILY = "biggan"
#: Kinds of blocks -> how many batch normalisations, and as many convolutions, each one has.
NORMS: Mapping[str, int] = {"plain": 2, "deep": 4}
#: What of z a block is conditioned on: all of it, a chunk of its own, or nothing.
LATENTS = ("whole", "chunks", "first")
PRIORS = ("normal", "truncated_normal")
#: Inner channels of a deep block are this share of those that it takes.
BOTTLENECK = 4
#: Share of the channels in each part of self attention.
ATTENTION: Mapping[str, int] = {"theta": 8, "phi": 8, "g": 2}
#: Channels of a picture that can be drawn: grey and RGB.
CHANNELS = (1, 3)


class Block(NamedTuple):
    """A residual block: channels that it takes and gives, and whether it doubles the sides."""

    taken: int
    given: int
    doubles: bool


@dataclass(frozen=True)
class BigGANConfig:
    """Shape of a BigGAN.

    z_dim, c_dim : widths of the latent and of the class embedding.
    classes : of labels. embedded : the embedding is learned; else it is the classes' weights
        themselves, so that each class has a gain and a bias of its own in every normalisation.
    kind : "plain" blocks of two 3 x 3 convolutions, or "deep" ones with a bottleneck.
    latents : of `LATENTS`: deep blocks see all of z, those of a hierarchical BigGAN a chunk each
        after the one of the first layer, the others none.
    side : of the first layer's maps.
    blocks : in their order. attention : numbers of blocks after which self attention stands.
    channels : of the images, 1 or 3.
    prior : of z. bn_eps : added to the variances of the blocks' normalisations. output_eps : of
        the last one's; None where it is the same.
    statistics : sets of means and variances that each normalisation holds; of more than one they
        are of truncations from 0 to 1, evenly spaced.
    statistics_truncation : the truncation whose set is used; None where there is one set.
    """

    z_dim: int
    c_dim: int
    classes: int
    embedded: bool
    kind: str
    latents: str
    side: int
    blocks: tuple[Block, ...]
    attention: tuple[int, ...] = ()
    channels: int = 3
    prior: str = "normal"
    bn_eps: float = 1e-5
    output_eps: float | None = None
    statistics: int = 1
    statistics_truncation: float | None = None

    def __post_init__(self) -> None:
        for name in ("z_dim", "c_dim", "classes", "side", "statistics"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name!r} is {getattr(self, name)!r}, expected at least 1")
        for name, known in (
            ("kind", tuple(NORMS)), ("latents", LATENTS), ("prior", PRIORS), ("channels", CHANNELS)
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(f"{name!r} is {getattr(self, name)!r}, expected one of {known!r}")
        if not self.blocks:
            raise ValueError("'blocks' is empty, expected at least one")
        if (self.kind == "deep") != (self.latents == "whole"):
            raise ValueError(f"'latents' is {self.latents!r} of blocks of kind {self.kind!r}")
        if self.latents == "chunks" and self.z_dim % self.n_layers:
            raise ValueError(
                f"'z_dim' is {self.z_dim!r}, which {self.n_layers!r} equal chunks do not make"
            )
        if not self.embedded and self.c_dim != self.classes:
            raise ValueError(f"'c_dim' is {self.c_dim!r} of {self.classes!r} classes' weights")
        for i, (one, other) in enumerate(zip(self.blocks, self.blocks[1:], strict=False)):
            if one.given != other.taken:
                raise ValueError(
                    f"block {i} gives {one.given!r} channels, the next one takes {other.taken!r}"
                )
        for i, block in enumerate(self.blocks):
            if self.kind == "deep" and (block.taken < BOTTLENECK or block.given > block.taken):
                raise ValueError(
                    f"deep block {i} takes {block.taken!r} channels and gives {block.given!r}: "
                    f"expected at least {BOTTLENECK}, and no more out than in"
                )
        for i in self.attention:
            if not 0 <= i <= len(self.blocks) or self.width(i) < max(ATTENTION.values()):
                raise ValueError(
                    f"'attention' has {i!r} of {len(self.blocks)!r} blocks: expected one that "
                    f"gives at least {max(ATTENTION.values())} channels"
                )
        for name in ("bn_eps", "output_eps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name!r} is {value!r}, expected more than 0")
        if (self.statistics > 1) != (self.statistics_truncation is not None):
            raise ValueError(
                f"'statistics_truncation' is {self.statistics_truncation!r} of "
                f"{self.statistics!r} sets of statistics"
            )
        if self.statistics_truncation is not None and not 0 < self.statistics_truncation <= 1:
            raise ValueError(
                f"'statistics_truncation' is {self.statistics_truncation!r}, expected more than 0 "
                "and up to 1"
            )

    def width(self, blocks: int) -> int:
        """Channels after so many blocks."""
        return self.blocks[blocks - 1].given if blocks else self.blocks[0].taken

    def side_after(self, blocks: int) -> int:
        """Side of the maps after so many blocks."""
        return self.side << sum(block.doubles for block in self.blocks[:blocks])

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.side_after(len(self.blocks))

    @property
    def n_layers(self) -> int:
        """Places that take a part of z: the first layer and, but for "first", each block."""
        return 1 if self.latents == "first" else 1 + len(self.blocks)

    @property
    def layer_dim(self) -> int:
        """Numbers of z that each of these places takes."""
        return self.z_dim // self.n_layers if self.latents == "chunks" else self.z_dim

    @property
    def condition_dim(self) -> int:
        """Numbers that a block's normalisations are conditioned on: its part of z, then c."""
        return self.c_dim + (0 if self.latents == "first" else self.layer_dim)

    @property
    def feature_shapes(self) -> dict[str, tuple[int, int, int]]:
        """(channels, height, width) of what the first layer and each block put out."""
        names = ("linear", *(f"b{i}" for i in range(len(self.blocks))))
        sides = [self.side_after(i) for i in range(len(names))]
        return {
            name: (self.width(i), side, side)
            for i, (name, side) in enumerate(zip(names, sides, strict=True))
        }

    def architecture(self) -> dict[str, Any]:
        """Everything beside the tensors that decides what the generator computes (canonical)."""
        return {
            "family": FAMILY,
            "z_dim": self.z_dim,
            "c_dim": self.c_dim,
            "classes": self.classes,
            "embedded": self.embedded,
            "kind": self.kind,
            "latents": self.latents,
            "side": self.side,
            "blocks": [list(block) for block in self.blocks],
            "attention": list(self.attention),
            "channels": self.channels,
            "prior": self.prior,
            "bn_eps": float(self.bn_eps),
            "output_eps": None if self.output_eps is None else float(self.output_eps),
            "statistics": self.statistics,
            "statistics_truncation": self.statistics_truncation,
        }

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> BigGANConfig:
        """Inverse of `architecture`; raises ValueError for what is none."""
        if architecture.get("family") != FAMILY:
            raise ValueError(f"'family' is {architecture.get('family')!r}, expected {FAMILY!r}")
        given = {name: value for name, value in architecture.items() if name != "family"}
        given["blocks"] = tuple(Block(*block) for block in given["blocks"])
        given["attention"] = tuple(given["attention"])
        return cls(**given)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name.

        Weights of linear layers and convolutions are (out, in, ...); columns of a normalisation's
        "scale" and "shift" are first the block's part of z, then c; rows of "linear" are in the
        order (channels, height, width). Means and variances are (statistics, channels).
        """
        shapes: dict[str, tuple[int, ...]] = {}
        if self.embedded:
            shapes["embedding.weight"] = (self.c_dim, self.classes)
        rows = self.width(0) * self.side**2
        columns = self.layer_dim + (self.c_dim if self.kind == "deep" else 0)
        shapes |= {"linear.weight": (rows, columns), "linear.bias": (rows,)}
        for i in range(len(self.blocks) + 1):
            if i:
                shapes |= self._block_shapes(f"b{i - 1}", self.blocks[i - 1])
            if i in self.attention:
                width = self.width(i)
                for name, share in ATTENTION.items():
                    shapes[f"attention{i}.{name}.weight"] = (width // share, width, 1, 1)
                shapes[f"attention{i}.o.weight"] = (width, width // ATTENTION["g"], 1, 1)
                shapes[f"attention{i}.gamma"] = ()
        width = self.width(len(self.blocks))
        for name in ("mean", "var"):
            shapes[f"output.norm.{name}"] = (self.statistics, width)
        shapes |= {"output.norm.scale": (width,), "output.norm.shift": (width,)}
        shapes |= {"output.conv.weight": (self.channels, width, 3, 3)}
        return shapes | {"output.conv.bias": (self.channels,)}

    def _block_shapes(self, name: str, block: Block) -> dict[str, tuple[int, ...]]:
        inner = block.taken // BOTTLENECK
        widths: tuple[int, ...] = (block.taken, block.given, block.given)
        sizes: tuple[int, ...] = (3, 3)
        if self.kind == "deep":
            widths, sizes = (block.taken, inner, inner, inner, block.given), (1, 3, 3, 1)
        shapes: dict[str, tuple[int, ...]] = {}
        for j, size in enumerate(sizes):
            taken, given = widths[j], widths[j + 1]
            for part in ("mean", "var"):
                shapes[f"{name}.norm{j}.{part}"] = (self.statistics, taken)
            for part in ("scale", "shift"):
                shapes[f"{name}.norm{j}.{part}.weight"] = (taken, self.condition_dim)
            shapes[f"{name}.conv{j}.weight"] = (given, taken, size, size)
            shapes[f"{name}.conv{j}.bias"] = (given,)
        if self.kind == "plain":
            shapes[f"{name}.skip.weight"] = (block.given, block.taken, 1, 1)
            shapes[f"{name}.skip.bias"] = (block.given,)
        return shapes
