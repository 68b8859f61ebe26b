"""Progressive GAN: network, and readers of its checkpoints."""

from generators.families.pggan.family import PLUGIN

__all__ = ["PLUGIN"]
