"""What a StyleGAN3 is, told from its configuration alone (no torch)."""

from __future__ import annotations

from generators.families.base import Checkpoint
from generators.families.stylegan3.config import StyleGAN3Config
from generators.protocols import GRADIENTS, Companion, ModelFacts, Space
from generators.tuned import shapes_of, tunable

PLACEMENT = "placement"
"""The space of where a picture lies."""
TRANSFORM = "transform"
"""The companion of a code that places its picture."""

#: Names of the tensors that a row may have changes of its own to.
WEIGHTS = r"synthesis\..*\.(weight|bias)"


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """Facts about a checkpoint's generator."""
    config = StyleGAN3Config.from_architecture(checkpoint.architecture)
    width, height = config.img_size
    found = ModelFacts(
        family="stylegan3",
        network_fp=checkpoint.fingerprint,
        size=(height, width),
        channels=config.img_channels,
        classes=config.c_dim,
        spaces={space.name: space for space in spaces_of(config)},
        default_space="w_plus",
        capabilities=frozenset({GRADIENTS}),
        assumed=assumptions(checkpoint),
    )
    return tunable(found, shapes_of(checkpoint.tensors, WEIGHTS))


def spaces_of(config: StyleGAN3Config) -> tuple[Space, ...]:
    """z, its image w under the mapping network, one w for the input and each layer, and the styles
    s: the four numbers that place the input, then affine outputs of every layer, on end.

    ``features.<layer>`` is what a layer puts out while w_plus is drawn, margins included; edits
    there have the option "mask", (height, width) of that layer, from 0 to 1.

    ``placement`` is where w_plus places the picture: its shift to the right and down in pixels, and
    its rotation counter clockwise in degrees (axes "shift_x", "shift_y", "rotation"). Edits there
    move the Fourier features that a drawing begins with, and the picture follows as far as the
    network is equivariant.

    A code's companion ``transform`` stands in for the inverse transform of the picture that the
    model holds for all, in picture widths from the middle.
    """
    w_plus = (config.num_ws, config.w_dim)
    own = {TRANSFORM: Companion((3, 3))}
    return (
        Space("z", (config.z_dim,), "normal", conditional=config.c_dim > 0),
        Space("w", (config.w_dim,), "derived", derived_from="z", companions=own),
        Space("w_plus", w_plus, "derived", layered=True, derived_from="w", companions=own),
        Space("s", (config.style_dim,), "derived", derived_from="w_plus", companions=own),
        Space(
            PLACEMENT,
            (3,),
            injected_into="w_plus",
            axes=("shift_x", "shift_y", "rotation"),
            units=("px", "px", "\N{DEGREE SIGN}"),
        ),
        *(
            Space(f"features.{layer}", shape, injected_into="w_plus", options=("mask",))
            for layer, shape in config.feature_shapes.items()
        ),
    )


def assumptions(checkpoint: Checkpoint) -> dict[str, str]:
    """What is to be told of each setting that no file stated, by name."""
    return {
        name: f"{value!r} is assumed, the file does not state it: set 'generator.{name}'"
        for name, value in checkpoint.assumed.items()
    }
