"""StyleGAN behind the `Generator` protocol."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from generators.families.base import Checkpoint
from generators.families.stylegan1.config import StyleGAN1Config
from generators.families.stylegan1.facts import facts_of
from generators.families.stylegan1.network import StyleGAN1
from generators.protocols import Code, ModelFacts
from generators.style_based import StyleBasedGenerator, as_rgb, loaded
from schemas.errors import UsageError


class StyleGAN1Adapter(StyleBasedGenerator):
    """Implements `generators.protocols.Generator`, see `StyleBasedGenerator`.

    Spaces: see `generators.families.stylegan1.facts`.
    """

    config: StyleGAN1Config

    @cached_property
    def facts(self) -> ModelFacts:
        """What the model is."""
        return facts_of(self.checkpoint())

    def synthesised(self, code: Code, noise: str) -> Tensor:
        """See `StyleBasedGenerator.synthesised`."""
        own = {name.removeprefix("noise/"): image for name, image in code.companions.items()}
        styles = [code.main[:, part.start : part.stop] for part in self.style_slices]
        try:
            return as_rgb(self.network.synthesis.from_styles(styles, noise, own))
        except ValueError as e:
            raise UsageError(str(e)) from e


def from_checkpoint(checkpoint: Checkpoint) -> StyleGAN1Adapter:
    """Adapter from a checkpoint as read; estimates w_avg where the file has none."""
    config = StyleGAN1Config.from_architecture(checkpoint.architecture)
    network = loaded(lambda: StyleGAN1(config), checkpoint)
    return StyleGAN1Adapter(network, checkpoint.estimated, checkpoint.metadata)
