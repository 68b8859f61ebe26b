"""What an objective says of itself, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from generators.protocols import Generator, Labels, ModelFacts
from schemas.sections.types import SpecModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Task:
    """What an encoder is to learn.

    generator : on `device`; its weights stay as they are. space : of the codes.
    centre : mean of the generator's codes, float32 (*shape of the space)
    deviation : of the generator's codes, float32 (*shape of the space), 1 where they do not vary:
        what a difference of codes is measured by
    images : some of the generator's, float32 (n, 3, height, width) in [-1, 1]
    """

    generator: Generator
    space: str
    centre: Tensor
    deviation: Tensor
    images: Tensor
    device: torch.device

    @property
    def facts(self) -> ModelFacts:
        """What the generator is."""
        return self.generator.facts


@dataclass(frozen=True, eq=False)
class Batch:
    """The images of one step.

    images : float32 (n, 3, height, width) in [-1, 1]
    codes : that they were drawn from, float32 (m, *shape of the space), of the first m rows; the
        others are real pictures
    encode : images (of these n rows) -> codes (n, *shape), by the encoder that is trained
    draw : codes (n, *shape) -> images (n, 3, height, width), differentiable where the generator is
    """

    images: Tensor
    codes: Tensor
    labels: Labels
    encode: Callable[[Tensor], Tensor]
    draw: Callable[[Tensor], Tensor]


Loss = Callable[[Batch], Mapping[str, "Tensor"]]
"""Terms of the loss of every row, by name, each (n,) with its weight; their sum is minimised."""


@runtime_checkable
class Objective(Protocol):
    """A loss that encoders are trained by: a plug-in. The module that defines one imports no torch.

    settings : keys of its own in a specification's ``train_encoder.objective``
    """

    settings: type[SpecModel]

    def loss(self, settings: Any, task: Task) -> Loss:
        """The loss, with settings of the class `settings`.

        Raises UsageError for a task that it cannot be used for.
        """
