"""What a StyleGAN2 is, told from its configuration alone (no torch)."""

from __future__ import annotations

from generators.families.stylegan2.config import StyleGAN2Config
from generators.model_file import Checkpoint, assumptions
from generators.protocols import GRADIENTS, NOISE, ModelFacts, Space


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """Facts about a checkpoint's generator."""
    config = StyleGAN2Config.from_architecture(checkpoint.architecture)
    return ModelFacts(
        family="stylegan2",
        network_fp=checkpoint.fingerprint,
        size=(config.img_resolution,) * 2,
        channels=config.img_channels,
        classes=config.c_dim,
        spaces={space.name: space for space in spaces_of(config)},
        default_space="w_plus",
        capabilities=frozenset({GRADIENTS, NOISE}),
        assumed=assumptions(checkpoint),
    )


def spaces_of(config: StyleGAN2Config) -> tuple[Space, ...]:
    """z, its image w under the mapping network, one w for each layer, and the styles s: affine
    outputs of every layer, b4.conv1, b4.torgb, b8.conv0, b8.conv1, b8.torgb, ..., on end."""
    w_plus = (config.num_ws, config.w_dim)
    return (
        Space("z", (config.z_dim,), "normal", conditional=config.c_dim > 0),
        Space("w", (config.w_dim,), "derived", derived_from="z"),
        Space("w_plus", w_plus, "derived", layered=True, derived_from="w"),
        Space("s", (config.style_dim,), "derived", derived_from="w_plus"),
    )
