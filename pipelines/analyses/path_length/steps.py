"""Steps between codes of the prior, drawn and measured where they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import generators
from generators.protocols import labels_in_turn
from pipelines.analyses.spaces import generator_of
from pipelines.engine.loaded_once import LoadedOnce
from schemas.fingerprint import digest
from transforms.accumulate.blocks import Arrays
from transforms.generator_metrics.path_length import lerp, slerp

if TYPE_CHECKING:
    from torch import Tensor

    from generators.perceptual.load import PerceptualDistance
    from generators.protocols import Code, Generator

VERSION = 1
"""Raised whenever the same step has another length."""
AT_ONCE = 16
"""Steps that are drawn at a time, always as many: the rows of a block."""
MOST = 256
"""Larger pictures are averaged down to this side, where it divides theirs."""
NOISE = "noise/"
"""What the names of companions that are noise images begin with."""


@dataclass(frozen=True)
class Steps:
    """Numbered steps; each depends on its number and the seed alone.

    generator, network, linear : where they are read from, with the fingerprints that they must have
    space : in which the steps are; of normal codes (z) they are on great circles, else on lines
    full : anywhere between two codes, else at the first
    noise : as of `generators.protocols.Generator.draw`; None draws noise images anew
    """

    generator: generators.Source
    generator_fp: str
    network: str
    linear: str | None
    network_fp: str
    space: str
    full: bool
    epsilon: float
    crop: bool
    noise: str | None
    seed: int

    @property
    def key(self) -> str:
        """Identity of a step's length."""
        own = [self.space, self.full, self.epsilon, self.crop, self.noise, self.seed]
        return digest([VERSION, self.generator_fp, self.network_fp, own])

    def lengths(self, numbers: Sequence[int]) -> np.ndarray:
        """Squared length of each step, float64 (n,), by that of the step in the space."""
        import torch

        model = generator_of(self.generator, self.generator_fp)
        distance = _distance(self.network, self.linear, self.network_fp)
        with torch.no_grad():
            start, end, labels = self._codes(model, numbers)
            images = [self._drawn(model, code, labels) for code in (start, end)]
            found: Tensor = distance.between(images[0], images[1])
        return found.double().cpu().numpy() / self.epsilon**2

    def _codes(
        self, model: Generator, numbers: Sequence[int]
    ) -> tuple[Code, Code, list[int] | None]:
        """Codes at both ends of each step, and their classes."""
        import torch

        streams = [self._stream(number) for number in numbers]
        seeds = np.array([stream.integers(1 << 32, size=2) for stream in streams])
        t = np.array([stream.uniform() for stream in streams]) * self.full
        labels = labels_in_turn(model.facts.classes, numbers)
        codes = [
            model.sample(self.space, seeds[:, side].tolist(), labels=labels) for side in (0, 1)
        ]
        a, b = (code.main.cpu().numpy() for code in codes)
        normal = model.facts.space(self.space).prior in ("normal", "truncated_normal")
        n = len(a)

        def between(at: np.ndarray) -> np.ndarray:
            if normal:
                return slerp(a.reshape(n, -1), b.reshape(n, -1), at).reshape(a.shape)
            return lerp(a, b, at)

        ends = [torch.from_numpy(between(at)) for at in (t, t + self.epsilon)]
        start, end = (codes[0].moved(code.to(codes[0].main)) for code in ends)
        if self.noise is None:
            start, end = (self._with_noise(model, code, labels, numbers) for code in (start, end))
        return start, end, labels

    def _stream(self, number: int, *more: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, 47, number, *more]))

    def _with_noise(
        self, model: Generator, code: Code, labels: list[int] | None, numbers: Sequence[int]
    ) -> Code:
        """With noise images of its own; codes that have none, in the first space that has."""
        import torch

        from generators.protocols import Code

        spaces = model.facts.spaces
        target = next(
            (
                name
                for name in (code.space, *(s.name for s in spaces.values()))
                if any(c.startswith(NOISE) for c in spaces[name].companions)
                and code.space in (name, spaces[name].derived_from)
            ),
            None,
        )
        if target is None:
            return code
        if target != code.space:
            code = model.convert(code, target, labels=labels)
        streams = [self._stream(number, 1) for number in numbers]
        beside = dict(code.companions)
        for name, companion in spaces[target].companions.items():
            if name.startswith(NOISE):
                rows = [stream.standard_normal(companion.sizes, np.float32) for stream in streams]
                beside[name] = torch.from_numpy(np.stack(rows)).to(code.main)
        return Code(target, code.main, beside)

    def _drawn(self, model: Generator, code: Code, labels: list[int] | None) -> Tensor:
        """Pictures as they are compared, float32 (n, 3, h, w) in [-1, 1], unclipped."""
        import torch.nn.functional as F

        own = labels if model.facts.space(code.space).conditional else None
        images = model.draw(code, labels=own, noise=self.noise or "const")
        low, high = model.facts.value_range
        if (low, high) != (-1.0, 1.0):
            images = (images - low) / (high - low) * 2 - 1
        height, width = model.facts.size
        if self.crop:
            across, down = width // 8, height // 8
            images = images[:, :, 3 * down : 7 * down, 2 * across : 6 * across]
        factor = min(height, width) // MOST
        return F.avg_pool2d(images, factor) if factor > 1 else images


@dataclass(frozen=True)
class StepsOfPath:
    """Lengths ``distance`` of steps `first` to `stop`, 16 a block."""

    steps: Steps
    first: int
    stop: int

    @property
    def key(self) -> str:
        """Of all of them."""
        return self.part_key(range(self.n_blocks))

    def part_key(self, blocks: range) -> str:
        """Of the steps of these blocks."""
        rows = [self.first + at * AT_ONCE for at in (blocks.start, blocks.stop)]
        return digest([self.steps.key, rows[0], min(rows[1], self.stop)])

    @property
    def n_blocks(self) -> int:
        """Blocks, the last one possibly short."""
        return -(-(self.stop - self.first) // AT_ONCE)

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Numbers of the steps, their lengths, and the block's number ``block`` (1,)."""
        start = self.first + block * AT_ONCE
        lengths = self.steps.lengths(range(start, start + AT_ONCE))
        numbers = np.arange(start, min(start + AT_ONCE, self.stop))
        return numbers, {
            "distance": lengths[: len(numbers)],
            "block": np.array([start // AT_ONCE]),
        }


_DISTANCES: LoadedOnce[PerceptualDistance] = LoadedOnce(lambda distance: distance.fingerprint)


def _distance(uri: str, linear: str | None, fingerprint: str) -> PerceptualDistance:
    """The distance, loaded once a process. Raises UsageError where its file is another one now."""
    from generators.perceptual import load_perceptual

    def changed(found: str) -> str:
        return (
            f"perceptual network {uri!r} has fingerprint {found!r}, the run began with "
            f"{fingerprint!r}: the file changed; start again"
        )

    return _DISTANCES.get(fingerprint, lambda: load_perceptual(uri, linear), changed)
