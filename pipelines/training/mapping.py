"""Mapping networks fitted to the codes of the training pictures."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generators.families.stylegan2.network import StyleGAN2
from pipelines.training.data import TRAIN_SEED, as_input, rendered
from pipelines.training.gan import CONFIG, load_pair
from pipelines.training.losses import energy_distance

log = logging.getLogger(__name__)


def fit_mapping(work: Path, images: int, steps: int, seed: int, threads: int) -> float:
    """Fit the mapping network anew: mapping(z) gets the distribution of the encoder's w.

    Minimises the energy distance to the codes of the training pictures, batches of 512. Writes
    `work`/mapping.pt and returns the distance to fresh draws on 4,000 codes.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    trainer = load_pair(work)
    data = rendered(work / "data", TRAIN_SEED, images)["images"]
    codes = []
    with torch.no_grad():
        for start in range(0, len(data), 200):
            codes.append(trainer.e_ema(as_input(data[start : start + 200]))[0])
    real = torch.cat(codes)
    mapping = StyleGAN2(CONFIG).mapping
    distance = fit(mapping, real, steps)
    log.info("mapping: energy distance %.4f", distance)
    torch.save({"mapping": mapping.state_dict(), "distance": distance}, work / "mapping.pt")
    return distance


def fit(mapping: nn.Module, real: Tensor, steps: int) -> float:
    """Fit a mapping network of StyleGAN to codes (n, w_dim): batches of 512, Adam.

    Returns the energy distance of fresh draws to 4,000 codes.
    """
    config: Any = mapping.config
    rate = 2e-3 / config.lr_multiplier  # stored weights are 1 / lr_multiplier times larger
    opt = torch.optim.Adam(mapping.parameters(), lr=rate, betas=(0.5, 0.99))
    for step in range(steps):
        for group in opt.param_groups:
            group["lr"] = rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        rows = torch.randint(len(real), (512,))
        loss = energy_distance(mapping(torch.randn(512, config.z_dim)), real[rows])
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
    with torch.no_grad():
        rows = torch.randperm(len(real))[:4000]
        return float(energy_distance(mapping(torch.randn(4000, config.z_dim)), real[rows]))
