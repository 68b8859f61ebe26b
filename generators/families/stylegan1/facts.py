"""What a StyleGAN is, told from its configuration alone (no torch)."""

from __future__ import annotations

import numpy as np

from generators.families.base import Checkpoint
from generators.families.stylegan1.config import StyleGAN1Config
from generators.protocols import GRADIENTS, NOISE, Companion, ModelFacts, Space
from generators.tuned import shapes_of, tunable

#: Names of the tensors that a row may have changes of its own to.
WEIGHTS = r"synthesis\..*\.(weight|bias|input|noise_strength)"


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """Facts about a checkpoint's generator."""
    config = StyleGAN1Config.from_architecture(checkpoint.architecture)
    found = ModelFacts(
        family="stylegan1",
        network_fp=checkpoint.fingerprint,
        size=(config.img_resolution,) * 2,
        channels=config.img_channels,
        classes=config.c_dim,
        spaces={space.name: space for space in spaces_of(config)},
        default_space="w_plus",
        capabilities=frozenset({GRADIENTS, NOISE}),
        assumed=assumptions(checkpoint),
    )
    return tunable(found, shapes_of(checkpoint.tensors, WEIGHTS))


def spaces_of(config: StyleGAN1Config) -> tuple[Space, ...]:
    """z, its image w under the mapping network, one w for each layer, and the styles s: of every
    layer, b4.const, b4.conv1, b8.conv0, b8.conv1, ..., its scales and then its shifts.

    A layer's normalised feature maps are multiplied by 1 + scale. ``features.<layer>`` is what a
    layer puts out while w_plus is drawn; edits there have the option "mask", (height, width) of
    that layer, from 0 to 1. A code's companion ``noise/<layer>`` stands in for the noise image
    that the model holds for a layer.
    """
    w_plus = (len(config.layers), config.w_dim)
    noise = {f"noise/{layer}": Companion((side, side)) for layer, side, _, _ in config.layers}
    return (
        Space("z", (config.z_dim,), "normal", conditional=config.c_dim > 0),
        Space("w", (config.w_dim,), "derived", derived_from="z", companions=noise),
        Space("w_plus", w_plus, "derived", layered=True, derived_from="w", companions=noise),
        Space("s", (config.style_dim,), "derived", derived_from="w_plus", companions=noise),
        *(
            Space(f"features.{layer}", (n, side, side), injected_into="w_plus", options=("mask",))
            for layer, side, _, n in config.layers
        ),
    )


def assumptions(checkpoint: Checkpoint) -> dict[str, str]:
    """What is to be told of each setting that no file stated, by name."""
    told = {
        name: f"{value!r} is assumed, the file does not state it: set 'generator.{name}'"
        for name, value in checkpoint.assumed.items()
    }
    assumed = checkpoint.assumed.get("lr_multiplier")
    weights = [
        v for k, v in checkpoint.tensors.items() if k.startswith("mapping.fc") and v.ndim > 1
    ]
    if assumed and weights:
        # the weights begin with deviation 1 / rate
        rate = 1.0 / max(float(np.sqrt(np.mean([np.square(w).mean() for w in weights]))), 1e-30)
        if not 1 / 3 < rate / assumed < 3:
            told["lr_multiplier"] += f"; the scale of the mapping's weights suggests {rate:.1g}"
    return told
