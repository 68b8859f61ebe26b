"""What a BigGAN is, told from its configuration alone (no torch)."""

from __future__ import annotations

from typing import cast

from generators.families.base import Checkpoint
from generators.families.biggan.config import FAMILY, BigGANConfig
from generators.protocols import Companion, ModelFacts, Prior, Space
from generators.tuned import shapes_of, tunable

Z, Z_PLUS, C, ZC = "z", "z_plus", "c", "zc"

#: Names of the tensors that a row may have changes of its own to.
WEIGHTS = r"(?!embedding).*\.(weight|bias|gamma)"


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """Facts about a checkpoint's generator."""
    config = BigGANConfig.from_architecture(checkpoint.architecture)
    found = ModelFacts(
        family=FAMILY,
        network_fp=checkpoint.fingerprint,
        size=(config.resolution,) * 2,
        channels=config.channels,
        classes=config.classes,
        spaces={space.name: space for space in spaces_of(config)},
        default_space=ZC,
        assumed=assumptions(checkpoint),
    )
    return tunable(found, shapes_of(checkpoint.tensors, WEIGHTS))


def spaces_of(config: BigGANConfig) -> tuple[Space, ...]:
    """The latent and the class embedding, apart and together.

    ============  ===============================================================================
    z             the latent; drawn with a class label
    zc            z and the class embedding c, end to end: all that the network is given. It needs
                  no label, so images of no known class are inverted into it
    c             the class embedding alone, (c_dim,); its z is a companion. Without a learned
                  embedding it is the weights of the classes
    z_plus        one part of z for the first layer and for each block, (layers, width), with the
                  class embedding as companion "c". Where all see the whole of z it stands in every
                  layer; of a hierarchical BigGAN the layers are z's chunks. A network in which
                  the first layer alone sees z has none
    features.*    what the first layer, "linear", and each block, "b0", "b1", ..., put out while zc
                  is drawn; edits there have the option "mask", (height, width) from 0 to 1
    ============  ===============================================================================
    """
    z, c = (config.z_dim,), (config.c_dim,)
    found = [
        Space(Z, z, cast(Prior, config.prior), conditional=True),
        Space(ZC, (config.z_dim + config.c_dim,), "derived", derived_from=Z),
        Space(C, c, "derived", derived_from=ZC, companions={Z: Companion(z, required=True)}),
    ]
    if config.n_layers > 1:
        found.append(
            Space(
                Z_PLUS,
                (config.n_layers, config.layer_dim),
                "derived",
                layered=True,
                derived_from=Z,
                companions={C: Companion(c, required=True)},
            )
        )
    return (
        *found,
        *(
            Space(f"features.{layer}", shape, injected_into=ZC, options=("mask",))
            for layer, shape in config.feature_shapes.items()
        ),
    )


def assumptions(checkpoint: Checkpoint) -> dict[str, str]:
    """What is to be told of each setting that no file stated, by name."""
    told = {}
    for name, value in checkpoint.assumed.items():
        if name == "blocks":
            doubling = [i for i, (_, _, doubles) in enumerate(value) if doubles]
            told[name] = (
                f"{', '.join(map(str, doubling))} are assumed to double the sides, as in all that "
                "were published: no 'layers' in a config.json beside the weights say so; where "
                "the network's do otherwise its pictures are wrong: give the folder with it"
            )
            continue
        text = f"{value!r} is assumed, the file does not state it: set 'generator.{name}'"
        if name == "statistics_truncation":
            text += ", to the truncation that codes are drawn with"
        told[name] = text
    return told
