"""A network of another maker is tried before it is used: nobody else has seen that it can be.

Three codes together, the same again, and one of them alone: another number of rows, noise inside
the graph, and rows that depend on their neighbours show in this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from generators.families.plain.reader import fixed_cure
from generators.protocols import labels_in_turn
from schemas.errors import CheckpointError, is_out_of_memory

if TYPE_CHECKING:
    from generators.families.plain.adapter import PlainGenerator

SEEDS = (0, 1, 2)
#: Two calls may differ by this share of the range of values: threads sum in another order.
TOLERANCE = 1e-3


def try_out(generator: PlainGenerator, container: str) -> None:
    """Raise CheckpointError, with the cure, for a network that does not draw what it is declared
    to, not twice the same, or not one row as among others."""
    together = _drawn(generator, SEEDS, container)
    again = _drawn(generator, SEEDS, container)
    if not bool(torch.isfinite(together).all()):
        raise CheckpointError(
            "the network gives values that are not finite for codes of its prior: take an earlier "
            "checkpoint, or export it in float32"
        )
    if _apart(together, again):
        raise CheckpointError(
            "the network draws another picture of the same code each time: it draws noise inside "
            "the graph; export it with the noise fixed, and in evaluation mode"
        )
    alone = _drawn(generator, SEEDS[1:2], container)
    if _apart(together[1:2], alone):
        raise CheckpointError(
            "a code's picture depends on the codes beside it, as with batch normalisation in "
            "training mode: call eval() on the network before it is exported"
        )


def _apart(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) > TOLERANCE * max(float(a.max() - a.min()), 1e-6)


def _drawn(generator: PlainGenerator, seeds: tuple[int, ...], container: str) -> Tensor:
    code = generator.sample(generator.facts.default_space, seeds)
    labels = labels_in_turn(generator.facts.classes, seeds)
    try:
        with torch.no_grad():
            return generator.draw(code, labels=labels)
    except CheckpointError:
        raise
    except Exception as e:  # of whatever type its library has
        if is_out_of_memory(e):
            raise
        raise CheckpointError(
            f"the network fails on {len(seeds)!r} codes ({' '.join(str(e).split())}): "
            f"{fixed_cure(container)}"
        ) from e
