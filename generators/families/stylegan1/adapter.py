"""StyleGAN behind the `Generator` protocol."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.families.base import Checkpoint
from generators.families.stylegan1.config import StyleGAN1Config
from generators.families.stylegan1.facts import facts_of
from generators.families.stylegan1.network import StyleGAN1
from generators.protocols import Code, ModelFacts
from generators.style_based import StyleBasedGenerator, as_rgb
from schemas.errors import UsageError


class StyleGAN1Adapter(StyleBasedGenerator):
    """Implements `generators.protocols.Generator`; spaces: see
    `generators.families.stylegan1.facts`.

    network : taken over, see `StyleBasedGenerator`. metadata : enters no fingerprint.
    """

    def __init__(self, network: StyleGAN1, metadata: Mapping[str, Any] | None = None) -> None:
        super().__init__(network)
        self.config: StyleGAN1Config = network.config
        self.metadata: dict[str, Any] = dict(metadata or {})

    @cached_property
    def facts(self) -> ModelFacts:
        """What the model is."""
        return facts_of(self.checkpoint())

    def checkpoint(self) -> Checkpoint:
        """Architecture, tensors and metadata, as a checkpoint file holds them."""
        tensors = {
            name: value.detach().cpu().numpy().astype(np.float32)
            for name, value in self.network.state_dict().items()
        }
        return Checkpoint(self.config.architecture(), tensors, metadata=self.metadata)

    def synthesised(self, code: Code, noise: str) -> Tensor:
        """See `StyleBasedGenerator.synthesised`."""
        own = {name.removeprefix("noise/"): image for name, image in code.companions.items()}
        styles = [code.main[:, part.start : part.stop] for part in self.style_slices]
        try:
            return as_rgb(self.network.synthesis.from_styles(styles, noise, own))
        except ValueError as e:
            raise UsageError(str(e)) from e


def from_checkpoint(checkpoint: Checkpoint) -> StyleGAN1Adapter:
    """Adapter from a checkpoint as read."""
    config = StyleGAN1Config.from_architecture(checkpoint.architecture)
    # Uninitialised memory instead of random weights: every tensor is loaded below.
    with torch.device("meta"):
        network = StyleGAN1(config)
    network = network.to_empty(device="cpu")
    network.synthesis.reset_filters()
    state = {name: torch.from_numpy(value.copy()) for name, value in checkpoint.tensors.items()}
    network.load_state_dict(state, strict=True)
    return StyleGAN1Adapter(network, checkpoint.metadata)
