"""R3GAN behind the `Generator` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from generators.activations import PREFIX, added, recorded
from generators.edits import check_code, class_weights, edited
from generators.families.base import Checkpoint
from generators.families.r3gan.config import R3GANConfig
from generators.families.r3gan.facts import facts_of
from generators.families.r3gan.network import R3GAN
from generators.protocols import Code, Edit, Labels, ModelFacts, labels_in_turn
from generators.seeds import drawn
from schemas.errors import UsageError


class R3GANAdapter:
    """Implements `generators.protocols.Generator`; see `generators.families.r3gan.facts` for its
    spaces.

    network : taken over: put in evaluation mode, its parameters no longer require gradients.
    """

    def __init__(self, network: R3GAN, checkpoint: Checkpoint) -> None:
        self.network = network.eval().requires_grad_(False)
        self._checkpoint = checkpoint

    @cached_property
    def facts(self) -> ModelFacts:
        """What the model is."""
        return facts_of(self._checkpoint)

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
        return self.network.torgb.weight

    def sample(
        self,
        space: str,
        seeds: Sequence[int],
        *,
        labels: Labels = None,
        truncation: float | None = None,
    ) -> Code:
        """Standard normal z of each seed alone, as the official script draws it. Truncation shrinks
        it to 0, its mean."""
        if self.facts.space(space).prior == "none":
            raise UsageError(f"space {space!r} cannot be sampled from the prior: use 'z'")
        if labels is None:
            labels = labels_in_turn(self.facts.classes, seeds)
        class_weights(self.facts, labels, len(seeds), "cpu")
        rows = torch.from_numpy(drawn("normal", seeds, self.facts.space(space).shape))
        return self.convert(Code(space, rows.to(self._like.device)), space, truncation=truncation)

    def centre(self, space: str, labels: Labels = None) -> Tensor:
        """0 of z, whatever the class. Raises UsageError for feature maps."""
        shape = self.facts.space(space).shape
        if space != "z":
            raise UsageError(f"space {space!r} has no mean code: use 'z'")
        rows = () if labels is None else (len(labels),)
        return torch.zeros(*rows, *shape, device=self._like.device)

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
        if code.space != "z" and (target != code.space or truncation not in (None, 1.0)):
            raise UsageError(
                f"codes of {code.space!r} are what a layer puts out: they give none of {target!r}"
            )
        if cutoff is not None:
            raise UsageError(f"codes of {code.space!r} have no layers: leave 'cutoff' out")
        if truncation is not None:
            code = code.moved(code.main * truncation)
        if target == code.space:
            return code
        layer = self.network.get_submodule(target.removeprefix(PREFIX))
        return Code(target, recorded(layer, lambda: self._draw(code, labels)))

    def _draw(self, code: Code, labels: Labels) -> Tensor:
        weights = class_weights(self.facts, labels, len(code), self._like.device)
        return self.network(
            code.main.to(self._like), None if weights is None else weights.to(self._like)
        )

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
        if code.space != "z":
            raise UsageError(f"codes of {code.space!r} are drawn by no way: give those of 'z'")
        with ExitStack() as hooks:
            for edit, step in injected:
                layer = self.network.get_submodule(edit.direction.space.removeprefix(PREFIX))
                hooks.enter_context(added(layer, edit, step))
            return self._draw(code, labels).expand(-1, 3, -1, -1)


def from_checkpoint(checkpoint: Checkpoint) -> R3GANAdapter:
    """Adapter from a checkpoint as read."""
    # Uninitialised memory instead of random weights: every tensor is loaded below.
    with torch.device("meta"):
        network = R3GAN(R3GANConfig.from_architecture(checkpoint.architecture))
    network = network.to_empty(device="cpu")
    state = {name: torch.from_numpy(np.array(v)) for name, v in checkpoint.tensors.items()}
    network.load_state_dict(state, strict=True)
    return R3GANAdapter(network, checkpoint)
