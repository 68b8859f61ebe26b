"""R3GAN as a family of generators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from generators.families.base import Checkpoint
from generators.families.r3gan import facts, reader
from generators.families.r3gan.config import R3GANConfig
from generators.protocols import ModelFacts
from schemas.errors import CheckpointError
from schemas.sections.generator_settings import NoSettings

if TYPE_CHECKING:
    from generators.z_based import ZBasedGenerator


class R3GANFamily:
    """See `generators.families.base.GeneratorFamily`."""

    name = "r3gan"
    settings = NoSettings
    bundled: Mapping[str, Path] = MappingProxyType({})

    def recognise(self, contents: Any) -> Checkpoint | None:
        """Pickles of the official trainer, and state dicts of its networks."""
        return reader.read(contents)

    def checked(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every tensor that the configuration calls for, and no other."""
        try:
            config = R3GANConfig.from_architecture(checkpoint.architecture)
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"'architecture' is not that of an R3GAN: {e!r}") from e
        return reader.checked(config, checkpoint.tensors, checkpoint.metadata)

    def facts(self, checkpoint: Checkpoint) -> ModelFacts:
        """See `generators.families.r3gan.facts`."""
        return facts.facts_of(checkpoint)

    def build(self, checkpoint: Checkpoint) -> ZBasedGenerator:
        """The generator, on the CPU."""
        from generators.families.r3gan.network import R3GAN
        from generators.z_based import ZBasedGenerator

        config = R3GANConfig.from_architecture(checkpoint.architecture)
        return ZBasedGenerator(self.facts(checkpoint), checkpoint, lambda: R3GAN(config))


PLUGIN = R3GANFamily()
