"""What a BigGAN computes (Brock et al. 2019, appendix B; Zhang et al. 2019 for self attention)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.families.biggan.config import NORMS, BigGANConfig, Block

Tensors = Mapping[str, Tensor]


def statistics_at(sets: np.ndarray, truncation: float | None) -> np.ndarray:
    """Means or variances (channels,) of sets (k, channels) for truncations 0, 1 / (k - 1), ..., 1.

    Between two sets they are mixed as the published model does it, whose weights count from the
    far end: with q = truncation (k - 1), f = q - floor(q), it takes f of the lower set and 1 - f of
    the upper one. Where q is rounded to just beside a whole number, the set on that side is taken:
    of 51 sets those of 0.16, 0.3, 0.58, 0.56 and 0.92 for 0.14, 0.28, 0.56, 0.58 and 0.94.
    """
    if truncation is None:
        return np.asarray(sets[0])
    share, lower = math.modf(truncation / (1.0 / (len(sets) - 1)))
    at = int(lower)
    if share == 0.0:
        return np.asarray(sets[at])
    mixed = sets[at].astype(np.float64) * share + sets[at + 1].astype(np.float64) * (1 - share)
    return mixed.astype(np.float32)


class BigGAN(nn.Module):
    """The network of a configuration and its tensors. What its submodules "linear", "b0", "b1", ...
    put out are the features of those names."""

    scale: Tensor
    shift: Tensor

    def __init__(self, config: BigGANConfig, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.config = config
        tensors = {
            name: torch.from_numpy(
                statistics_at(value, config.statistics_truncation)
                if name.endswith((".mean", ".var"))
                else value
            )
            for name, value in arrays.items()
        }
        self.embedding = Layer(tensors, "embedding") if config.embedded else None
        self.linear = First(tensors, config.side)
        kind = DeepBlock if config.kind == "deep" else PlainBlock
        for i, block in enumerate(config.blocks):
            self.add_module(f"b{i}", kind(tensors, f"b{i}", block, config.bn_eps))
        for i in config.attention:
            self.add_module(f"attention{i}", Attention(tensors, f"attention{i}"))
        norm = Norm(tensors, "output.norm", config.output_eps or config.bn_eps)
        self.register_buffer("scale", tensors["output.norm.scale"][:, None, None])
        self.register_buffer("shift", tensors["output.norm.shift"][:, None, None])
        self.output = nn.ModuleDict({"norm": norm, "conv": Layer(tensors, "output.conv")})

    @property
    def like(self) -> Tensor:
        """A tensor of the network's device and precision."""
        return self.scale

    def embedded(self, weights: Tensor) -> Tensor:
        """Class embeddings (n, c_dim) of weights of the classes (n, classes)."""
        weights = weights.to(self.like)
        return weights if self.embedding is None else self.embedding(weights)

    def forward(self, parts: Tensor, c: Tensor) -> Tensor:
        """Images (n, channels, side, side) in [-1, 1].

        parts : of z, (n, n_layers, layer_dim). c : class embeddings (n, c_dim).
        """
        alone, deep = self.config.latents == "first", self.config.kind == "deep"
        x = self.linear(torch.cat([parts[:, 0], c], dim=1) if deep else parts[:, 0])
        for i in range(len(self.config.blocks) + 1):
            if i:
                condition = c if alone else torch.cat([parts[:, i], c], dim=1)
                x = self.get_submodule(f"b{i - 1}")(x, condition)
            if i in self.config.attention:
                x = self.get_submodule(f"attention{i}")(x)
        x = self.output["norm"](x) * self.scale + self.shift
        return torch.tanh(self.output["conv"](F.relu(x)))


