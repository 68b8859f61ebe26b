"""The generator of a woodcut: ``tanh(paper[class] + code @ blocks)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from generators.edits import check_code, class_weights, edited
from generators.families.base import Checkpoint
from generators.protocols import Code, Edit, Labels, ModelFacts


class Press:
    """See `generators.protocols.Generator`."""

    def __init__(self, facts: ModelFacts, checkpoint: Checkpoint) -> None:
        self.facts = facts
        self._checkpoint = checkpoint
        self.paper = torch.from_numpy(np.asarray(checkpoint.tensors["paper"], np.float32))
        self.blocks = torch.from_numpy(np.asarray(checkpoint.tensors["blocks"], np.float32))

    def checkpoint(self) -> Checkpoint:
        """What a file of it holds."""
        return self._checkpoint

    def to(self, device: torch.device | str) -> Self:
        """Move the model; returns itself."""
        self.paper, self.blocks = self.paper.to(device), self.blocks.to(device)
        return self

    def sample(
        self,
        space: str,
        seeds: Sequence[int],
        *,
        labels: Labels = None,
        truncation: float | None = None,
    ) -> Code:
        """Standard normal codes, one a seed, whatever the class."""
        shape = self.facts.space(space).shape
        if labels is not None:
            class_weights(self.facts, labels, len(seeds), self.paper.device)
        rows = [np.random.default_rng(int(seed)).standard_normal(shape) for seed in seeds]
        main = torch.from_numpy(np.stack(rows).astype(np.float32)).to(self.blocks.device)
        return self.convert(Code(space, main), space, truncation=truncation)

    def centre(self, space: str, labels: Labels = None) -> Tensor:
        """0, for codes are normal."""
        shape = self.facts.space(space).shape
        return torch.zeros(shape if labels is None else (len(labels), *shape))

    def convert(
        self,
        code: Code,
        target: str,
        *,
        labels: Labels = None,
        truncation: float | None = None,
        cutoff: int | None = None,
    ) -> Code:
        """There is one space; truncation shrinks a code to 0."""
        check_code(self.facts, code)
        self.facts.space(target)
        return code if truncation is None else code.moved(code.main * truncation)

    def draw(
        self,
        code: Code,
        *,
        labels: Labels = None,
        edits: Sequence[Edit] = (),
        noise: str = "const",
    ) -> Tensor:
        """Prints (n, 3, height, width) in (-1, 1)."""
        code, _ = edited(self.facts, code.to(self.blocks.device), edits)
        weights = class_weights(self.facts, labels, len(code), self.paper.device)
        inked = torch.einsum("nk,kchw->nchw", code.main.to(self.blocks), self.blocks)
        return torch.tanh(torch.einsum("nk,kchw->nchw", weights.to(self.paper), self.paper) + inked)
