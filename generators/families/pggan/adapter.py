"""A Progressive GAN behind the `Generator` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

import torch
from torch import Tensor

from generators.activations import added, recorded
from generators.edits import check_code, class_weights, edited
from generators.families.base import Checkpoint
from generators.families.pggan.facts import FEATURES, SPACE, config_of, facts_of
from generators.families.pggan.network import PGGAN
from generators.protocols import Code, Edit, Labels, labels_in_turn
from generators.seeds import drawn
from schemas.errors import UsageError


class PGGANAdapter:
    """See `generators.protocols.Generator`; spaces: `generators.families.pggan.facts`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config = config_of(checkpoint)
        self.facts = facts_of(checkpoint)
        self._checkpoint = checkpoint
        with torch.device("meta"):  # no memory for weights that are replaced at once
            network = PGGAN(self.config)
        state = {name: torch.tensor(value) for name, value in checkpoint.tensors.items()}
        network.load_state_dict(state, strict=True, assign=True)
        self.network = network.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._weight.device

    @property
    def _weight(self) -> Tensor:
        return next(self.network.parameters())

    def checkpoint(self) -> Checkpoint:
        """What a file of it holds."""
        return self._checkpoint

    def to(self, device: torch.device | torch.dtype | str) -> Self:
        """Move the network, or change its precision; returns itself."""
        self.network.to(device)
        return self

    def sample(
        self,
        space: str,
        seeds: Sequence[int],
        *,
        labels: Labels = None,
        truncation: float | None = None,
    ) -> Code:
        """Codes of z, each of its seed alone. Truncation shrinks them to 0."""
        if self.facts.space(space).prior == "none":
            raise UsageError(f"space {space!r} cannot be sampled from the prior: use {SPACE!r}")
        if labels is None:
            labels = labels_in_turn(self.facts.classes, seeds)
        class_weights(self.facts, labels, len(seeds), "cpu")
        z = torch.from_numpy(drawn("normal", seeds, (self.config.z_dim,))).to(self.device)
        return self.convert(Code(SPACE, z), SPACE, truncation=truncation)

    def centre(self, space: str, labels: Labels = None) -> Tensor:
        """0, whatever the class."""
        if self.facts.space(space).injected_into:
            raise UsageError(f"space {space!r} has no mean code: use {SPACE!r}")
        rows = () if labels is None else (len(labels),)
        return torch.zeros((*rows, self.config.z_dim), device=self.device)

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
        """z to what a layer puts out. Truncation: z times it."""
        check_code(self.facts, code)
        injected = self.facts.space(target).injected_into
        if code.space == target and injected:
            return code
        if code.space != SPACE:
            raise UsageError(
                f"codes of {code.space!r} give none of {target!r}: they give no others"
            )
        if truncation is not None:
            code = code.moved(code.main * truncation)
        if not injected:
            return code
        layer = self.network.get_submodule(target.removeprefix(FEATURES))
        return Code(target, recorded(layer, lambda: self._images(code, labels)))

    def draw(
        self,
        code: Code,
        *,
        labels: Labels = None,
        edits: Sequence[Edit] = (),
        noise: str = "const",
    ) -> Tensor:
        """See `Generator.draw`; of codes of z."""
        code, injected = edited(self.facts, code.to(self.device), edits)
        if code.space != SPACE:
            raise UsageError(f"codes of {code.space!r} are not drawn: give those of {SPACE!r}")
        with ExitStack() as hooks:
            for edit, step in injected:
                layer = edit.direction.space.removeprefix(FEATURES)
                hooks.enter_context(added(self.network.get_submodule(layer), edit, step))
            return self._images(code, labels).expand(-1, 3, -1, -1)

    def _images(self, code: Code, labels: Labels) -> Tensor:
        z = code.main.to(self.device, self._weight.dtype)
        weights = class_weights(self.facts, labels, len(z), self.device)
        return self.network(z, None if weights is None else self._one_hot(weights.to(z)))

    def _one_hot(self, weights: Tensor) -> Tensor:
        """Weights of the classes (n, classes) as the network takes them: of each label's values,
        one label after the other."""
        sizes = self.config.label_sizes
        joint = weights.reshape(-1, *sizes)
        rows = [joint.movedim(axis, 1).flatten(1) for axis in range(1, joint.ndim)]
        parts = [row.unflatten(1, (n, -1)).sum(dim=2) for row, n in zip(rows, sizes, strict=True)]
        return torch.cat(parts, dim=1)
