"""What an R3GAN is, told from its configuration alone (no torch)."""

from __future__ import annotations

from generators.families.base import Checkpoint
from generators.families.r3gan.config import R3GANConfig
from generators.protocols import GRADIENTS, ModelFacts, Space
from generators.tuned import shapes_of, tunable

#: Names of the tensors that a row may have changes of its own to.
WEIGHTS = r".*\.(weight|bias|maps)"


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """Facts about a checkpoint's generator.

    Spaces: z, the input, and ``features.<layer>``, what a layer puts out while z is drawn; edits
    there have the option "mask", (height, width) of that layer, from 0 to 1.
    """
    config = R3GANConfig.from_architecture(checkpoint.architecture)
    z = Space("z", (config.z_dim,), "normal", conditional=config.c_dim > 0)
    features = (
        Space(f"features.{layer}", shape, injected_into="z", options=("mask",))
        for layer, shape in config.feature_shapes.items()
    )
    found = ModelFacts(
        family="r3gan",
        network_fp=checkpoint.fingerprint,
        size=(config.resolutions[-1],) * 2,
        channels=config.img_channels,
        classes=config.c_dim,
        spaces={space.name: space for space in (z, *features)},
        default_space="z",
        capabilities=frozenset({GRADIENTS}),
    )
    return tunable(found, shapes_of(checkpoint.tensors, WEIGHTS))
