"""BigGAN and BigGAN-deep: networks, adapter, and readers of their checkpoints."""

from generators.families.biggan.family import PLUGIN

__all__ = ["PLUGIN"]
