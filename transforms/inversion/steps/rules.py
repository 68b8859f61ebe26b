"""How the next code is found from losses and their gradients, every row by itself.

`QuasiNewton` is L-BFGS (Nocedal 1980) with a backtracking search along each row's own direction; no
row waits for another, so that a step is one drawing, whatever its outcome. `Adam` (Kingma and Ba
2015) ramps its rate as the StyleGAN2 projector does (Karras et al. 2020, appendix D).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

MEMORY = 20
"""Pairs of steps and of changes of the gradient that `QuasiNewton` keeps."""
DECREASE = 1e-4
"""Share of the decrease that the gradient promises with which a step is taken (Armijo 1966)."""
SHORTEST, LONGEST = 0.1, 0.5
"""Limits of the factor by which a step that was refused is shortened."""
RAMP_UP, RAMP_DOWN = 0.05, 0.25

Tensors = Mapping[str, Tensor]


class StepRule(Protocol):
    """Where the next losses are wanted, and what follows from them."""

    def position(self) -> dict[str, Tensor]:
        """Tensors by name, with gradients, of the rows that still move."""

    def advance(self, losses: Tensor, t: float) -> None:
        """The next position. losses : (n,), after their backward pass. t : share of the steps."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, int64."""


class Adam:
    """Adam with a ramp of its rates.

    rates : of each tensor. ramp_up, lead : see `ramp`.
    """

    def __init__(
        self,
        start: Tensors,
        rates: Mapping[str, float],
        ramp_up: float = 0.0,
        lead: float = 0.0,
    ) -> None:
        self.rates, self.ramp_up, self.lead = rates, ramp_up, lead
        self.moving = {name: start[name].detach().clone().requires_grad_(True) for name in rates}
        groups = [{"params": [self.moving[name]]} for name in rates]
        self.optimiser = torch.optim.Adam(groups, betas=(0.9, 0.999))

    def position(self) -> dict[str, Tensor]:
        """See `StepRule`."""
        self.optimiser.zero_grad()
        return dict(self.moving)

    def advance(self, losses: Tensor, t: float) -> None:
        """See `StepRule`."""
        factor = ramp(t, self.ramp_up, self.lead)
        for group, rate in zip(self.optimiser.param_groups, self.rates.values(), strict=True):
            group["lr"] = rate * factor
        self.optimiser.step()

    def keep(self, rows: Tensor) -> None:
        """See `StepRule`."""
        for group, (name, value) in zip(
            self.optimiser.param_groups, self.moving.items(), strict=True
        ):
            fewer = value.detach()[rows].requires_grad_(True)
            state = self.optimiser.state.pop(value)
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = state[key][rows]
            self.optimiser.state[fewer] = state
            group["params"], self.moving[name] = [fewer], fewer


def ramp(t: float, ramp_up: float = 0.0, lead: float = 0.0) -> float:
    """Factor of the learning rate at time t in [0, 1): linear up over the share `ramp_up` of the
    steps, from `lead` on, and a cosine down at the end."""
    down = min(1.0, (1.0 - t) / RAMP_DOWN)
    factor = 0.5 - 0.5 * math.cos(down * math.pi)
    return factor * min(1.0, (t + lead) / ramp_up) if ramp_up else factor


