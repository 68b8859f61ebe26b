"""Planted tensors, for tests of the tensor models."""

import numpy as np

from transforms.hosvd.passes import multiply_modes

SHAPE = (30, 8, 5, 2)


def planted(ranks=(5, 3, 2), noise=0.0, mean=5.0, seed=0, shape=SHAPE):
    """(D, I_1, ...): a random core of the given ranks with random factors, mean and noise."""
    rng = np.random.default_rng(seed)
    core = rng.standard_normal((shape[0], *ranks))
    factors = [rng.standard_normal((n, r)) for n, r in zip(shape[1:], ranks, strict=True)]
    tensor = multiply_modes(core, factors) + mean
    return tensor + noise * rng.standard_normal(shape)


def centred(tensor):
    return tensor - tensor.mean(axis=tuple(range(1, tensor.ndim)), keepdims=True)


def with_holes(tensor, share, seed=1):
    """(tensor with NaN cells, bool cells that lack), no level without a cell."""
    absent = np.random.default_rng(seed).random(tensor.shape[1:]) < share
    holes = tensor.copy()
    holes[:, absent] = np.nan
    return holes, absent
