"""Encoders of the pSp framework: pSp, e4e, ReStyle and HyperStyle's encoder into w."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from generators.encoders.base import EncoderCheckpoint
from generators.encoders.psp.config import PspConfig

if TYPE_CHECKING:
    from generators.encoders.psp.network import PspEncoder


class PspArchitecture:
    """See `generators.encoders.base.EncoderArchitecture`."""

    def recognise(self, contents: Any) -> EncoderCheckpoint | None:
        """The encoder beside the generator in a training checkpoint, see
        `generators.encoders.psp.reader`."""
        from generators.encoders.psp.reader import read

        return read(contents)

    def spaces(self, architecture: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """w_plus; of a head for one w, w too."""
        return PspConfig.from_architecture(architecture).spaces()

    def build(self, checkpoint: EncoderCheckpoint) -> PspEncoder:
        """The network with its tensors."""
        from generators.encoders.networks import built
        from generators.encoders.psp.network import PspEncoder

        config = PspConfig.from_architecture(checkpoint.architecture)
        return built(lambda: PspEncoder(config), checkpoint)


PLUGIN = PspArchitecture()
