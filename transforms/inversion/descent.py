"""Gradient steps from a code towards the images that it is to draw, each row by itself.

``schedule`` of the settings says how:

quasi_newton
    L-BFGS (`transforms.inversion.steps.rules`); the best code of each row. Without randomness up to
    100 steps, and with a tolerance; of more, a row that has settled begins again from its best code
    with noise on it (`transforms.inversion.steps.hopping`).
adam
    Adam, its rate ramped down over the last 25 % of the steps; where the start is no guess of an
    encoder also up over the first 5 %, and with normal noise on the code, of standard deviation
    0.05 spread(w) max(0, 1 - t / 0.75)^2 at time t. The best of the codes without noise.
projector
    As the program that came with StyleGAN2 does it (Karras et al. 2020, appendix D): as adam, but
    pictures above 256 px are compared at 256, noise images are moved beside the code, the spread is
    that of whole vectors and not of their coordinates, and the last step's code is taken.

Losses are summed over rows, never averaged, and no rule mixes rows, so that a row's result does not
depend on the others of its batch. A row that has converged leaves the batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.protocols import Code, Generator, labels_in_turn
from transforms.inversion.loss import RowLosses
from transforms.inversion.method import CANDIDATES, DESCENT, NOISE_IMAGES, Images, render
from transforms.inversion.steps.hopping import BasinHopping
from transforms.inversion.steps.noise_images import first_noise, regularity, renormalise
from transforms.inversion.steps.rules import RAMP_UP, Adam, QuasiNewton, StepRule

NOISE_SCALE = 0.05
NOISE_RAMP = 0.75
SPREAD_SAMPLES = 1000
PROJECTOR_SAMPLES = 10_000
PROJECTOR_SIDE = 256
CHECKED = 10
"""Steps over which a row must have gained more than the settings' ``tolerance``, and after which it
is asked whether it is done."""

#: A further term of each row's loss: (code, images drawn from it (n, 3, h, w)) -> (n,).
Term = Callable[[Code, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Descent:
    """Where gradient steps ended, row by row.

    code : the best code with its companions, float32; NaN where none was finite
    loss_start, loss_end : of the start and of that code, with every term, float32 (n,)
    steps : that were taken, of all starts, float32 (n,)
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
    enough: float | None = None,
) -> Descent:
    """Steps from `start` towards the images, and from further starts where the settings name some.

    images.settings : with the keys of an `OptimiseSpec`
    extra : added to each row's loss; differentiable, and of a row alone. It is always given all
        rows, also those that have converged.
    move : what is changed, with its step size: the code's main array by the name of its space, and
        companions by theirs; always by Adam. By default the main array, with the settings'
        ``learning_rate`` and ``schedule``, and noise images where the settings say so.
    noise : where Adam adds noise to the main array, of the rows' ``rngs``
    enough : a row whose loss is at most this is done
    """
    found = _descend(images, start, extra, move, noise, enough)
    for _ in range(1, images.settings.starts if move is None else 1):
        other = _descend(images, _sampled(images, start.space), extra, move, noise, enough)
        found = _better(found, other)
    return found


def _better(a: Descent, b: Descent) -> Descent:
    """Of every row the lower loss, b's only where it is a number."""
    takes = (b.loss_end < a.loss_end) | (~torch.isfinite(a.loss_end) & torch.isfinite(b.loss_end))
    ours, theirs = _tensors(a.code), _tensors(b.code)
    kept = {name: _where(takes, theirs[name], value) for name, value in ours.items()}
    loss = torch.where(takes, b.loss_end, a.loss_end)
    return Descent(_with(a.code, kept), a.loss_start, loss, a.steps + b.steps)


