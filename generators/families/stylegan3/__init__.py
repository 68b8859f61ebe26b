"""StyleGAN3 and StyleGAN-XL: networks, adapter, and readers of their checkpoints."""

from generators.families.stylegan3.family import PLUGIN

__all__ = ["PLUGIN"]
