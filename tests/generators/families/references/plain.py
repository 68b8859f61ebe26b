"""Plain networks against the torch modules whose weights they are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from generators.families.base import Checkpoint
from generators.families.plain import PLUGIN
from generators.model_file import read_checkpoint
from tests.networks.plain import (
    LapGan,
    MsgGan,
    Vae,
    dcgan,
    randomised,
)

Pair = tuple[np.ndarray, np.ndarray]


def saved(network: nn.Module) -> Checkpoint:
    """Of a file with the network's state dict, as a parallel training saves it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "g.pt")
        torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, path)
        return read_checkpoint(path)


def tiny() -> Checkpoint:
    """A VAE's decoder, 16 x 16."""
    return saved(randomised(Vae(), seed=1))


def beside_module(network: nn.Module, axes: int = 0) -> Pair:
    """Our pictures and the module's. axes : of length 1 that it wants of a code."""
    model = PLUGIN.build(saved(randomised(network, seed=1)))
    codes = model.sample("z", range(3))
    z = codes.main.reshape(*codes.main.shape, *[1] * axes)
    with torch.no_grad():
        return model.draw(codes).numpy(), network(z).numpy()


REFERENCES: dict[str, Callable[[], Pair]] = {
    "dcgan": lambda: beside_module(dcgan(), axes=2),
    "vae": lambda: beside_module(Vae()),
    "msg_gan": lambda: beside_module(MsgGan()),
    "lapgan": lambda: beside_module(LapGan()),
}
