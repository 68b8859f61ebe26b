"""An encoder of woodcuts: one linear layer from the print to the code, which can be trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from generators.encoders.base import EncoderCheckpoint
from generators.protocols import ModelFacts
from schemas.sections.types import SpecModel

if TYPE_CHECKING:
    from torch import Tensor

    from latentflow_woodcut.linear import Linear


class RubbingArchitecture:
    """See `generators.encoders.base.TrainableArchitecture`."""

    settings = SpecModel  # no keys of its own

    def recognise(self, contents: Any) -> EncoderCheckpoint | None:
        """No other project writes them."""
        return None

    def spaces(self, architecture: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """The one that it was designed for."""
        return {str(architecture["space"]): tuple(architecture["shape"])}

    def build(self, checkpoint: EncoderCheckpoint) -> Linear:
        """The network with its tensors; torch is imported here and not before."""
        import torch

        from latentflow_woodcut.linear import Linear

        network = Linear(dict(checkpoint.architecture))
        tensors = {name: torch.from_numpy(v.copy()) for name, v in checkpoint.tensors.items()}
        network.load_state_dict(tensors)
        return network

    def design(self, facts: ModelFacts, space: str, settings: Any) -> dict[str, Any]:
        """Shapes of pictures and codes."""
        shape = facts.space(space).shape
        return {"family": "rubbing", "size": [*facts.size], "space": space, "shape": [*shape]}

    def fresh(self, architecture: Mapping[str, Any], codes: Tensor) -> Linear:
        """Weights of 0 and the mean code, whatever the picture."""
        from latentflow_woodcut.linear import Linear

        network = Linear(dict(architecture))
        network.layer.weight.data.zero_()
        network.layer.bias.data.copy_(codes.mean(dim=0).reshape(math.prod(architecture["shape"])))
        return network


PLUGIN = RubbingArchitecture()