class Layer(nn.Module):
    """A linear layer, or a convolution that keeps the sides."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, tensors: Tensors, name: str) -> None:
        super().__init__()
        self.register_buffer("weight", tensors[f"{name}.weight"])
        self.register_buffer("bias", tensors.get(f"{name}.bias"))

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.ndim == 2:
            return F.linear(x, self.weight, self.bias)
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class First(Layer):
    """The first layer: z, and c where all blocks see both, to maps."""

    def __init__(self, tensors: Tensors, side: int) -> None:
        super().__init__(tensors, "linear")
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        maps = len(self.weight) // self.side**2
        return super().forward(x).reshape(len(x), maps, self.side, self.side)


class Norm(nn.Module):
    """Batch normalisation by stored statistics, before any scale and shift."""

    mean: Tensor
    var: Tensor

    def __init__(self, tensors: Tensors, name: str, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("mean", tensors[f"{name}.mean"])
        self.register_buffer("var", tensors[f"{name}.var"])

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=False, eps=self.eps)


class ConditionalNorm(nn.Module):
    """Batch normalisation, scaled and shifted by linear maps of a condition, and the rectifier."""

    def __init__(self, tensors: Tensors, name: str, eps: float) -> None:
        super().__init__()
        self.norm = Norm(tensors, name, eps)
        self.scale = Layer(tensors, f"{name}.scale")
        self.shift = Layer(tensors, f"{name}.shift")

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = (part(condition)[:, :, None, None] for part in (self.scale, self.shift))
        return F.relu(self.norm(x) * (1 + scale) + shift)


class ResidualBlock(nn.Module):
    """Normalisations and convolutions in turn, beside a shortcut.

    up_at : the convolution before which the sides are doubled
    """

    kind: str
    up_at: int

    def __init__(self, tensors: Tensors, name: str, block: Block, eps: float) -> None:
        super().__init__()
        self.block = block
        for j in range(NORMS[self.kind]):
            self.add_module(f"norm{j}", ConditionalNorm(tensors, f"{name}.norm{j}", eps))
            self.add_module(f"conv{j}", Layer(tensors, f"{name}.conv{j}"))

    def shortcut(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = x
        for j in range(NORMS[self.kind]):
            h = self.get_submodule(f"norm{j}")(h, condition)
            h = _doubled(h) if self.block.doubles and j == self.up_at else h
            h = self.get_submodule(f"conv{j}")(h)
        return h + self.shortcut(x)


class PlainBlock(ResidualBlock):
    """Two 3 x 3 convolutions beside one of 1 x 1."""

    kind, up_at = "plain", 0

    def __init__(self, tensors: Tensors, name: str, block: Block, eps: float) -> None:
        super().__init__(tensors, name, block, eps)
        self.skip = Layer(tensors, f"{name}.skip")

    def shortcut(self, x: Tensor) -> Tensor:
        # a 1 x 1 convolution of repeated pixels is the repeated convolution, at a quarter the cost
        x = self.skip(x)
        return _doubled(x) if self.block.doubles else x


class DeepBlock(ResidualBlock):
    """A bottleneck of four convolutions beside the first of the channels that it takes."""

    kind, up_at = "deep", 1

    def shortcut(self, x: Tensor) -> Tensor:
        x = x[:, : self.block.given]
        return _doubled(x) if self.block.doubles else x


class Attention(nn.Module):
    """Self attention of every place to the maxima of each four places."""

    gamma: Tensor

    def __init__(self, tensors: Tensors, name: str) -> None:
        super().__init__()
        self.theta, self.phi = Layer(tensors, f"{name}.theta"), Layer(tensors, f"{name}.phi")
        self.g, self.o = Layer(tensors, f"{name}.g"), Layer(tensors, f"{name}.o")
        self.register_buffer("gamma", tensors[f"{name}.gamma"])

    def forward(self, x: Tensor) -> Tensor:
        asked = self.theta(x).flatten(2)
        keys, values = (F.max_pool2d(part(x), 2).flatten(2) for part in (self.phi, self.g))
        shares = torch.softmax(asked.transpose(1, 2) @ keys, dim=-1)
        seen = values @ shares.transpose(1, 2)
        return x + self.gamma * self.o(seen.unflatten(2, x.shape[2:]))


def _doubled(x: Tensor) -> Tensor:
    """Each pixel four times."""
    return F.interpolate(x, scale_factor=2, mode="nearest")
