"""StyleGAN2: networks, adapter, and readers of its checkpoints."""

from generators.families.stylegan2.family import PLUGIN

__all__ = ["PLUGIN"]
