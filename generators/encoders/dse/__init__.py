"""The diverse similarity encoder (DSE) of deep GANs: Yu and Wang (2021), arXiv 2108.10201."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from generators.encoders.base import EncoderCheckpoint
from generators.encoders.dse.config import DSEConfig
from generators.protocols import ModelFacts
from schemas.sections.types import Integer, SpecModel

if TYPE_CHECKING:
    from torch import Tensor

    from generators.encoders.dse.network import DSE


class DSESettings(SpecModel):
    """Widths of the networks; see `DSEConfig`."""

    channel_base: Integer = Field(
        default=16384,
        ge=1,
        le=1 << 20,
        description="A block that sees images of 'side' pixels takes channel_base / side channels.",
    )
    channel_max: Integer = Field(
        default=512, ge=1, le=4096, description="The most channels of a block."
    )
    fused_scale: bool = Field(
        default=False, description="Each halving is one convolution of stride 2."
    )


class DSEArchitecture:
    """One encoder for StyleGAN, PGGAN, BigGAN and any other generator: see `DSEConfig`."""

    settings = DSESettings

    def recognise(self, contents: Any) -> EncoderCheckpoint | None:
        """None: the authors' networks draw new noise whenever they encode, and are not read."""
        return None

    def spaces(self, architecture: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Its space, after the one that each layer of it repeats."""
        return DSEConfig.from_architecture(architecture).spaces

    def build(self, checkpoint: EncoderCheckpoint) -> DSE:
        """The network with its tensors."""
        from generators.encoders.dse.network import DSE
        from generators.encoders.networks import built

        config = DSEConfig.from_architecture(checkpoint.architecture)
        return built(lambda: DSE(config), checkpoint)

    def design(self, facts: ModelFacts, space: str, settings: DSESettings) -> dict[str, Any]:
        """The paper's encoder of that generator."""
        return DSEConfig.for_generator(facts, space=space, **dict(settings)).architecture()

    def fresh(self, architecture: Mapping[str, Any], codes: Tensor) -> DSE:
        """A network whose codes begin around the mean code."""
        from generators.encoders.dse.network import DSE

        network = DSE(DSEConfig.from_architecture(architecture))
        network.centre.copy_(codes.mean(dim=0))
        return network


PLUGIN = DSEArchitecture()
