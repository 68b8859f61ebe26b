"""StyleGAN3 behind the `Generator` protocol."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from generators.families.base import Checkpoint
from generators.families.stylegan3.config import StyleGAN3Config
from generators.families.stylegan3.facts import TRANSFORM, facts_of
from generators.families.stylegan3.network import StyleGAN3
from generators.protocols import Code, ModelFacts
from generators.style_based import StyleBasedGenerator, as_rgb, loaded
from schemas.errors import UsageError


class StyleGAN3Adapter(StyleBasedGenerator):
    """Implements `generators.protocols.Generator`, see `StyleBasedGenerator`.

    Spaces: see `generators.families.stylegan3.facts`. `style_slices` gives each layer's name, the
    w_plus row that drives it, and its columns of s. The style of the last layer is the affine
    output before its constant gain 1/sqrt(channels).
    """

    config: StyleGAN3Config

    @cached_property
    def facts(self) -> ModelFacts:
        """What the model is."""
        return facts_of(self.checkpoint())

    def mean_w(self, weights: Tensor | None) -> Tensor:
        """See `StyleBasedGenerator.mean_w`; without classes the mean of theirs."""
        mean = self.w_avg
        if mean.ndim == 1:
            return mean
        return mean.mean(dim=0) if weights is None else weights.to(mean) @ mean

    def synthesised(self, code: Code, noise: str) -> Tensor:
        """Images float32 (n, 3, h, w) of codes of s, see `as_rgb`. There are no noise inputs."""
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
        return as_rgb(images)


def from_checkpoint(checkpoint: Checkpoint) -> StyleGAN3Adapter:
    """Adapter from a checkpoint as read; estimates w_avg where the file has none."""
    config = StyleGAN3Config.from_architecture(checkpoint.architecture)
    network = loaded(lambda: StyleGAN3(config), checkpoint)
    return StyleGAN3Adapter(network, checkpoint.estimated, checkpoint.metadata)
