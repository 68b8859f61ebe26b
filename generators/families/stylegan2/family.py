"""StyleGAN2 as a family of generators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from generators.families.base import Checkpoint
from generators.families.stylegan2 import facts, reader
from generators.families.stylegan2.config import StyleGAN2Config
from generators.families.stylegan2.settings import StyleGAN2Settings
from generators.protocols import ModelFacts
from schemas.errors import CheckpointError

if TYPE_CHECKING:
    from generators.families.stylegan2.adapter import StyleGAN2Adapter


class StyleGAN2Family:
    """See `generators.families.base.GeneratorFamily`."""

    name = "stylegan2"
    settings = StyleGAN2Settings
    bundled: Mapping[str, Path] = MappingProxyType({})

    def recognise(self, contents: Any) -> Checkpoint | None:
        """Official networks, rosinality's, and state dicts of either."""
        return reader.read(contents)

    def checked(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every tensor that the configuration calls for, and no other."""
        try:
            config = StyleGAN2Config.from_architecture(checkpoint.architecture)
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"'architecture' is not that of a StyleGAN2: {e}") from e
        return reader.checked(config, checkpoint.tensors, checkpoint.estimated, checkpoint.metadata)

    def facts(self, checkpoint: Checkpoint) -> ModelFacts:
        """See `generators.families.stylegan2.facts`."""
        return facts.facts_of(checkpoint)

    def build(self, checkpoint: Checkpoint) -> StyleGAN2Adapter:
        """An adapter; w_avg is estimated where the file has none."""
        from generators.families.stylegan2.adapter import from_checkpoint

        return from_checkpoint(checkpoint)


PLUGIN = StyleGAN2Family()
