"""What the torch modules of encoders share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from generators.encoders.base import EncoderCheckpoint
from generators.encoders.shape import EncoderShape

S = TypeVar("S", bound=EncoderShape)
N = TypeVar("N", bound=nn.Module)


class ShapedEncoder(nn.Module, Generic[S]):
    """What an `generators.encoders.base.EncoderNetwork` of such a shape tells of itself."""

    def __init__(self, config: S) -> None:
        super().__init__()
        self.config = config

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that it takes."""
        return self.config.size

    @property
    def classes(self) -> int:
        """Of the labels that it takes, 0 for none."""
        return self.config.classes

    def architecture(self) -> dict[str, Any]:
        """As in its checkpoint."""
        return self.config.architecture()


def built(make: Callable[[], N], checkpoint: EncoderCheckpoint) -> N:
    """The network that ``make`` gives, with the tensors of a checkpoint, on the CPU.

    Raises ValueError, KeyError, TypeError or RuntimeError where they do not fit.
    """
    with torch.device("meta"):  # numbers drawn to be replaced would take as long as reading them
        network = make()
    state = {name: torch.from_numpy(value.copy()) for name, value in checkpoint.tensors.items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network
