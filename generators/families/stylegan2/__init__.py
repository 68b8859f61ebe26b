"""StyleGAN2: networks, adapter, and readers of its checkpoints."""
