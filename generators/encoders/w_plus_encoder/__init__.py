"""Strided convolutions, then heads for w and for the layers' offsets from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from generators.encoders.base import EncoderCheckpoint

if TYPE_CHECKING:
    from generators.encoders.w_plus_encoder.network import WPlusEncoder


class WPlusArchitecture:
    """The project's own small encoder of style-based generators."""

    def recognise(self, contents: Any) -> EncoderCheckpoint | None:
        """No other project writes them."""
        return None

    def spaces(self, architecture: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """w, and w_plus with the layers' offsets."""
        num_ws, w_dim = int(architecture["num_ws"]), int(architecture["w_dim"])
        return {"w": (w_dim,), "w_plus": (num_ws, w_dim)}

    def build(self, checkpoint: EncoderCheckpoint) -> WPlusEncoder:
        """The network with its tensors."""
        from generators.encoders.networks import built
        from generators.encoders.w_plus_encoder.network import EncoderConfig, WPlusEncoder

        architecture = dict(checkpoint.architecture)
        architecture.pop("family")
        architecture["channels"] = tuple(architecture["channels"])
        config = EncoderConfig(**architecture)
        return built(lambda: WPlusEncoder(config), checkpoint)


PLUGIN = WPlusArchitecture()
