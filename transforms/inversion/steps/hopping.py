"""What a row does with the steps that are left when it has settled in a minimum.

Basin hopping (Wales and Doye 1997): it begins again from its best code so far with normal noise on
it, without what `QuasiNewton` remembers; the noise falls with the steps that are left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from schemas.sections.inversion.optimise import UNDISTURBED
from transforms.inversion.steps.rules import QuasiNewton

WINDOW, SETTLED, WORSE_SETTLED = 20, 0.001, 0.02
"""A row has settled when so many steps lower its loss by less than a share: the first at its best
code, which slow steps improve for long, the second at a worse one."""
NOISE = 1.5
"""Standard deviation of the noise at the first step, in root mean squared distances of the best
code from the start."""
NOISE_RAMP = 0.8
"""Share of the steps after which there is none any more."""


class BasinHopping(QuasiNewton):
    """`QuasiNewton` whose rows leave the minimum in which they have settled.

    rngs : of each row
    """

    def __init__(
        self, name: str, start: Tensor, first: float, rngs: Sequence[np.random.Generator]
    ) -> None:
        super().__init__(name, start, first)
        self.rngs, self.start = list(rngs), self.at.clone()
        self.best, self.best_loss = self.at.clone(), self.loss.clone()
        self.earlier = self.loss.clone()

    def advance(self, losses: Tensor, t: float) -> None:
        """See `StepRule`."""
        super().advance(losses, t)
        better = self.loss < self.best_loss
        self.best = torch.where(better[:, None], self.at, self.best)
        self.best_loss = torch.where(better, self.loss, self.best_loss)
        if self.asked % WINDOW == 0:
            least = torch.where(self.loss > self.best_loss, WORSE_SETTLED, SETTLED)
            settled = torch.isfinite(self.earlier) & (self.loss > (1 - least) * self.earlier)
            self.earlier = self.loss.clone()
            if self.asked >= UNDISTURBED:
                self._hop(settled, NOISE * max(0.0, 1.0 - t / NOISE_RAMP))

    def _hop(self, settled: Tensor, noise: float) -> None:
        if noise == 0.0:  # the end is for the best code of all
            settled = settled & (self.loss > self.best_loss)
        rows = settled.nonzero()[:, 0]
        if not len(rows):
            return
        best = self.best[rows]
        scale = noise * (best - self.start[rows]).square().mean(dim=1, keepdim=True).sqrt()
        size = best.shape[1]
        draws = [self.rngs[i].standard_normal(size, np.float32) for i in rows.tolist()]
        self.restart(rows, best + scale * torch.from_numpy(np.stack(draws)).to(best))
        self.earlier[rows] = math.inf

    def keep(self, rows: Tensor) -> None:
        """See `StepRule`."""
        super().keep(rows)
        for name in ("start", "best", "best_loss", "earlier"):
            setattr(self, name, getattr(self, name)[rows])
        self.rngs = [self.rngs[i] for i in rows.tolist()]
