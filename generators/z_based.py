"""What generators of one drawn code share behind the `Generator` protocol: z -> features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from generators.activations import added, recorded
from generators.edits import check_code, class_weights, edited
from generators.families.base import Checkpoint
from generators.protocols import Code, Edit, Labels, ModelFacts, labels_in_turn
from generators.seeds import drawn
from generators.tuned import DrawsOwnParts, by_row
from schemas.errors import UsageError

SPACE = "z"


class ZBasedGenerator(DrawsOwnParts):
    """Implements `generators.protocols.Generator` over a network with these parts:

    ``network(z, weights)`` : z (n, z_dim) and weights of classes (n, classes), None of a model
        without, -> images (n, 1 or 3, height, width).
    ``network.<layer>`` : the module whose output the space ``features.<layer>`` is.

    facts : with the space z, standard normal, and its features. make : the network, whose
        parameters and buffers are those of the checkpoint; called without memory for them.
    """

    def __init__(
        self, facts: ModelFacts, checkpoint: Checkpoint, make: Callable[[], nn.Module]
    ) -> None:
        self.facts = facts
        self._checkpoint = checkpoint
        with torch.device("meta"):
            network = make()
        state = {name: torch.from_numpy(np.array(v)) for name, v in checkpoint.tensors.items()}
        network.load_state_dict(state, strict=True, assign=True)
        self.network = network.eval().requires_grad_(False)

    def checkpoint(self) -> Checkpoint:
        """Architecture, tensors and metadata, as a checkpoint file holds them."""
        return self._checkpoint

    def to(self, device: torch.device | torch.dtype | str) -> Self:
        """Move the model, or change its precision; returns itself."""
        self.network.to(device)
        return self

    @property
    def _like(self) -> Tensor:
        """A tensor where the model is, in its precision."""
        return next(self.network.parameters())

    def sample(
        self,
        space: str,
        seeds: Sequence[int],
        *,
        labels: Labels = None,
        truncation: float | None = None,
    ) -> Code:
        """Standard normal z of each seed alone. Truncation shrinks it to 0, its mean."""
        if self.facts.space(space).prior == "none":
            raise UsageError(f"space {space!r} cannot be sampled from the prior: use {SPACE!r}")
        if labels is None:
            labels = labels_in_turn(self.facts.classes, seeds)
        class_weights(self.facts, labels, len(seeds), "cpu")
        rows = torch.from_numpy(drawn("normal", seeds, self.facts.space(space).shape))
        return self.convert(Code(space, rows.to(self._like.device)), space, truncation=truncation)

    def centre(self, space: str, labels: Labels = None) -> Tensor:
        """0 of z, whatever the class. Raises UsageError for feature maps."""
        shape = self.facts.space(space).shape
        if space != SPACE:
            raise UsageError(f"space {space!r} has no mean code: use {SPACE!r}")
        rows = () if labels is None else (len(labels),)
        return torch.zeros(*rows, *shape, device=self._like.device)

    @by_row
    def convert(
        self,
        code: Code,
        target: str,
        *,
        labels: Labels = None,
        truncation: float | None = None,
        cutoff: int | None = None,
        noise: str = "const",
    ) -> Code:
        """z, shrunk by truncation, and what a layer puts out while it is drawn."""
        check_code(self.facts, code)
        self.facts.space(target)
        if code.space != SPACE and (target != code.space or truncation not in (None, 1.0)):
            raise UsageError(
                f"codes of {code.space!r} are what a layer puts out: they give none of {target!r}"
            )
        if cutoff is not None:
            raise UsageError(f"codes of {code.space!r} have no layers: leave 'cutoff' out")
        if truncation is not None:
            code = code.moved(code.main * truncation)
        if target == code.space:
            return code
        return Code(target, recorded(self.network, target, lambda: self._images(code, labels)))

    @by_row
    def draw(
        self,
        code: Code,
        *,
        labels: Labels = None,
        edits: Sequence[Edit] = (),
        noise: str = "const",
    ) -> Tensor:
        """Images of z; a grey model's in all three channels."""
        code, injected = edited(self.facts, code.to(self._like.device), edits)
        if code.space != SPACE:
            raise UsageError(
                f"codes of {code.space!r} are drawn by no way: give those of {SPACE!r}"
            )
        with added(self.network, injected):
            return self._images(code, labels).expand(-1, 3, -1, -1)

    def _images(self, code: Code, labels: Labels) -> Tensor:
        like = self._like
        weights = class_weights(self.facts, labels, len(code), like.device)
        images: Tensor = self.network(
            code.main.to(like), None if weights is None else weights.to(like)
        )
        return images
