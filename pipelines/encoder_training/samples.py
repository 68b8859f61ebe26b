"""The generator's samples that an encoder is trained and measured by.

Every sample follows from its seed. Seeds of training are spread over 2^62 to 2^63, beyond those
that rows of a dataset may have; those of the measurements lie below, so no training sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from generators.protocols import Code, Generator, labels_in_turn

HELD_OUT = 1 << 61
"""Seed of the first sample that the encoder is measured by at the end."""
VALIDATION = HELD_OUT + (1 << 40)
"""Seed of the first sample of the training's curves; choose settings by these."""
CALIBRATION = VALIDATION + (1 << 40)
"""Seed of the first code that mean and deviation of codes are estimated from."""


def training_seeds(seed: int, step: int, n: int) -> list[int]:
    """Seeds of the samples of one step: a function of the training's seed and the step."""
    words = np.random.SeedSequence([seed, step]).generate_state(n, np.uint64)
    return [(1 << 62) + (int(word) >> 2) for word in words]


@dataclass(frozen=True, eq=False)
class Samples:
    """Codes, what is drawn of them as 8-bit pictures hold it, and their class numbers.

    codes : float32 (n, *shape of the space). images : float32 (n, 3, height, width) in [-1, 1].
    """

    codes: Tensor
    images: Tensor
    labels: list[int] | None

    @classmethod
    @torch.no_grad()
    def drawn(
        cls, generator: Generator, space: str, seeds: Sequence[int], truncation: float
    ) -> Samples:
        """The samples of these seeds."""
        code, labels = coded(generator, space, seeds, truncation)
        images = generator.draw(code, labels=labels)
        levels = (images * 127.5 + 127.5).round().clamp(0, 255)
        return cls(code.main, (levels - 127.5) / 127.5, labels)


@torch.no_grad()
def coded(
    generator: Generator, space: str, seeds: Sequence[int], truncation: float
) -> tuple[Code, list[int] | None]:
    """Codes of seeds, and their class numbers; classes take turns by the seed."""
    labels = labels_in_turn(generator.facts.classes, seeds)
    psi = None if truncation == 1 else truncation
    return generator.sample(space, seeds, labels=labels, truncation=psi), labels
