"""What a Progressive GAN is, told from its configuration alone (no torch)."""

from __future__ import annotations

from generators.families.base import Checkpoint
from generators.families.pggan.config import FAMILY, PGGANConfig
from generators.protocols import GRADIENTS, ModelFacts, Space
from generators.tuned import shapes_of, tunable
from schemas.errors import CheckpointError

#: Names of the tensors that a row may have changes of its own to.
WEIGHTS = r".*\.(weight|bias)"


def config_of(checkpoint: Checkpoint) -> PGGANConfig:
    """Its configuration. Raises CheckpointError for an architecture that is none."""
    try:
        return PGGANConfig.from_architecture(checkpoint.architecture)
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"'architecture' is not that of a Progressive GAN: {e}") from e


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """Facts about a checkpoint's generator."""
    config = config_of(checkpoint)
    found = ModelFacts(
        family=FAMILY,
        network_fp=checkpoint.fingerprint,
        size=(config.resolution,) * 2,
        channels=config.img_channels,
        classes=config.classes,
        spaces={space.name: space for space in spaces_of(config)},
        default_space="z",
        capabilities=frozenset({GRADIENTS}),
        assumed=assumptions(checkpoint),
    )
    return tunable(found, shapes_of(checkpoint.tensors, WEIGHTS))


def assumptions(checkpoint: Checkpoint) -> dict[str, str]:
    """What is to be told of each setting that no file stated, by name."""
    told = {
        name: f"{value!r} is assumed, the file does not state it: set 'generator.{name}'"
        for name, value in checkpoint.assumed.items()
    }
    if checkpoint.metadata.get("source") == "genforce":
        told["label_sizes"] = (
            "no labels are assumed, the file does not tell them from z: a generator that was "
            "trained with labels is drawn wrong"
        )
    return told


def spaces_of(config: PGGANConfig) -> tuple[Space, ...]:
    """z, and what each layer puts out while it is drawn: ``features.b4.dense``,
    ``features.b4.conv``, ``features.b8.conv0``, ``features.b8.conv1``, ... Edits there have the
    option "mask", (height, width) of that layer, from 0 to 1."""
    return (
        Space("z", (config.z_dim,), "normal", conditional=config.classes > 0),
        *(
            Space(f"features.{layer}", shape, injected_into="z", options=("mask",))
            for layer, shape in config.feature_shapes.items()
        ),
    )