def _sampled(images: Images, space: str) -> Code:
    """Of every row the best of some codes of the prior, by the row's own random numbers."""
    generator, losses_of = images.generator, RowLosses(images)
    seeds = [rng.integers(1 << 31, size=CANDIDATES).tolist() for rng in images.rngs]
    best, loss = None, torch.full((len(images),), math.inf, device=images.pixels.device)
    for of_rows in zip(*seeds, strict=True):
        code = generator.sample(space, of_rows, labels=images.labels).to(images.pixels.device)
        code = code.changed(lambda values: values.detach().float())
        with torch.no_grad():
            now = losses_of(render(generator, code, images.settings.noise_mode))
        nearer = now < loss
        main = code.main if best is None else _where(nearer, code.main, best.main)
        best, loss = code.moved(main), torch.where(nearer, now, loss)
    if best is None:
        raise ValueError("there are no candidates")
    return best


class _Objective:
    """The loss of every row of some images, by code."""

    def __init__(self, images: Images, space: str, extra: Term | None, projector: bool) -> None:
        self.images, self.extra, self.settings = images, extra, images.settings
        self.of_drawn = RowLosses(images, PROJECTOR_SIDE if projector else None)
        self.held = bool(self.settings.mean_weight or self.settings.truncation_weight)
        if self.held:
            centre = images.generator.centre(space).detach()
            self.centre = centre.to(images.pixels.device, torch.float32)
            self.spread = spread(images.generator, space)
            self.layered = images.generator.facts.space(space).layered

    def __call__(self, code: Code) -> Tensor:
        drawn = self.images.generator.draw(code, noise=self.settings.noise_mode)
        losses = self.of_drawn(drawn)
        if self.held:
            losses = losses + self.away(code.main)
        if self.extra is not None:
            losses = losses + self.extra(code, drawn)
        return losses

    def away(self, main: Tensor) -> Tensor:
        """What codes pay for their distance from the mean, in spreads; (n,)."""
        offsets = ((main - self.centre) / self.spread).square()
        squares = offsets.flatten(2 if self.layered else 1).mean(dim=-1)
        beyond = (squares.clamp_min(1e-12).sqrt() - 1.0).clamp_min(0.0).square()
        if self.layered:
            squares, beyond = squares.mean(dim=1), beyond.mean(dim=1)
        return self.settings.mean_weight * squares + self.settings.truncation_weight * beyond


