"""StyleGAN as a family of generators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from generators.families.base import Checkpoint
from generators.families.stylegan1 import facts, reader
from generators.families.stylegan1.config import StyleGAN1Config
from generators.families.stylegan1.settings import StyleGAN1Settings
from generators.protocols import ModelFacts
from schemas.errors import CheckpointError

if TYPE_CHECKING:
    from generators.families.stylegan1.adapter import StyleGAN1Adapter


class StyleGAN1Family:
    """See `generators.families.base.GeneratorFamily`."""

    name = "stylegan1"
    settings = StyleGAN1Settings
    bundled: Mapping[str, Path] = MappingProxyType({})

    def recognise(self, contents: Any) -> Checkpoint | None:
        """Official TensorFlow pickles, and state dicts: conversions of these, and rosinality's."""
        return reader.read(contents)

    def checked(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every tensor that the configuration calls for, and no other."""
        try:
            config = StyleGAN1Config.from_architecture(checkpoint.architecture)
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"'architecture' is not that of a StyleGAN: {e}") from e
        return reader.checked(config, checkpoint.tensors, checkpoint.estimated, checkpoint.metadata)

    def facts(self, checkpoint: Checkpoint) -> ModelFacts:
        """See `generators.families.stylegan1.facts`."""
        return facts.facts_of(checkpoint)

    def build(self, checkpoint: Checkpoint) -> StyleGAN1Adapter:
        """An adapter."""
        from generators.families.stylegan1.adapter import from_checkpoint

        return from_checkpoint(checkpoint)


PLUGIN = StyleGAN1Family()
