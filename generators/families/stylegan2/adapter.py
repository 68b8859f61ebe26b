"""StyleGAN2 behind the `Generator` protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.families.base import W_AVG_ESTIMATE, Checkpoint
from generators.families.stylegan2.config import StyleGAN2Config
from generators.families.stylegan2.facts import facts_of
from generators.families.stylegan2.network import StyleGAN2
from generators.protocols import Code, ModelFacts
from generators.style_based import StyleBasedGenerator, as_rgb
from schemas.errors import UsageError


def estimate_w_avg(
    network: StyleGAN2, n: int = W_AVG_ESTIMATE["n"], seed: int = W_AVG_ESTIMATE["seed"]
) -> Tensor:
    """Mean of w over `n` z drawn from `seed`, float32 (w_dim,); labels, if any, take turns."""
    config = network.config
    device = network.mapping.w_avg.device
    draws = np.random.RandomState(seed).standard_normal((n, config.z_dim)).astype(np.float32)
    total = torch.zeros(config.w_dim, dtype=torch.float64, device=device)
    with torch.no_grad():
        for start in range(0, n, 1000):
            z = torch.from_numpy(draws[start : start + 1000]).to(device)
            c = None
            if config.c_dim:
                labels = torch.arange(start, start + len(z), device=device) % config.c_dim
                c = torch.nn.functional.one_hot(labels, config.c_dim).float()
            total += network.mapping(z, c).double().sum(dim=0)
    return (total / n).float()


class StyleGAN2Adapter(StyleBasedGenerator):
    """Implements `generators.protocols.Generator`.

    network : taken over, see `StyleBasedGenerator`.
    w_avg_estimated : the network's w_avg comes from `estimate_w_avg`, not from training.
    metadata : facts about the file (format, ...) that enter no fingerprint.

    Spaces: see `generators.families.stylegan2.facts`. `style_slices` gives each layer's name, the
    w_plus row that drives it, and its columns of s. A torgb style is the affine output before its
    constant gain 1/sqrt(channels).
    """

    def __init__(
        self,
        network: StyleGAN2,
        w_avg_estimated: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(network)
        self.config: StyleGAN2Config = network.config
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

    def synthesised(self, code: Code, noise: str) -> Tensor:
        """See `StyleBasedGenerator.synthesised`."""
        return self._synthesised(code, noise, None)

    def synthesise(
        self,
        codes: Tensor,
        space: str = "w_plus",
        noise_mode: str = "const",
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """`draw` with noise images that are drawn anew: noise_mode "random".

        generator : of the noise; give one for each row where a row's image must not depend on the
            batch. Raises UsageError without one.
        """
        if noise_mode == "random" and generator is None:
            raise UsageError("noise_mode 'random' needs a generator: pass a seeded torch.Generator")
        return self._synthesised(self.convert(Code(space, codes), "s"), noise_mode, generator)

    def _synthesised(
        self,
        code: Code,
        noise: str,
        generator: torch.Generator | Sequence[torch.Generator] | None,
    ) -> Tensor:
        """Images float32 (n, 3, height, width) of codes of s; see `as_rgb`."""
        try:
            images = self.network.synthesis.from_styles(
                [code.main[:, part.start : part.stop] for part in self.style_slices],
                noise,  # type: ignore[arg-type]
                generator,
                {name.removeprefix("noise/"): n for name, n in code.companions.items()},
            )
        except ValueError as e:
            raise UsageError(str(e)) from e
        return as_rgb(images)


def from_checkpoint(checkpoint: Checkpoint) -> StyleGAN2Adapter:
    """Adapter from a checkpoint as read; estimates w_avg where the file has none."""
    config = StyleGAN2Config.from_architecture(checkpoint.architecture)
    # Uninitialised memory instead of random weights: every tensor is loaded below. Arithmetic on
    # "meta" out of place would import torch's compiler, which takes longer than all the rest.
    with torch.device("meta"):
        network = StyleGAN2(config)
    network = network.to_empty(device="cpu")
    network.synthesis.reset_filters()
    missing = "mapping.w_avg" not in checkpoint.tensors
    state = {name: torch.from_numpy(value.copy()) for name, value in checkpoint.tensors.items()}
    if missing:
        state["mapping.w_avg"] = torch.zeros(config.w_dim)
    network.load_state_dict(state, strict=True)
    if missing:
        network.mapping.w_avg.copy_(estimate_w_avg(network))
    return StyleGAN2Adapter(network, checkpoint.w_avg_estimated, checkpoint.metadata)
