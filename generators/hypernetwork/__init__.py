"""Networks that give each image weights of its generator's own (HyperStyle, Alaluf et al. 2022)."""