def _descend(
    images: Images,
    start: Code,
    extra: Term | None,
    move: Mapping[str, float] | None,
    noise: bool,
    enough: float | None,
) -> Descent:
    settings, generator = images.settings, images.generator
    schedule = settings.schedule if move is None else "adam"
    projector = schedule == "projector"
    rates = {start.space: settings.learning_rate} if move is None else dict(move)
    space = generator.facts.space(start.space)
    device, n = start.main.device, len(start)
    if move is None and settings.moves_noise:
        named = space.companions.items()
        shapes = {name: each.sizes for name, each in named if name.startswith(NOISE_IMAGES)}
        beside = {k: v.to(device) for k, v in first_noise(shapes, images.rngs).items()}
        rates |= dict.fromkeys(beside, settings.learning_rate)
        start = dataclasses.replace(start, companions={**start.companions, **beside})
    start = start.changed(lambda values: values.detach())
    noisy = [name for name in rates if name.startswith(NOISE_IMAGES)]
    objective = _Objective(images, start.space, extra, projector)

    def losses_at(code: Code) -> Tensor:
        losses = objective(code)
        if noisy:
            own = {name: code.companions[name] for name in noisy}
            losses = losses + settings.noise_weight * regularity(own)
        return losses

    rule: StepRule
    if schedule == "quasi_newton" and settings.hops:
        rule = BasinHopping(start.space, start.main, settings.learning_rate, images.rngs)
    elif schedule == "quasi_newton":
        rule = QuasiNewton(start.space, start.main, settings.learning_rate)
    else:
        up = RAMP_UP if noise or projector else 0.0
        rule = Adam(_tensors(start), rates, up, lead=0.0 if projector else 1e-3)
    scale = 0.0
    if projector:
        whole = math.sqrt(math.prod(_base(generator, start.space).shape))
        scale = NOISE_SCALE * whole * spread(generator, start.space, PROJECTOR_SAMPLES)
    elif noise and schedule == "adam":
        scale = NOISE_SCALE * spread(generator, start.space)
    best = {name: _tensors(start)[name].clone() for name in rates}
    best_loss = torch.full((n,), math.inf, device=device)
    taken, earlier = torch.zeros(n, device=device), best_loss.clone()
    with torch.no_grad():
        loss_start = losses_at(start) if scale else None
    rows, left = torch.arange(n, device=device), torch.ones(n, dtype=torch.bool, device=device)
    here = start
    for step in range(settings.steps + 1):
        t, last = step / settings.steps, step == settings.steps
        sigma = scale * max(0.0, 1.0 - t / NOISE_RAMP) ** 2
        position = rule.position()
        code = _with(here, position)
        if scale and not last:
            draws = _normal(images, space.shape)
            code = code.moved(code.main + draws.to(device) * sigma)
        with torch.set_grad_enabled(not last):
            losses = losses_at(code)
        now, moving = losses.detach(), left[rows]
        if loss_start is None:
            loss_start = now
        taken[rows[moving]] = float(step)
        if last if projector else sigma == 0.0:
            better = moving & (now < best_loss[rows])  # False where the loss is not a number
            best_loss[rows[better]] = now[better]
            for name in rates:
                best[name][rows[better]] = position[name].detach()[better]
        if last:
            break
        losses.sum().backward()
        rule.advance(losses, t)
        if noisy:
            renormalise({name: rule.position()[name] for name in noisy})
        if (settings.tolerance or enough is not None) and step % CHECKED == 0:
            if settings.tolerance:
                gained = earlier - best_loss
                left &= ~((gained <= settings.tolerance * earlier) & torch.isfinite(earlier))
                earlier = best_loss.clone()
            if enough is not None:
                left &= ~(best_loss <= enough)
            if not left.any():
                break
            if extra is None and not left[rows].all():
                going = left[rows].nonzero()[:, 0]
                rule.keep(going)
                rows = rows[going]
                images, here = images[going.tolist()], here[going]
                objective = _Objective(images, start.space, None, projector)
    lost = ~torch.isfinite(best_loss)
    for value in best.values():
        value[lost] = torch.nan
    best_loss[lost] = torch.nan
    if loss_start is None:
        raise ValueError("no step was taken")
    return Descent(_with(start, best), loss_start, best_loss, taken)


def _normal(images: Images, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers of every row's own, float32 (n, *shape)."""
    return torch.from_numpy(
        np.stack([rng.standard_normal(shape, np.float32) for rng in images.rngs])
    )


def _where(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (a.ndim - 1)), a, b)


def _tensors(code: Code) -> dict[str, Tensor]:
    """The main array by its space's name, and the companions."""
    return {code.space: code.main, **code.companions}


def _with(code: Code, changed: Mapping[str, Tensor]) -> Code:
    """The code with some of its `_tensors` replaced."""
    beside = {name: changed.get(name, value) for name, value in code.companions.items()}
    main = changed.get(code.space, code.main)
    return dataclasses.replace(code, main=main, companions=beside)


def _base(generator: Generator, space: str) -> Any:
    """The space of the codes that a code of `space` holds in each of its layers, or itself."""
    return generator.facts.space(generator.facts.repeated(space) or space)


def spread(generator: Generator, space: str, samples: int = SPREAD_SAMPLES) -> float:
    """Root mean squared distance per coordinate of the prior's codes from their centre, over fixed
    samples; of w where a code holds one of w in each layer.

    Karras et al. 2020, appendix D, take sqrt(sum |w - mean|^2 / n), without dividing by the number
    of coordinates; per coordinate the noise has the same direction and a scale that does not grow
    with w_dim.
    """
    space = _base(generator, space).name
    key = generator.facts.fingerprint, space, samples
    kept = _SPREAD.get(key)
    if kept is None:
        with torch.no_grad():
            drawn = generator.sample(space, range(samples)).main
        turns = labels_in_turn(generator.facts.classes, range(samples))
        kept = float((drawn - generator.centre(space, turns)).double().square().mean().sqrt())
        _SPREAD[key] = kept
    return kept


_SPREAD: dict[tuple[str, str, int], float] = {}
