"""The steps of a training: Adam, a learning rate that falls along a cosine, averaged weights.

A step is a function of the networks, the settings, the training's seed and its own number, so a
training that was ended and goes on gives the bytes of one that was not.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from generators.protocols import Code, Labels
from pipelines.encoder_training.history import History
from pipelines.encoder_training.objectives.base import Batch, Loss, Task
from pipelines.encoder_training.real_images import RealImages
from pipelines.encoder_training.samples import Samples, training_seeds
from pipelines.training.resumable import Resumable
from schemas.errors import NotConvergedError
from schemas.sections.train_encoder import TrainEncoderSpec

AVERAGE = 0.999
"""Share of the averaged weights that a step keeps, once there have been many."""
LAST_RATE = 0.01
"""Of the learning rate, at the last step."""
BETAS = (0.9, 0.99)


class Trainer(Resumable):
    """An encoder's network in training, its averaged weights and their curves.

    network : on the task's device; trained in place
    real : of a section whose ``real`` is above 0
    """

    PARTS = ("network", "average", "optimiser", "history")

    def __init__(
        self,
        network: Any,
        task: Task,
        loss: Loss,
        settings: TrainEncoderSpec,
        steps: int,
        seed: int,
        real: RealImages | None = None,
    ) -> None:
        self.network, self.task, self.settings = network, task, settings
        self.steps, self.seed, self.step = steps, seed, 0
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.optimiser = torch.optim.Adam(network.parameters(), settings.learning_rate, BETAS)
        self.history = History(every=max(1, steps // 200))
        self._loss, self._real = loss, real
        self._n_real = 0 if real is None else round(settings.real * settings.batch_size)

    def rate(self) -> float:
        """The step's learning rate: a short rise, then down along half a cosine."""
        rise = min(1.0, (self.step + 1) / min(200, max(1, self.steps // 10)))
        fallen = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        return self.settings.learning_rate * rise * (LAST_RATE + (1 - LAST_RATE) * fallen)

    def advance(self) -> dict[str, float]:
        """One step; returns the mean of each term of the loss.

        Raises NotConvergedError, with the cure, where the loss is no number.
        """
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.network.train()
        terms = {name: rows.mean() for name, rows in self._loss(self._batch()).items()}
        loss = torch.stack(list(terms.values())).sum()
        shown = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
        if not all(map(math.isfinite, shown.values())):
            raise NotConvergedError(
                f"the loss is no number at step {self.step!r} ({shown!r}): set "
                f"'train_encoder.learning_rate' below {self.settings.learning_rate!r}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self._follow()
        self.step += 1
        self.history.add(self.step, shown)
        return shown

    def _batch(self) -> Batch:
        """The images of the step."""
        task, n = self.task, self.settings.batch_size
        seeds = training_seeds(self.seed, self.step, n - self._n_real)
        samples = Samples.drawn(task.generator, task.space, seeds, self.settings.truncation)
        images, labels = samples.images, samples.labels
        if self._real is not None and self._n_real:
            images = torch.cat([images, self._real(self.step, self._n_real).to(images.device)])
        return Batch(
            images,
            samples.codes,
            labels,
            encode=lambda seen: encoded(self.network, task.space, seen, labels),
            draw=lambda codes: task.generator.draw(Code(task.space, codes), labels=labels),
        )

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged weights; at first they follow the trained ones closely."""
        share = min(AVERAGE, (1 + self.step) / (10 + self.step))
        moved = self.network.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(moved[name], 1 - share)
            else:
                value.copy_(moved[name])


def encoded(network: Any, space: str, images: Tensor, labels: Labels) -> Tensor:
    """A network's codes of images; labels : given to a network that takes classes."""
    beside = (labels,) if getattr(network, "classes", 0) else ()
    codes: Tensor = network.encode(images, space, *beside)
    return codes
