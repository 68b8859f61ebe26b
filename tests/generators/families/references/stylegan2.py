"""StyleGAN2 against a second implementation in float64, `tests.stylegan2_layouts`, and against what
the official modules have drawn, `tests.generators.families.stylegan2_official`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from generators.families.base import Checkpoint
from generators.families.stylegan2 import PLUGIN
from tests import stylegan2_layouts as layouts
from tests.generators.families import stylegan2_official as official

Pair = tuple[np.ndarray, np.ndarray]


def tiny() -> Checkpoint:
    """16 x 16, no labels."""
    return layouts.tiny(seed=3).checkpoint()


def beside_naive(**changes: object) -> Pair:
    """Our pictures of w_plus and the second implementation's."""
    model = layouts.tiny(seed=6, **changes)
    codes = model.sample("w_plus", [1, 2, 3])
    clamp = model.config.conv_clamp
    with torch.no_grad():
        ours = PLUGIN.build(model.checkpoint()).draw(codes)
        theirs = layouts.naive_synthesis(model.tensors(), codes.main, clamp)
    return ours.numpy(), theirs.expand(-1, 3, -1, -1).numpy()


def beside_rosinality() -> Pair:
    """Our pictures of z and those of rosinality's own forward pass."""
    model = layouts.tiny(seed=7)
    codes = model.sample("z", [1, 2, 3])
    with torch.no_grad():
        theirs = layouts.rosinality_forward(layouts.rosinality_state(model.tensors()), codes.main)
        return PLUGIN.build(model.checkpoint()).draw(codes).numpy(), theirs.numpy()


def beside_official(name: str) -> Pair:
    """What our network and the official one draw of a case, in as many channels as it has."""
    model = official.model(name)
    labels = official.labels_of(name) if model.config.c_dim else None
    codes = model.sample("w_plus", official.SEEDS, labels=labels, truncation=0.7)
    with torch.no_grad(), np.load(official.REFERENCE) as file:
        return model.network.synthesis(codes.main).numpy(), file[f"{name}/images"]


REFERENCES: dict[str, Callable[[], Pair]] = {
    "skip": beside_naive,
    "skip, labels, clamp, 1 channel": lambda: beside_naive(c_dim=2, conv_clamp=1.0, img_channels=1),
    "rosinality": beside_rosinality,
    **{f"official, {name}": partial(beside_official, name) for name in official.CASES},
}
