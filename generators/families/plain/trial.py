"""A network of another maker is tried before it is used: nobody else has seen that it can be.

Three codes together, the same again, and one of them alone: another number of rows, noise inside
the graph, rows that depend on their neighbours, a class that is not there and a range that is not
that of the pictures show in this.
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
#: No network leaves the range that it draws in by this factor; 0 to 255 read as -1 to 1 do.
FAR = 10.0
#: What lies in the declared range this near to one value all over is of a much smaller range.
NEAR = 0.02


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
    _check_range(generator, together)
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


def _check_range(generator: PlainGenerator, drawn: Tensor) -> None:
    black, white = (float(n) for n in generator.checkpoint().architecture["range"])
    outside = float(drawn.abs().max()) > FAR
    # 0 to 1 or -1 to 1 read as 0 to 255: every picture is black
    black_all_over = float((drawn + 1).abs().max()) < NEAR and bool(drawn.std() > 0)
    if outside or black_all_over:
        low, high = (
            float((n + 1) / 2 * (white - black) + black) for n in (drawn.min(), drawn.max())
        )
        raise CheckpointError(
            f"the network gives values from {low:.4g} to {high:.4g}, and black and white are taken "
            f"to be {[black, white]!r}: correct 'output.range' in the JSON beside it"
        )


def _apart(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) > TOLERANCE * max(float(a.max() - a.min()), 1e-6)


_LABELS_CURE = "correct 'labels' in the JSON beside it, or "


def _of(labels: list[int] | None) -> str:
    return "" if labels is None else f" of the classes {labels!r}"


def _drawn(generator: PlainGenerator, seeds: tuple[int, ...], container: str) -> Tensor:
    code = generator.sample(generator.facts.default_space, seeds)
    classes = generator.facts.classes
    labels = labels_in_turn(classes, seeds)
    if labels is not None and len(labels) > 1:
        labels[-1] = classes - 1
    try:
        with torch.no_grad():
            return generator.draw(code, labels=labels)
    except CheckpointError:
        raise
    except Exception as e:  # of whatever type its library has
        if is_out_of_memory(e):
            raise
        raise CheckpointError(
            f"the network fails on {len(seeds)!r} codes{_of(labels)} "
            f"({' '.join(str(e).split())}): {'' if labels is None else _LABELS_CURE}"
            f"{fixed_cure(container)}"
        ) from e
