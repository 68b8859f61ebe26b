"""Encoders from files, ready to encode, and their own format written."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.encoders.base import EncoderCheckpoint
from generators.encoders.catalog import ARCHITECTURES, architecture_of, spaces_of
from generators.encoders.files import read_encoder
from generators.protocols import Code, Labels
from generators.tensor_files import safetensors_bytes
from schemas.atomic import write_bytes, write_json
from schemas.errors import CheckpointError, UsageError
from schemas.fingerprint import tensors_fingerprint


class LoadedEncoder:
    """An encoder's network behind the `generators.protocols.Encoder` protocol.

    network : a `torch.nn.Module` that is an `generators.encoders.base.EncoderNetwork`; taken over:
        put in evaluation mode, its parameters no longer require gradients.
    space : of the codes; by default the last that the architecture tells.

    ``metadata`` : facts about its file, see `generators.encoders.base.EncoderCheckpoint`.

    Raises UsageError for a space that it does not encode into.
    """

    def __init__(self, network: Any, space: str | None = None) -> None:
        self.network = network.eval().requires_grad_(False)
        self.metadata: dict[str, Any] = {}
        self.size: tuple[int, int] | None = network.size
        self.classes: int = getattr(network, "classes", 0)
        self.architecture: dict[str, Any] = network.architecture()
        self.spaces = spaces_of(EncoderCheckpoint(self.architecture, {}))
        self.space = list(self.spaces)[-1] if space is None else space
        if self.space not in self.spaces:
            raise UsageError(
                f"space {self.space!r} is unknown, expected one of {list(self.spaces)!r}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits over architecture and tensors."""
        return tensors_fingerprint(self.architecture, _tensors(self.network))

    def to(self, device: torch.device | str) -> LoadedEncoder:
        """Move the model; returns itself."""
        self.network.to(device)
        return self

    def encode(self, images: Tensor, labels: Labels = None) -> Tensor:
        """Codes of the encoder's space, float32 (n, *its shape), of images (n, 3, *size) in
        [-1, 1]. labels : of an encoder that has classes."""
        beside = (labels,) if self.classes else ()
        codes: Tensor = self.network.encode(images, self.space, *beside)
        return codes


class LoadedRefiner(LoadedEncoder):
    """A network that refines, behind the `generators.protocols.RefiningEncoder` protocol."""

    @property
    def mean(self) -> Tensor | None:
        """The code that is refined first; None for the generator's mean."""
        mean: Tensor | None = self.network.mean
        return mean

    def refine(self, images: Tensor, drawn: Tensor, code: Code) -> Code:
        """A better code of images (n, 3, *size) in [-1, 1] than the one that draws `drawn`
        (n, 3, height, width)."""
        better: Code = self.network.refine(images, drawn, code)
        return better


def of_network(network: Any, space: str | None = None) -> LoadedEncoder:
    """The network behind the protocol that it serves; arguments of `LoadedEncoder`."""
    refines = getattr(network, "refines", False)
    return (LoadedRefiner if refines else LoadedEncoder)(network, space)


def _tensors(network: torch.nn.Module) -> dict[str, np.ndarray]:
    return {
        name: value.detach().cpu().numpy().astype(np.float32)
        for name, value in network.state_dict().items()
    }


def save_encoder(network: Any, path: str | os.PathLike[str], **facts: Any) -> Path:
    """Write ``path`` (.safetensors) and, beside it, architecture and fingerprint as .json.

    network : of any architecture
    facts : further canonical-JSON entries for people (licence, training, ...); the loader ignores
        them and they enter no fingerprint.
    """
    path = Path(path)
    tensors, architecture = _tensors(network), network.architecture()
    write_bytes(path, safetensors_bytes(tensors))
    about = {
        **facts,
        "kind": "encoder",
        "space": list(spaces_of(EncoderCheckpoint(architecture, {})))[-1],
        "architecture": architecture,
        "fingerprint": tensors_fingerprint(architecture, tensors),
    }
    write_json(path.with_suffix(".json"), about)
    return path


def load_encoder(
    uri: str, device: torch.device | str = "cpu", space: str | None = None
) -> LoadedEncoder:
    """The encoder at ``uri``, see `generators.encoders.files.read_encoder`.

    space : of the codes, as for `LoadedEncoder`.
    Raises CheckpointError for files that do not exist or do not fit together.
    """
    checkpoint = read_encoder(uri)
    architecture = architecture_of(checkpoint)
    try:
        with ARCHITECTURES.blamed(checkpoint.family, "build"):
            network = architecture.build(checkpoint)
    except (ValueError, KeyError, TypeError, RuntimeError) as e:
        raise CheckpointError(
            f"encoder {uri!r} does not fit its description: {e}; write the pair of files with "
            "generators.encoders.save_encoder"
        ) from e
    found = of_network(network, space).to(device)
    found.metadata = checkpoint.metadata
    return found
