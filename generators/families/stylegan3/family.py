"""StyleGAN3 as a family of generators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from generators.families.base import Checkpoint
from generators.families.stylegan3 import facts, reader
from generators.families.stylegan3.config import StyleGAN3Config
from generators.families.stylegan3.settings import StyleGAN3Settings
from generators.protocols import ModelFacts
from schemas.errors import CheckpointError

if TYPE_CHECKING:
    from generators.families.stylegan3.adapter import StyleGAN3Adapter


class StyleGAN3Family:
    """See `generators.families.base.GeneratorFamily`."""

    name = "stylegan3"
    settings = StyleGAN3Settings
    bundled: Mapping[str, Path] = MappingProxyType({})

    def recognise(self, contents: Any) -> Checkpoint | None:
        """Official networks, those of StyleGAN-XL, and state dicts of either."""
        return reader.read(contents)

    def checked(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every tensor that the configuration calls for, and no other."""
        try:
            config = StyleGAN3Config.from_architecture(checkpoint.architecture)
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"'architecture' is not that of a StyleGAN3: {e}") from e
        return reader.checked(config, checkpoint.tensors, checkpoint.estimated, checkpoint.metadata)

    def facts(self, checkpoint: Checkpoint) -> ModelFacts:
        """See `generators.families.stylegan3.facts`."""
        return facts.facts_of(checkpoint)

    def build(self, checkpoint: Checkpoint) -> StyleGAN3Adapter:
        """An adapter; w_avg is estimated where the file has none."""
        from generators.families.stylegan3.adapter import from_checkpoint

        return from_checkpoint(checkpoint)


PLUGIN = StyleGAN3Family()
