"""Progressive GAN as a family of generators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from generators.families.base import Checkpoint
from generators.families.pggan import facts, reader
from generators.families.pggan.config import FAMILY
from generators.families.pggan.layers import checked, unfused
from generators.families.pggan.settings import PGGANSettings
from generators.protocols import ModelFacts

if TYPE_CHECKING:
    from generators.z_based import ZBasedGenerator


class PGGANFamily:
    """See `generators.families.base.GeneratorFamily`."""

    name = FAMILY
    settings = PGGANSettings
    bundled: Mapping[str, Path] = MappingProxyType({})

    def recognise(self, contents: Any) -> Checkpoint | None:
        """Official TensorFlow pickles, GenForce's state dicts, pytorch_GAN_zoo's checkpoints."""
        return reader.read(contents)

    def checked(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every tensor that the configuration calls for, and no other.

        The setting ``fused_scale`` turns the kernels and does not stay in the architecture.
        """
        fused = checkpoint.architecture.get("fused_scale", False)
        tensors = unfused(checkpoint.tensors) if fused else checkpoint.tensors
        return checked(facts.config_of(checkpoint), tensors, checkpoint.metadata)

    def facts(self, checkpoint: Checkpoint) -> ModelFacts:
        """See `generators.families.pggan.facts`."""
        return facts.facts_of(checkpoint)

    def build(self, checkpoint: Checkpoint) -> ZBasedGenerator:
        """The generator, on the CPU."""
        from generators.families.pggan.network import PGGAN
        from generators.z_based import ZBasedGenerator

        config = facts.config_of(checkpoint)
        return ZBasedGenerator(self.facts(checkpoint), checkpoint, lambda: PGGAN(config))


PLUGIN = PGGANFamily()
