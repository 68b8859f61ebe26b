"""StyleGAN (the first one): network, adapter, and readers of its checkpoints."""

from generators.families.stylegan1.family import PLUGIN

__all__ = ["PLUGIN"]
