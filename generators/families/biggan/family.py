"""BigGAN as a family of generators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from generators.families.base import Checkpoint
from generators.families.biggan import facts, reader
from generators.families.biggan.config import FAMILY, BigGANConfig
from generators.families.biggan.settings import BigGANSettings
from generators.protocols import ModelFacts
from schemas.errors import CheckpointError

if TYPE_CHECKING:
    from generators.families.biggan.adapter import BigGANGenerator


class BigGANFamily:
    """See `generators.families.base.GeneratorFamily`."""

    name = FAMILY
    settings = BigGANSettings
    bundled: Mapping[str, Path] = MappingProxyType({})

    def recognise(self, contents: Any) -> Checkpoint | None:
        """Hugging Face's BigGAN-deep, and Brock's BigGAN and BigGAN-deep."""
        return reader.read(contents)

    def checked(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every tensor that the configuration calls for, and no other."""
        try:
            config = BigGANConfig.from_architecture(checkpoint.architecture)
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"'architecture' is not that of a BigGAN: {e}") from e
        return reader.checked(config, checkpoint.tensors, checkpoint.metadata)

    def facts(self, checkpoint: Checkpoint) -> ModelFacts:
        """See `generators.families.biggan.facts`."""
        return facts.facts_of(checkpoint)

    def build(self, checkpoint: Checkpoint) -> BigGANGenerator:
        """The generator, on the CPU."""
        from generators.families.biggan.adapter import BigGANGenerator

        return BigGANGenerator(facts.facts_of(checkpoint), checkpoint)


PLUGIN = BigGANFamily()
