"""StyleGAN2 behind the `Generator` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from generators.families.base import Checkpoint
from generators.families.stylegan2.config import StyleGAN2Config
from generators.families.stylegan2.facts import facts_of
from generators.families.stylegan2.network import StyleGAN2
from generators.protocols import Code, ModelFacts
from generators.style_based import StyleBasedGenerator, as_rgb, loaded
from schemas.errors import UsageError


class StyleGAN2Adapter(StyleBasedGenerator):
    """Implements `generators.protocols.Generator`, see `StyleBasedGenerator`.

    Spaces: see `generators.families.stylegan2.facts`. `style_slices` gives each layer's name, the
    w_plus row that drives it, and its columns of s. A torgb style is the affine output before its
    constant gain 1/sqrt(channels).
    """

    config: StyleGAN2Config

    @cached_property
    def facts(self) -> ModelFacts:
        """What the model is."""
        return facts_of(self.checkpoint())

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
    network = loaded(lambda: StyleGAN2(config), checkpoint)
    return StyleGAN2Adapter(network, checkpoint.estimated, checkpoint.metadata)
