"""A general encoder: images of any size, codes of any shape, with or without layers and classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from generators.encoders.base import EncoderCheckpoint
from generators.encoders.convolutional.config import ConvolutionalConfig
from generators.protocols import ModelFacts
from schemas.sections.types import Integer, SpecModel

if TYPE_CHECKING:
    from torch import Tensor

    from generators.encoders.convolutional.network import Convolutional


class ConvolutionalSettings(SpecModel):
    """Widths of the network."""

    channels: Integer = Field(
        default=32,
        ge=1,
        le=1024,
        description="Feature maps after the first halving; each further one doubles them, up to "
        "'channel_max'.",
    )
    channel_max: Integer = Field(
        default=256, ge=1, le=4096, description="The most feature maps of a convolution."
    )
    features: Integer = Field(
        default=512, ge=1, le=65536, description="Width of the hidden layer before the code."
    )


class ConvolutionalArchitecture:
    """The project's own encoder of any generator: see `ConvolutionalConfig`."""

    settings = ConvolutionalSettings

    def recognise(self, contents: Any) -> EncoderCheckpoint | None:
        """No other project writes them."""
        return None

    def spaces(self, architecture: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Its space, after the one that each layer of it repeats."""
        return ConvolutionalConfig.from_architecture(architecture).spaces

    def build(self, checkpoint: EncoderCheckpoint) -> Convolutional:
        """The network with its tensors."""
        from generators.encoders.convolutional.network import Convolutional
        from generators.encoders.networks import built

        config = ConvolutionalConfig.from_architecture(checkpoint.architecture)
        return built(lambda: Convolutional(config), checkpoint)

    def design(
        self, facts: ModelFacts, space: str, settings: ConvolutionalSettings
    ) -> dict[str, Any]:
        """For every generator and every space that codes are drawn from."""
        return ConvolutionalConfig.for_generator(facts, space, **dict(settings)).architecture()

    def fresh(self, architecture: Mapping[str, Any], codes: Tensor) -> Convolutional:
        """A network that gives the mean code of every image, and measures distances from it by the
        codes' deviation."""
        from generators.encoders.convolutional.network import Convolutional

        network = Convolutional(ConvolutionalConfig.from_architecture(architecture))
        network.calibrate(codes)
        return network


PLUGIN = ConvolutionalArchitecture()
