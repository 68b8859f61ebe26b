"""Inversion by gradient steps from the mean code, of the image's class where the model has one.

Adam, as the StyleGAN2 projector does it (Karras et al. 2020, appendix D): learning rate ramped up
over the first 5 % and down over the last 25 % of the steps, and normal noise added to the code, of
standard deviation 0.05 spread(w) max(0, 1 - t / 0.75)^2 at time t. Of the noise-free steps the best
code of each row is kept.

Losses (`transforms.inversion.loss`) are summed over rows, never averaged, and Adam works element by
element, so a row's result does not depend on the other rows of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from generators.protocols import Code, Generator, ModelFacts, labels_in_turn
from schemas.sections.inversion.optimise import OptimiseSpec
from transforms.inversion.method import Cost, Images, InversionMethod, Inverted

if TYPE_CHECKING:
    pass

NOISE_SCALE = 0.05
NOISE_RAMP = 0.75
RAMP_UP, RAMP_DOWN = 0.05, 0.25
SPREAD_SAMPLES = 1000


class Optimisation(InversionMethod):
    """Adam from the mean code, with noise on the code."""

    section = OptimiseSpec

    def spaces(self, facts: ModelFacts) -> Sequence[str]:
        drawable = super().spaces(facts)
        return tuple(name for name in drawable if facts.space(name).prior != "none")

    def cost(self, settings: Any) -> Cost:
        return Cost(forward_passes=settings.steps + 1, backward_passes=settings.steps)

    def invert(self, images: Images) -> Inverted:
        import torch

        generator, pixels, space = images.generator, images.pixels, images.settings.space
        centre = generator.centre(space).detach().to(pixels.device, torch.float32)
        start = Code(space, centre.expand(len(pixels), *generator.facts.space(space).shape))
        return Inverted(optimise(images, start))


def optimise(images: Images, start: Code, noise: bool = True) -> Code:
    """Adam from `start` towards the images; `noise` is added to the codes, of the rows' ``rngs``.

    images.settings : an `OptimiseSpec`

    Returns each row's best code among the noise-free evaluations, float32 like `start`.
    """
    import torch

    from transforms.inversion.loss import RowLosses

    generator, settings = images.generator, images.settings
    first = start.main.detach()
    codes = first.clone().requires_grad_(True)
    best, best_loss = first.clone(), torch.full((len(first),), math.inf, device=first.device)
    scale = NOISE_SCALE * spread(generator, start.space) if noise else 0.0
    row_losses = RowLosses(images)
    optimiser = torch.optim.Adam([codes], lr=settings.learning_rate, betas=(0.9, 0.999))
    for step in range(settings.steps + 1):
        t = step / settings.steps
        sigma = scale * max(0.0, 1.0 - t / NOISE_RAMP) ** 2
        used = codes
        if sigma > 0.0:
            draws = np.stack(
                [rng.standard_normal(first.shape[1:], np.float32) for rng in images.rngs]
            )
            used = codes + torch.from_numpy(draws).to(first.device) * sigma
        last = step == settings.steps
        with torch.set_grad_enabled(not last):
            drawn = generator.draw(start.moved(used), noise=settings.noise_mode)
            losses = row_losses(drawn)
        if sigma == 0.0:
            better = losses.detach() < best_loss  # False where the loss is not a number
            best[better], best_loss[better] = codes.detach()[better], losses.detach()[better]
        if last:
            break
        optimiser.param_groups[0]["lr"] = settings.learning_rate * ramp(t, noise)
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
    lost = ~torch.isfinite(best_loss)
    best[lost] = torch.nan
    return start.moved(best)


def ramp(t: float, warm_up: bool) -> float:
    """Factor of the learning rate at time t in [0, 1): cosine down at the end, linear up first."""
    down = min(1.0, (1.0 - t) / RAMP_DOWN)
    factor = 0.5 - 0.5 * math.cos(down * math.pi)
    return factor * min(1.0, (t + 1e-3) / RAMP_UP) if warm_up else factor


def spread(generator: Generator, space: str) -> float:
    """Root mean squared distance per coordinate of the prior's codes from their centre, over 1,000
    fixed samples; of w where a code holds one of w in each layer.

    Karras et al. 2020, appendix D, take sqrt(sum |w - mean|^2 / n) over 10,000 samples, without
    dividing by the number of coordinates; per coordinate the noise has the same direction and a
    scale that does not grow with w_dim.
    """
    import torch

    space = generator.facts.repeated(space) or space
    key = generator.facts.fingerprint, space
    kept = _SPREAD.get(key)
    if kept is None:
        with torch.no_grad():
            drawn = generator.sample(space, range(SPREAD_SAMPLES)).main
        turns = labels_in_turn(generator.facts.classes, range(SPREAD_SAMPLES))
        kept = float((drawn - generator.centre(space, turns)).double().square().mean().sqrt())
        _SPREAD[key] = kept
    return kept


_SPREAD: dict[tuple[str, str], float] = {}

PLUGIN = Optimisation()