class QuasiNewton:
    """L-BFGS of every row, of one tensor.

    first : root mean squared length of the first step, per coordinate
    """

    def __init__(self, name: str, start: Tensor, first: float) -> None:
        n = len(start)
        self.name, self.shape = name, start.shape[1:]
        self.first = first
        self.at = start.detach().flatten(1).clone()
        self.trial = self.at.clone().requires_grad_(True)
        self.loss = self.at.new_full((n,), math.inf)
        self.gradient = torch.zeros_like(self.at)
        self.direction = torch.zeros_like(self.at)
        self.length = self.at.new_ones(n)
        self.scale = self.at.new_ones(n)
        size = (MEMORY, n, self.at.shape[1])
        self.steps, self.changes = self.at.new_zeros(size), self.at.new_zeros(size)
        self.weights = self.at.new_zeros(MEMORY, n)
        self.asked = 0
        self.fresh = torch.ones(n, dtype=torch.bool, device=self.at.device)

    def position(self) -> dict[str, Tensor]:
        """See `StepRule`."""
        self.trial.grad = None
        return {self.name: self.trial.unflatten(1, self.shape)}

    def advance(self, losses: Tensor, t: float) -> None:
        """See `StepRule`."""
        loss, point = losses.detach(), self.trial.detach()
        gradient = self.trial.grad
        if gradient is None:
            raise ValueError("the losses had no backward pass")
        slope = (self.gradient * self.direction).sum(dim=1)
        begins = self.fresh & torch.isfinite(loss)
        taken = begins | (~self.fresh & (loss <= self.loss + DECREASE * self.length * slope))
        if self.asked:
            self._remember(point - self.at, gradient - self.gradient, taken & ~self.fresh)
        steepness = gradient.square().mean(dim=1).sqrt()
        begun = torch.where(steepness > 0, self.first / steepness, 0.0)
        self.scale = torch.where(self.fresh, begun, self.scale)
        excess = loss - self.loss - self.length * slope
        best = -slope * self.length.square() / (2 * excess.clamp_min(1e-30))
        shortest, longest = SHORTEST * self.length, LONGEST * self.length
        best = torch.where(torch.isfinite(loss), best, shortest)
        shorter = best.clamp(min=shortest, max=longest)
        self.length = torch.where(taken | self.fresh, 1.0, shorter)
        self.fresh = self.fresh & ~taken
        rows = taken[:, None]
        self.at = torch.where(rows, point, self.at)
        self.loss = torch.where(taken, loss, self.loss)
        self.gradient = torch.where(rows, gradient, self.gradient)
        self.direction = torch.where(rows, self._direction(), self.direction)
        self.trial = (self.at + self.length[:, None] * self.direction).requires_grad_(True)
        self.asked += 1

    def _remember(self, step: Tensor, change: Tensor, taken: Tensor) -> None:
        """A pair of each row; of weight 0 where it tells nothing of the curvature."""
        slot = (self.asked - 1) % MEMORY
        product, square = (step * change).sum(dim=1), change.square().sum(dim=1)
        good = taken & (product > 1e-10 * square) & (square > 0)
        self.steps[slot], self.changes[slot] = step, change
        self.weights[slot] = torch.where(good, 1.0 / product, 0.0)
        self.scale = torch.where(good, product / square, self.scale)
        for kept in (self.steps, self.changes):  # a number that is not one would spread
            kept[slot, ~good] = 0.0

    def _direction(self) -> Tensor:
        """Minus the gradient times the estimate of the inverse Hessian."""
        newest = [(self.asked - 1 - i) % MEMORY for i in range(min(self.asked, MEMORY))]
        q, along = -self.gradient, {}
        for slot in newest:
            along[slot] = self.weights[slot] * (self.steps[slot] * q).sum(dim=1)
            q = q - along[slot][:, None] * self.changes[slot]
        q = q * self.scale[:, None]
        for slot in reversed(newest):
            back = self.weights[slot] * (self.changes[slot] * q).sum(dim=1)
            q = q + (along[slot] - back)[:, None] * self.steps[slot]
        return q

    def restart(self, rows: Tensor, at: Tensor) -> None:
        """Rows (k,), int64, begin again at codes (k, coordinates), as if nothing had been before;
        at their last ones where the loss of those is no number."""
        trial = self.trial.detach().clone()
        trial[rows] = at
        self.trial = trial.requires_grad_(True)
        self.fresh[rows], self.loss[rows], self.length[rows] = True, math.inf, 1.0
        self.gradient[rows], self.direction[rows], self.weights[:, rows] = 0.0, 0.0, 0.0

    def keep(self, rows: Tensor) -> None:
        """See `StepRule`."""
        for name in ("at", "loss", "gradient", "direction", "length", "scale", "fresh"):
            setattr(self, name, getattr(self, name)[rows])
        for name in ("steps", "changes", "weights"):
            setattr(self, name, getattr(self, name)[:, rows])
        self.trial = self.trial.detach()[rows].requires_grad_(True)
