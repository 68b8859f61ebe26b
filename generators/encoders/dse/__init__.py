"""The diverse similarity encoder (DSE) of deep GANs: Yu and Wang (2021), arXiv 2108.10201."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from generators.encoders.base import EncoderCheckpoint
from generators.encoders.dse.config import DSEConfig

if TYPE_CHECKING:
    from generators.encoders.dse.network import DSE


class DSEArchitecture:
    """One encoder for StyleGAN, PGGAN, BigGAN and any other generator: see `DSEConfig`."""

    def recognise(self, contents: Any) -> EncoderCheckpoint | None:
        """None: the authors' networks draw new noise whenever they encode, and are not read."""
        return None

    def spaces(self, architecture: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Its space, after the one that each layer of it repeats."""
        return DSEConfig.from_architecture(architecture).spaces

    def build(self, checkpoint: EncoderCheckpoint) -> DSE:
        """The network with its tensors."""
        from generators.encoders.dse.network import built

        return built(checkpoint)


PLUGIN = DSEArchitecture()
