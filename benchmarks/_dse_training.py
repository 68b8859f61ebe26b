"""Trainings of the diverse similarity encoder on pictures of the bundled generator, for tables.

Algorithm 1 of Yu and Wang (2021) with Adam at the paper's rate, and losses that differ by variant.
All of a seed begin with the same weights and see the same pictures. A training is saved every
`SAVED` steps and goes on from there.

The pictures are what the generator draws from codes of `FACES` faces of the rig, which the bundled
encoder gives. Its draws from z will not do: they lie near the mean face, for the mapping network
was fitted to w and leaves out the layers' offsets, and encoders trained on them draw faces of the
rig at 14 dB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from generators.encoders import load_encoder, save_encoder
from generators.encoders.dse.config import DSEConfig
from generators.encoders.dse.network import DSE
from generators.facerig import random_faces, render
from generators.perceptual.load import PerceptualDistance
from generators.protocols import Code, Generator
from generators.similarity.attentions import CentreCrops
from generators.similarity.objective import (
    BETAS,
    LEARNING_RATE,
    SQUARED_ONLY,
    DiverseSimilarity,
    SimilarityWeights,
)
from pipelines.training.data import TRAIN_SEED
from pipelines.training.resumable import Resumable
from transforms.images.preprocess import to_float

MODEL = "bundled:faces64"
SAVED = 50
PAPER = SimilarityWeights()
LPIPS_STAR = 8.0
"""How many times larger LPIPS* is than LPIPS beside the same error: 2.23 to an MSE of 0.0506 where
the paper's Table III has 0.368 to 0.0667. Its weight of 2 is of LPIPS; with LPIPS* the gradient of
that term is 17 times that of the MSE, and its angle to it 76 degrees."""
#: Weights and whether attentions are compared, by what the paper's tables call it.
VARIANTS: dict[str, tuple[SimilarityWeights, bool]] = {
    "DSE": (PAPER, True),
    "DSE scaled": (replace(PAPER, perceptual=PAPER.perceptual / LPIPS_STAR), True),
    "MSE only": (SQUARED_ONLY, False),
    "w/o AT": (PAPER, False),
    "w/ AT1": (replace(PAPER, attentions=(1.0, 0.0)), True),
    "w/o SSIM": (replace(PAPER, structural=0.0), True),
}


@dataclass(frozen=True)
class Size:
    """How much is trained. batch : pictures a step. faces : codes in all. width : channels at full
    resolution, and most channels."""

    steps: int = 1000
    batch: int = 8
    faces: int = 2000
    width: tuple[int, int] = (8, 64)

    @property
    def marks(self) -> tuple[int, int]:
        """Steps after which an encoder is kept, in proportion as Table V has 1,500 and 3,500."""
        return round(self.steps * 3 / 7), self.steps


class Training(Resumable):
    """One encoder of one variant and seed.

    codes : of the generator's default space, that pictures are drawn from
    """

    PARTS = ("network", "optimiser")

    def __init__(
        self,
        generator: Generator,
        perceptual: PerceptualDistance,
        codes: Tensor,
        variant: str,
        seed: int,
        size: Size,
    ) -> None:
        weights, attended = VARIANTS[variant]
        self.generator, self.size, self.seed, self.step = generator, size, seed, 0
        self.codes = codes
        self.space = generator.facts.default_space
        attention = CentreCrops() if attended else None
        self.objective = DiverseSimilarity(weights, perceptual, attention)
        side = max(generator.facts.size)
        torch.manual_seed(seed)
        config = DSEConfig.for_generator(
            generator.facts, channel_base=size.width[0] * side, channel_max=size.width[1]
        )
        self.network = DSE(config).train()
        self.network.centre.copy_(codes.mean(dim=0))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE, betas=BETAS)

    def run(self, until: int) -> None:
        """Train up to a number of steps."""
        while self.step < until:
            rng = np.random.default_rng([self.seed, self.step])
            codes = self.codes[rng.integers(len(self.codes), size=self.size.batch)]
            with torch.no_grad():
                images = self.generator.draw(Code(self.space, codes))
            loss = self.objective.of_encoder(
                lambda x: self.network.encode(x, self.space),
                lambda code: self.generator.draw(Code(self.space, code)),
                images,
                codes,
            ).mean()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            self.step += 1


def codes_of_faces(work: Path, n: int) -> Tensor:
    """The bundled encoder's codes of n faces, float32 (n, layers, width); kept in `work`."""
    path = work / f"codes-{n}.npy"
    if not path.exists():
        encoder, parts = load_encoder(MODEL), []
        for first in range(0, n, 100):
            faces = random_faces(min(100, n - first), TRAIN_SEED, first=first)
            pixels = torch.from_numpy(to_float(render(faces, 64).images))
            parts.append(encoder.encode(pixels).numpy())
        np.save(path, np.concatenate(parts))
    return torch.from_numpy(np.load(path))


def file_of(work: Path, variant: str, seed: int, step: int) -> Path:
    """The encoder after so many steps of a training."""
    return work / f"{_name(variant, seed)}-{step}.safetensors"


def _name(variant: str, seed: int) -> str:
    return f"{variant.replace('/', '').replace(' ', '_')}-{seed}"


def train(
    work: Path,
    generator: Generator,
    perceptual: PerceptualDistance,
    codes: Tensor,
    variant: str,
    seed: int,
    size: Size,
    left: Callable[[], float],
) -> bool:
    """Write the encoders after `Size.marks` steps, those that are not there yet; whether all are.

    left : seconds that there are still
    """
    missing = [m for m in size.marks if not file_of(work, variant, seed, m).exists()]
    if not missing:
        return True
    training = Training(generator, perceptual, codes, variant, seed, size)
    kept = work / f"{_name(variant, seed)}.pt"
    if kept.exists():
        training.load(kept)
    if training.step >= missing[0]:  # it was trained for longer, and is needed earlier
        training = Training(generator, perceptual, codes, variant, seed, size)
    while training.step < size.steps and left() > 0:
        mark = next(mark for mark in size.marks if mark > training.step)
        training.run(min(mark, training.step + SAVED))
        if training.step == mark:
            about = {"variant": variant, "seed": seed, "steps": mark, "batch": size.batch}
            save_encoder(training.network, file_of(work, variant, seed, mark), **about)
        training.save(kept)
    return training.step >= size.steps
