"""Pivotal tuning (Roich et al. 2021): a code by another method, and weights tuned to the image.

The pivot, its code, stays. Steps are taken by what is added to the weights of the generator that
draw it, the companion ``weights`` (`generators.tuned`), full or of low rank, from 0. Every row has
its own weights and its own steps, one row after the other.

With ``locality_weight``, what is drawn from codes near the pivot is held: in each step of one at
``locality_radius`` from it, towards a code of the prior, half truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from generators.protocols import Code, ModelFacts
from generators.tuned import WEIGHTS, length, start_of
from schemas.errors import UsageError
from schemas.sections.inversion.pivotal_tuning import PivotalTuningSpec
from transforms.inversion.method import DESCENT, Cost, Images, Inverted
from transforms.inversion.pivot import FromPivot, pivots

if TYPE_CHECKING:
    from torch import Tensor

    from transforms.inversion.descent import Descent, Term


class PivotalTuning(FromPivot):
    """Adam on each row's own weights."""

    section = PivotalTuningSpec

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        """All that take weights of a row's own. Raises UsageError where none does."""
        found = [n for n in super().spaces(facts) if WEIGHTS in facts.space(n).companions]
        if not found:
            raise UsageError(
                "'invert.method' is 'pivotal_tuning', and the weights of this generator cannot be "
                "changed for a row: use 'optimise' or another method"
            )
        return found

    def own(self, settings: Any, facts: ModelFacts) -> dict[str, tuple[int, ...]]:
        tensors = facts.space(settings.space).companions[WEIGHTS].tensors
        return {WEIGHTS: (length(tensors, settings.rank),)}

    def cost(self, settings: Any) -> Cost:
        each = 3 if settings.locality_weight else 1
        back = 2 if settings.locality_weight else 1
        return self.from_pivot(settings, each * (settings.steps + 1), back * settings.steps)

    def invert(self, images: Images) -> Inverted:
        import torch

        pivot, qualities = pivots(images)
        again = [images.repeats(i) for i in range(len(images))]
        rows: list[Descent] = []
        for i, repeats in enumerate(again):
            at = slice(i, i + 1)
            rows.append(rows[-1] if repeats else tuned(images[at], pivot.code[at]))
        own = {name: torch.cat([getattr(row, name) for row in rows]) for name in DESCENT}
        weights = torch.cat([row.code.companions[WEIGHTS] for row in rows])
        code = replace(pivot.code, companions={**pivot.code.companions, WEIGHTS: weights})
        return Inverted(code, {**qualities, **own})


def tuned(image: Images, pivot: Code) -> Descent:
    """Weights of one row whose pivot is given."""
    import torch

    from transforms.inversion.descent import descend

    settings, facts = image.settings, image.generator.facts
    tensors = facts.space(pivot.space).companions[WEIGHTS].tensors
    first = torch.from_numpy(start_of(tensors, settings.rank))[None].to(pivot.main.device)
    start = replace(pivot, companions={**pivot.companions, WEIGHTS: first})
    return descend(
        replace(image, settings=settings.descent()),
        start,
        extra=_locality(image, pivot) if settings.locality_weight else None,
        move={WEIGHTS: settings.learning_rate},
        enough=settings.stop_below,
    )


def _locality(image: Images, pivot: Code) -> Term:
    """How much what is drawn near the pivot of one row has changed."""
    import torch

    from transforms.inversion.loss import RowLosses

    generator, settings, (rng,) = image.generator, image.settings, image.rngs

    def changed(code: Code, drawn: Tensor) -> Tensor:
        with torch.no_grad():
            (seed,) = rng.integers(1 << 31, size=1).tolist()
            sampled = generator.sample(pivot.space, [seed], labels=image.labels, truncation=0.5)
            way = sampled.main.to(pivot.main) - pivot.main
            near = pivot.moved(pivot.main + settings.locality_radius * way / way.norm())
            before = generator.draw(near, noise=settings.noise_mode)
        losses = RowLosses(replace(image, pixels=before, settings=settings.descent()))
        after = generator.draw(code.moved(near.main), noise=settings.noise_mode)
        return settings.locality_weight * losses(after)

    return changed


PLUGIN = PivotalTuning()
