"""StyleGAN3 behind the `Generator` protocol."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.families.base import W_AVG_ESTIMATE, Checkpoint
from generators.families.stylegan3.config import StyleGAN3Config
from generators.families.stylegan3.facts import TRANSFORM, facts_of
from generators.families.stylegan3.network import StyleGAN3
from generators.protocols import Code, ModelFacts
from generators.style_based import StyleBasedGenerator
from schemas.errors import UsageError


def estimate_w_avg(network: StyleGAN3) -> Tensor:
    """Mean of w over z drawn as `W_AVG_ESTIMATE` says, float32 (w_dim,); labels, if any, take
    turns."""
    config = network.config
    draws = np.random.RandomState(W_AVG_ESTIMATE["seed"]).standard_normal(
        (W_AVG_ESTIMATE["n"], config.z_dim)
    )
    z = torch.from_numpy(draws.astype(np.float32))
    c = None
    if config.c_dim:
        c = torch.nn.functional.one_hot(torch.arange(len(z)) % config.c_dim, config.c_dim).float()
    with torch.no_grad():
        return network.mapping(z, c).double().mean(dim=0).float()


class StyleGAN3Adapter(StyleBasedGenerator):
    """Implements `generators.protocols.Generator`.

    network : taken over, see `StyleBasedGenerator`.
    w_avg_estimated : the network's w_avg comes from `estimate_w_avg`, not from training.
    metadata : facts about the file (format, ...) that enter no fingerprint.

    Spaces: see `generators.families.stylegan3.facts`. `style_slices` gives each layer's name, the
    w_plus row that drives it, and its columns of s. The style of the last layer is the affine
    output before its constant gain 1/sqrt(channels).
    """

    def __init__(
        self,
        network: StyleGAN3,
        w_avg_estimated: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(network)
        self.config: StyleGAN3Config = network.config
        self.w_avg_estimated = w_avg_estimated
        self.metadata: dict[str, Any] = {**(metadata or {}), "w_avg_estimated": w_avg_estimated}
        self.architecture: dict[str, Any] = self.config.architecture()

    @cached_property
    def facts(self) -> ModelFacts:
        """What the model is."""
        return facts_of(self.checkpoint())

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits over architecture and tensors, the same for every file format."""
        return self.checkpoint().fingerprint

    def tensors(self) -> dict[str, np.ndarray]:
        """Every stored tensor by its official name, float32, on the CPU."""
        return {
            name: value.detach().cpu().numpy().astype(np.float32)
            for name, value in self.network.state_dict().items()
        }

    def checkpoint(self) -> Checkpoint:
        """Architecture, tensors and metadata, as a checkpoint file holds them."""
        return Checkpoint(self.architecture, self.tensors(), self.w_avg_estimated, self.metadata)

    def mean_w(self, weights: Tensor | None) -> Tensor:
        """See `StyleBasedGenerator.mean_w`; without classes the mean of theirs."""
        mean = self.w_avg
        if mean.ndim == 1:
            return mean
        return mean.mean(dim=0) if weights is None else weights.to(mean) @ mean

    def synthesised(self, code: Code, noise: str) -> Tensor:
        """Images float32 (n, 3, h, w) of codes of s; a grey model's in all three channels, of one
        of four channels the first three. There are no noise inputs."""
        synthesis = self.network.synthesis
        transform = code.companions.get(TRANSFORM)
        if transform is not None:
            own = synthesis.input.transform
            transform = transform.to(own)
            transform = torch.where(transform.isnan().any(dim=(1, 2), keepdim=True), own, transform)
        styles = [code.main[:, part.start : part.stop] for part in self.style_slices]
        try:
            images = synthesis.from_styles(styles, transform)
        except torch.linalg.LinAlgError as e:
            raise UsageError(
                f"companion {TRANSFORM!r} of a code turns the picture into a line: give inverse "
                "transforms that can be inverted"
            ) from e
        return images.expand(-1, 3, -1, -1) if self.config.img_channels == 1 else images[:, :3]


def from_checkpoint(checkpoint: Checkpoint) -> StyleGAN3Adapter:
    """Adapter from a checkpoint as read; estimates w_avg where the file has none."""
    config = StyleGAN3Config.from_architecture(checkpoint.architecture)
    # Uninitialised memory instead of random weights: every tensor is loaded below.
    with torch.device("meta"):
        network = StyleGAN3(config)
    network = network.to_empty(device="cpu")
    network.synthesis.reset_filters()
    missing = "mapping.w_avg" not in checkpoint.tensors
    state = {name: torch.from_numpy(value.copy()) for name, value in checkpoint.tensors.items()}
    if missing:
        state["mapping.w_avg"] = torch.zeros(config.tensor_shapes()["mapping.w_avg"])
    network.load_state_dict(state, strict=True)
    if missing:
        network.mapping.w_avg.copy_(estimate_w_avg(network))
    return StyleGAN3Adapter(network, checkpoint.w_avg_estimated, checkpoint.metadata)
