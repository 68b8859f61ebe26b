"""Encoders of drawings: an encoder of another architecture that sees the lines of a picture alone
(Haas 2023, chapter 5: an encoder trained on sketches made of the generator's samples)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from generators.encoders.base import EncoderCheckpoint
from generators.protocols import ModelFacts
from schemas.sections.types import Label, Number, SpecModel

if TYPE_CHECKING:
    from torch import Tensor

    from generators.encoders.sketch.network import SketchEncoder

INSIDE = "network."


class SketchSettings(SpecModel):
    """The encoder that sees the lines, and how these are found."""

    of: Label = Field(
        default="convolutional",
        description="Architecture of the encoder that is shown the lines, with its defaults.",
    )
    width: Number = Field(
        default=1 / 32,
        gt=0,
        le=0.25,
        description="Of the blur that a pixel is compared with, as part of the picture's shorter "
        "side: what is smaller than it gives lines.",
    )
    darkness: Number = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="A pixel that is darker than its blurred surroundings by this share of them is "
        "of a line.",
    )


class SketchArchitecture:
    """Drawings and photographs alike become black lines on white, which are then encoded."""

    settings = SketchSettings

    def recognise(self, contents: Any) -> EncoderCheckpoint | None:
        """No other project writes them."""
        return None

    def spaces(self, architecture: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Those of the encoder inside."""
        inside = dict(architecture["network"])
        return dict(_architecture(inside["family"]).spaces(inside))

    def build(self, checkpoint: EncoderCheckpoint) -> SketchEncoder:
        """The network with its tensors."""
        from generators.encoders.sketch.network import SketchEncoder

        architecture = checkpoint.architecture
        tensors = {name.removeprefix(INSIDE): v for name, v in checkpoint.tensors.items()}
        inside = EncoderCheckpoint(dict(architecture["network"]), tensors)
        network = _architecture(inside.family).build(inside)
        return SketchEncoder(network, float(architecture["width"]), float(architecture["darkness"]))

    def design(self, facts: ModelFacts, space: str, settings: SketchSettings) -> dict[str, Any]:
        """For every generator that the architecture inside has encoders for."""
        plugin = _architecture(settings.of)
        inside = plugin.design(facts, space, plugin.settings())
        lines = {"width": float(settings.width), "darkness": float(settings.darkness)}
        return {"family": "sketch", "network": inside, **lines}

    def fresh(self, architecture: Mapping[str, Any], codes: Tensor) -> SketchEncoder:
        """With first weights as the architecture inside has them."""
        from generators.encoders.sketch.network import SketchEncoder

        inside = dict(architecture["network"])
        network = _architecture(inside["family"]).fresh(inside, codes)
        return SketchEncoder(network, float(architecture["width"]), float(architecture["darkness"]))


def _architecture(name: str) -> Any:
    """The trainable architecture of a name. Raises UsageError for another."""
    from generators.encoders.base import TrainableArchitecture
    from generators.encoders.catalog import ARCHITECTURES
    from schemas.errors import UsageError

    found = ARCHITECTURES.load(name)
    if name == "sketch" or not isinstance(found, TrainableArchitecture):
        raise UsageError(
            f"'train_encoder.architecture.of' is {name!r}, which cannot be trained to see lines: "
            "use 'convolutional' or 'dse'"
        )
    return found


PLUGIN = SketchArchitecture()
