"""A generator whose rows have classes of their own, for whoever asks it to draw and knows none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from generators.protocols import Code, Edit, Generator, Labels
from schemas.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Labelled:
    """A generator that draws, converts and centres rows with ``labels`` where none are given.

    labels : int64 (n,), the class number of every row of the codes that it will be given
    """

    generator: Generator
    labels: np.ndarray

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)

    def centre(self, space: str, labels: Labels = None) -> Tensor:
        """See `generators.protocols.Generator.centre`: of each row's class, where the model has
        one."""
        return self.generator.centre(space, self.labels if labels is None else labels)

    def convert(self, code: Code, target: str, *, labels: Labels = None, **options: Any) -> Code:
        """See `generators.protocols.Generator.convert`."""
        own = self.labels if labels is None else labels
        return self.generator.convert(code, target, labels=own, **options)

    def draw(
        self, code: Code, *, labels: Labels = None, edits: Sequence[Edit] = (), **options: Any
    ) -> Tensor:
        """See `generators.protocols.Generator.draw`."""
        own = self.labels if labels is None else labels
        return self.generator.draw(code, labels=own, edits=edits, **options)


def label_weights(
    classes: int, labels: Labels, n: int, device: torch.device | str
) -> Tensor | None:
    """Labels of `n` rows as weights of `classes` classes, float32 (n, classes); None for none.

    labels : class numbers, or weights already. Raises UsageError without any, and for classes that
    there are not.
    """
    import torch

    if not classes:
        return None
    if labels is None:
        raise UsageError(
            f"codes of a model of {classes!r} classes need labels: give a class number, 0 to "
            f"{classes - 1!r}, for each row"
        )
    given = torch.as_tensor(labels, device=device)
    if given.shape == (n, classes):
        return given.float()
    if given.shape == (n,) == (0,):
        given = given.long()  # an empty list has no type of its own
    outside = given.is_floating_point() or bool(((given < 0) | (given >= classes)).any())
    if given.shape != (n,) or outside:
        raise UsageError(
            f"labels have shape {tuple(given.shape)!r} for {n!r} codes of a model of {classes!r} "
            f"classes: give a class number, 0 to {classes - 1!r}, for each row"
        )
    return torch.nn.functional.one_hot(given.long(), classes).float()
