"""A generator without a network, for tests of what lies around one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from generators.edits import edited
from generators.protocols import Code, ModelFacts, Space
from schemas.errors import UsageError

SPACES: tuple[Space, ...] = (
    Space("z", (3,), "normal"),
    Space("w", (3,), "derived", derived_from="z"),
    Space("w_plus", (2, 3), "derived", layered=True, derived_from="w"),
)


class FakeGenerator:
    """Draws `paint` of a code: subclasses give it. Codes of w_plus repeat those of w.

    spaces : of the model, the default one last. Samples have the seed as their first coordinate.
    """

    spaces: Sequence[Space] = SPACES
    fingerprint: str = "f" * 64
    size: tuple[int, int] = (8, 8)

    @property
    def facts(self) -> ModelFacts:
        named = {space.name: space for space in self.spaces}
        return ModelFacts("fake", self.fingerprint, self.size, named, self.spaces[-1].name)

    def paint(self, codes: torch.Tensor, space: str) -> torch.Tensor:
        """Colours (n, 1 or 3) or pictures (n, 3, height, width) of codes."""
        raise NotImplementedError

    def sample(
        self, space: str, seeds: Sequence[int], *, labels: Any = None, truncation: Any = None
    ) -> Code:
        psi = 1.0 if truncation is None else truncation
        width = self.facts.space(space).shape[-1]
        z = torch.tensor([[psi * seed, *[0.0] * (width - 1)] for seed in seeds])
        return Code(space, z.reshape(len(z), *[1] * (len(self.facts.space(space).shape) - 1), width)
                    .expand(-1, *self.facts.space(space).shape))  # fmt: skip

    def centre(self, space: str, labels: Any = None) -> torch.Tensor:
        return torch.zeros(self.facts.space(space).shape)

    def convert(self, code: Code, target: str, **options: Any) -> Code:
        if len(self.facts.space(target).shape) < code.main.ndim - 1:
            raise UsageError(f"codes of {code.space!r} give none of {target!r}")
        return Code(target, code.main.reshape(len(code), -1, self.facts.space(target).shape[-1])
                    .expand(-1, *self.facts.space(target).shape[:-1], -1))  # fmt: skip

    def draw(
        self, code: Code, *, labels: Any = None, edits: Sequence[Any] = (), noise: str = "const"
    ) -> torch.Tensor:
        code, _ = edited(self.facts, code, edits)
        painted = self.paint(code.main, code.space)
        if painted.ndim == 2:
            painted = painted[:, :, None, None].expand(-1, 3, *self.size)
        return painted

    def to(self, device: Any) -> FakeGenerator:
        return self


def spaces_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Space, ...]:
    """Spaces of these shapes, those of two axes layered over the space before."""
    found: list[Space] = []
    for name, shape in shapes.items():
        before = found[-1].name if found and len(shape) == 2 else None
        found.append(Space(name, shape, "normal", layered=len(shape) == 2, derived_from=before))
    return tuple(found)
