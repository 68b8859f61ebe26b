"""Gradient steps from a code towards the images that it is to draw, each row by itself.

Adam, as the StyleGAN2 projector does it (Karras et al. 2020, appendix D): learning rate ramped up
over the first 5 % and down over the last 25 % of the steps, and with noise, normal numbers added to
the code, of standard deviation 0.05 spread(w) max(0, 1 - t / 0.75)^2 at time t. Of the noise-free
steps the best code of each row is kept.

Losses (`transforms.inversion.loss`) are summed over rows, never averaged, and Adam works element by
element, so a row's result does not depend on the other rows of its batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from generators.protocols import Code, Generator, labels_in_turn
from transforms.inversion.loss import RowLosses
from transforms.inversion.method import DESCENT, Images

NOISE_SCALE = 0.05
NOISE_RAMP = 0.75
RAMP_UP, RAMP_DOWN = 0.05, 0.25
SPREAD_SAMPLES = 1000

#: A further term of each row's loss: (code, images drawn from it (n, 3, h, w)) -> (n,).
Term = Callable[[Code, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Descent:
    """Where gradient steps ended, row by row.

    code : the best of the noise-free codes with its companions, float32; NaN where none was finite
    loss_start, loss_end : of the start and of that code, with every term, float32 (n,)
    steps : that were taken, float32 (n,)
    """

    code: Code
    loss_start: Tensor
    loss_end: Tensor
    steps: Tensor

    @property
    def qualities(self) -> dict[str, Tensor]:
        """What `DESCENT` names."""
        return {name: getattr(self, name) for name in DESCENT}


def descend(
    images: Images,
    start: Code,
    *,
    extra: Term | None = None,
    move: Mapping[str, float] | None = None,
    noise: bool = False,
) -> Descent:
    """Steps from `start` towards the images.

    images.settings : with the keys of an `OptimiseSpec`: steps, learning_rate, the loss' weights
    extra : added to each row's loss; differentiable, and of a row alone
    move : what is changed, with its step size: the code's main array by the name of its space, and
        companions by theirs. By default the main array, with the settings' ``learning_rate``.
    noise : is added to the main array, of the rows' ``rngs``
    """
    generator, settings = images.generator, images.settings
    rates = {start.space: settings.learning_rate} if move is None else dict(move)
    first = {name: value.detach() for name, value in _tensors(start).items()}
    moving = {name: first[name].clone().requires_grad_(True) for name in rates}
    best = {name: first[name].clone() for name in rates}
    device, n = start.main.device, len(start)
    best_loss = torch.full((n,), math.inf, device=device)
    losses_of = RowLosses(images)

    def losses_at(code: Code) -> Tensor:
        drawn = generator.draw(code, noise=settings.noise_mode)
        losses = losses_of(drawn)
        return losses if extra is None else losses + extra(code, drawn)

    scale = NOISE_SCALE * spread(generator, start.space) if noise else 0.0
    groups = [{"params": [value], "lr": rates[name]} for name, value in moving.items()]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.999))
    with torch.no_grad():
        loss_start = losses_at(start) if noise else torch.full((n,), math.nan, device=device)
    for step in range(settings.steps + 1):
        t = step / settings.steps
        sigma = scale * max(0.0, 1.0 - t / NOISE_RAMP) ** 2
        code = _with(start, moving)
        if sigma > 0.0:
            shape = start.main.shape[1:]
            draws = np.stack([rng.standard_normal(shape, np.float32) for rng in images.rngs])
            code = code.moved(code.main + torch.from_numpy(draws).to(device) * sigma)
        last = step == settings.steps
        with torch.set_grad_enabled(not last):
            losses = losses_at(code)
        if step == 0 and not noise:
            loss_start = losses.detach()
        if sigma == 0.0:
            better = losses.detach() < best_loss  # False where the loss is not a number
            best_loss[better] = losses.detach()[better]
            for name, value in moving.items():
                best[name][better] = value.detach()[better]
        if last:
            break
        factor = ramp(t, noise)
        for group, rate in zip(optimiser.param_groups, rates.values(), strict=True):
            group["lr"] = rate * factor
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
    lost = ~torch.isfinite(best_loss)
    for value in best.values():
        value[lost] = torch.nan
    best_loss[lost] = torch.nan
    steps = torch.full((n,), float(settings.steps), device=device)
    return Descent(_with(start, best), loss_start, best_loss, steps)


def _tensors(code: Code) -> dict[str, Tensor]:
    """The main array by its space's name, and the companions."""
    return {code.space: code.main, **code.companions}


def _with(code: Code, changed: Mapping[str, Tensor]) -> Code:
    """The code with some of its `_tensors` replaced."""
    beside = {name: changed.get(name, value) for name, value in code.companions.items()}
    main = changed.get(code.space, code.main)
    return dataclasses.replace(code, main=main, companions=beside)


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
