"""A generator whose rows have classes of their own, for whoever asks it to draw and knows none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from generators.protocols import Code, Edit, Generator, Labels

if TYPE_CHECKING:
    import numpy as np
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
