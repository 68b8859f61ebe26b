"""R3GAN: network, adapter, and reader of its checkpoints."""

from generators.families.r3gan.family import PLUGIN

__all__ = ["PLUGIN"]
