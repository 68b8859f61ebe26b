"""What a StyleGAN2 is, told from its configuration alone (no torch)."""

from __future__ import annotations

import numpy as np

from generators.families.base import Checkpoint
from generators.families.stylegan2.config import StyleGAN2Config
from generators.protocols import GRADIENTS, NOISE, Companion, ModelFacts, Space
from generators.tuned import shapes_of, tunable

#: Names of the tensors that a row may have changes of its own to.
WEIGHTS = r"synthesis\..*\.(weight|bias|const|noise_strength)"


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """Facts about a checkpoint's generator."""
    config = StyleGAN2Config.from_architecture(checkpoint.architecture)
    found = ModelFacts(
        family="stylegan2",
        network_fp=checkpoint.fingerprint,
        size=config.size,
        channels=config.img_channels,
        classes=config.c_dim,
        spaces={space.name: space for space in spaces_of(config)},
        default_space="w_plus",
        capabilities=frozenset({GRADIENTS, NOISE} if config.use_noise else {GRADIENTS}),
        assumed=assumptions(checkpoint),
    )
    return tunable(found, shapes_of(checkpoint.tensors, WEIGHTS))


def spaces_of(config: StyleGAN2Config) -> tuple[Space, ...]:
    """z, its image w under the mapping network, one w for each layer, and the styles s: affine
    outputs of every layer on end, in the order of `StyleGAN2Config.style_widths`.

    ``features.<layer>`` is what a convolution layer puts out while w_plus is drawn; edits there
    have the option "mask", (height, width) of that layer, from 0 to 1. A code's companion
    ``noise/<layer>`` stands in for the noise image that the model holds for a layer, where it has
    noise inputs.
    """
    w_plus = (config.num_ws, config.w_dim)
    maps = config.feature_shapes
    noisy = maps if config.use_noise else {}
    noise = {f"noise/{layer}": Companion(shape[1:]) for layer, shape in noisy.items()}
    return (
        Space("z", (config.z_dim,), "normal", conditional=config.c_dim > 0),
        Space("w", (config.w_dim,), "derived", derived_from="z", companions=noise),
        Space("w_plus", w_plus, "derived", layered=True, derived_from="w", companions=noise),
        Space("s", (config.style_dim,), "derived", derived_from="w_plus", companions=noise),
        *(
            Space(f"features.{layer}", shape, injected_into="w_plus", options=("mask",))
            for layer, shape in maps.items()
        ),
    )


def mapping_rate(checkpoint: Checkpoint) -> float:
    """The mapping's rate by the scale of its weights, which begin with deviation 1 / rate."""
    tensors = checkpoint.tensors
    weights = [v for k, v in tensors.items() if k.startswith("mapping.fc") and v.ndim == 2]
    return float(1.0 / max(np.sqrt(np.mean([np.square(w).mean() for w in weights])), 1e-30))


def assumptions(checkpoint: Checkpoint) -> dict[str, str]:
    """What is to be told of each setting that no file stated, by name."""
    told = {}
    for name, value in checkpoint.assumed.items():
        shown = "none" if value is None else repr(value)
        text = f"{shown} is assumed, the file does not state it: set 'generator.{name}'"
        rate = mapping_rate(checkpoint)
        if name == "lr_multiplier" and value and not 1 / 3 < rate / value < 3:
            text += f"; the scale of the mapping's weights suggests about {rate:.1g}"
        told[name] = text
    return told
