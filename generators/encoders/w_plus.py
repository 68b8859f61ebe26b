"""Feed-forward encoder of images into w_plus."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from generators.encoders.files import read_encoder
from generators.tensor_files import safetensors_bytes
from schemas.atomic import write_bytes, write_json
from schemas.errors import CheckpointError, UsageError
from schemas.fingerprint import tensors_fingerprint


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of a `WPlusEncoder`.

    resolution : input width and height in pixels, a power of two from 8.
    channels : feature maps after each halving; the last map is resolution / 2^len(channels) wide.
    features : width of the hidden layer before the heads.
    num_ws, w_dim : the generator's w_plus shape.
    """

    resolution: int = 64
    channels: tuple[int, ...] = (24, 48, 96, 96)
    features: int = 192
    num_ws: int = 10
    w_dim: int = 64

    def architecture(self) -> dict:
        """Canonical description, part of the fingerprint."""
        return {"family": "w_plus_encoder", **asdict(self), "channels": list(self.channels)}


class WPlusEncoder(nn.Module):
    """Strided convolutions, then one linear head for w and one for each layer's offset from it.

    The code of layer l is ``w_avg + w(x) + offset_l(x)`` (Tov et al., e4e, 2021).
    """

    w_avg: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        width = 3
        for k, features in enumerate(config.channels):
            stride_in = features if k else config.channels[0] // 2
            layers += [nn.Conv2d(width, stride_in, 3, padding=1), nn.LeakyReLU(0.2)]
            layers += [nn.Conv2d(stride_in, features, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            width = features
        self.trunk = nn.Sequential(*layers)
        side = config.resolution // 2 ** len(config.channels)
        flat = width * side * side
        self.hidden = nn.Sequential(nn.Linear(flat, config.features), nn.LeakyReLU(0.2))
        self.w_head = nn.Linear(config.features, config.w_dim)
        self.offset_head = nn.Linear(config.features, config.num_ws * config.w_dim)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (n, 3, R, R) in [-1, 1] -> w (n, w_dim), offsets (n, num_ws, w_dim)."""
        x = self.hidden(self.trunk(images).flatten(1))
        w = self.w_avg + self.w_head(x)
        offsets = self.offset_head(x).view(-1, self.config.num_ws, self.config.w_dim)
        return w, offsets

    def encode(self, images: Tensor) -> Tensor:
        """w_plus codes, float32 (n, num_ws, w_dim), of images (n, 3, R, R) in [-1, 1]."""
        w, offsets = self(images)
        return w[:, None] + offsets


# ---------------------------------------------------------------------------------------------
# Files


class LoadedEncoder:
    """A `WPlusEncoder` behind the `generators.protocols.Encoder` protocol.

    network : taken over: put in evaluation mode, its parameters no longer require gradients.
    """

    def __init__(self, network: WPlusEncoder, space: str = "w_plus") -> None:
        self.network = network.eval().requires_grad_(False)
        self.space = space
        self.resolution = network.config.resolution
        self.architecture = network.config.architecture()
        shape = (network.config.num_ws, network.config.w_dim)
        self.spaces: dict[str, tuple[int, ...]] = {"w": shape[1:], "w_plus": shape}
        if space not in self.spaces:
            raise UsageError(f"space {space!r} is unknown, expected one of {list(self.spaces)!r}")

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits over architecture and tensors."""
        return tensors_fingerprint(self.architecture, _tensors(self.network))

    def to(self, device: torch.device | str) -> LoadedEncoder:
        """Move the model; returns itself."""
        self.network.to(device)
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Codes of the encoder's space of images (n, 3, R, R) in [-1, 1].

        w_plus: float32 (n, num_ws, w_dim). w: the code without the layers' offsets, (n, w_dim).
        """
        if self.space == "w":
            return self.network(images)[0]
        return self.network.encode(images)


def _tensors(network: WPlusEncoder) -> dict[str, np.ndarray]:
    return {
        name: value.detach().cpu().numpy().astype(np.float32)
        for name, value in network.state_dict().items()
    }


def save_encoder(network: WPlusEncoder, path: str | os.PathLike[str], **facts: Any) -> Path:
    """Write ``path`` (.safetensors) and, beside it, architecture and fingerprint as .json.

    facts : further canonical-JSON entries for people (licence, training, ...); the loader ignores
        them and they enter no fingerprint.
    """
    path = Path(path)
    tensors = _tensors(network)
    architecture = network.config.architecture()
    write_bytes(path, safetensors_bytes(tensors))
    about = {
        **facts,
        "kind": "encoder",
        "space": "w_plus",
        "architecture": architecture,
        "fingerprint": tensors_fingerprint(architecture, tensors),
    }
    write_json(path.with_suffix(".json"), about)
    return path


def load_encoder(
    uri: str, device: torch.device | str = "cpu", space: str = "w_plus"
) -> LoadedEncoder:
    """The encoder at ``uri``: "bundled:faces64", or a .safetensors file with its .json.

    space : "w_plus", or "w" for the code without the layers' offsets.
    Raises CheckpointError for files that do not exist or do not fit together.
    """
    file = read_encoder(uri)
    architecture = dict(file.architecture)
    try:
        family = architecture.pop("family", None)
        if family != "w_plus_encoder":
            raise ValueError(f"'family' is {family!r}, expected 'w_plus_encoder'")
        architecture["channels"] = tuple(architecture["channels"])
        network = WPlusEncoder(EncoderConfig(**architecture))
        state = {name: torch.from_numpy(value.copy()) for name, value in file.tensors.items()}
        network.load_state_dict(state, strict=True)
    except (ValueError, KeyError, TypeError, RuntimeError) as e:
        raise CheckpointError(
            f"encoder {str(file.path)!r} does not fit its description: {e}; write the pair of "
            "files with generators.encoders.w_plus.save_encoder"
        ) from e
    return LoadedEncoder(network, space).to(device)
