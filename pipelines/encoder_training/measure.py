"""How good an encoder is, on samples of its generator that no training sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from generators.perceptual.load import PerceptualDistance
from generators.protocols import Code
from pipelines.encoder_training.objectives.base import Task
from pipelines.encoder_training.samples import Samples
from pipelines.encoder_training.trainer import encoded
from transforms.images.metrics import SSIM_WINDOW, psnr, ssim
from transforms.images.preprocess import to_uint8

PICTURES = 20
BASELINE = "psnr_of_mean_code"
EQUAL_DB = 100.0
"""PSNR that equal pictures count with."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of samples.

    rows : by name, of each sample, float64 (n,): psnr (dB), ssim, lpips_star, cosine (of code and
        known code, both from the mean code), and `BASELINE`, what the mean code reaches
    r2 : coefficient of determination of each coordinate of a code, float64 (dimensions,); NaN of
        those that do not vary
    pictures : originals and reconstructions, uint8 (2, up to 20, height, width, 3)
    """

    rows: dict[str, NDArray[np.float64]]
    r2: NDArray[np.float64]
    pictures: NDArray[np.uint8]

    def summary(self) -> dict[str, Any]:
        """Numbers for people and programs, as JSON."""
        told: dict[str, Any] = {"n": len(self.rows["psnr"])}
        for name, values in self.rows.items():
            low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
            told[name] = {"median": float(middle), "p10": float(low), "p90": float(high),
                          "mean": float(values.mean())}  # fmt: skip
        known = self.r2[np.isfinite(self.r2)]
        told["r2"] = {
            "coordinates": len(self.r2),
            "constant": len(self.r2) - len(known),
            "median": float(np.median(known)) if len(known) else None,
            "mean": float(known.mean()) if len(known) else None,
            "worst": float(known.min()) if len(known) else None,
            "best": float(known.max()) if len(known) else None,
            "above_0.5": int((known > 0.5).sum()),
        }
        return told


@torch.no_grad()
def measured(
    network: Any,
    task: Task,
    seeds: Sequence[int],
    batch_size: int,
    truncation: float,
    perceptual: PerceptualDistance | None = None,
) -> Measured:
    """A network, in evaluation mode, on the samples of some seeds."""
    centre = task.centre
    mean: NDArray[np.uint8] | None = None
    found: dict[str, list[NDArray[np.float64]]] = {}
    pictures: list[NDArray[np.uint8]] = []
    sums = np.zeros((3, centre.numel()))
    for start in range(0, len(seeds), batch_size):
        part = seeds[start : start + batch_size]
        samples = Samples.drawn(task.generator, task.space, part, truncation)
        codes = encoded(network, task.space, samples.images, samples.labels)
        wanted = to_uint8(samples.images.cpu().numpy())
        drawn = _drawn(task, codes, samples.labels)
        rows = {"psnr": np.minimum(psnr(wanted, drawn), EQUAL_DB)}
        if min(wanted.shape[1:3]) >= SSIM_WINDOW:
            rows["ssim"] = ssim(wanted, drawn)
        if perceptual is not None:
            rows[perceptual.key] = perceptual(wanted, drawn).astype(np.float64)
        if sum(len(each) for each in pictures) < 2 * PICTURES:
            pictures += [wanted[:PICTURES], drawn[:PICTURES]]
        known, guess = (samples.codes - centre).flatten(1), (codes - centre).flatten(1)
        rows["cosine"] = F.cosine_similarity(known, guess, dim=1).double().cpu().numpy()
        if mean is None or samples.labels is not None:  # one picture for all without classes
            n = 1 if samples.labels is None else len(part)
            mean = _drawn(task, centre.expand(n, *centre.shape).contiguous(), samples.labels)
        rows[BASELINE] = np.minimum(psnr(wanted, np.broadcast_to(mean, wanted.shape)), EQUAL_DB)
        for name, values in rows.items():
            found.setdefault(name, []).append(values)
        known, guess = known.double().cpu(), guess.double().cpu()
        sums += torch.stack([known.sum(0), known.square().sum(0), (known - guess).square().sum(0)]
                            ).numpy()  # fmt: skip
    originals, redrawn = np.concatenate(pictures[::2]), np.concatenate(pictures[1::2])
    first, second, error = sums
    spread = second - first**2 / len(seeds)
    varies = spread > 1e-9 * len(seeds)
    r2 = np.where(varies, 1 - error / np.where(varies, spread, 1), np.nan)
    shown = np.stack([originals[:PICTURES], redrawn[:PICTURES]])
    return Measured({name: np.concatenate(parts) for name, parts in found.items()}, r2, shown)


def _drawn(task: Task, codes: Tensor, labels: Any) -> NDArray[np.uint8]:
    images = task.generator.draw(Code(task.space, codes), labels=labels)
    return to_uint8(images.cpu().numpy())
