"""Train the bundled 64 px StyleGAN3 (configuration T) on the face rig.

The bundled encoder's codes are this generator's w: the first `W_DIM` principal components of
w_plus, turned by a random rotation, so that no coordinate of w means anything by itself. Synthesis
then learns by plain regression to draw a picture from its w, errors weighted on the face's
features, without an adversary. The mapping network is fitted to the codes' distribution by the
energy distance (`pipelines.training.mapping`), and the encoder of w is the bundled one with the
projection in its last layer. Exponential moving averages of the weights are kept.
"""

import copy
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from generators.encoders.load import LoadedEncoder, load_encoder
from generators.encoders.w_plus_encoder.network import EncoderConfig, WPlusEncoder
from generators.families.stylegan3.design import design
from generators.families.stylegan3.network import StyleGAN3
from pipelines.training.data import TRAIN_SEED, VALIDATION_SEED, as_input, rendered
from pipelines.training.losses import detail_loss, feature_weight, structure_loss
from pipelines.training.mapping import fit
from pipelines.training.resumable import Resumable
from transforms.images.metrics import psnr, ssim
from transforms.images.preprocess import to_uint8

log = logging.getLogger(__name__)

W_DIM = 64
DESIGN = design(
    img_resolution=64,
    channel_base=1024,
    channel_max=48,
    num_layers=7,
    first_stopband=4.0,
    margin_size=4,
    conv_clamp=None,
    z_dim=W_DIM,
    w_dim=W_DIM,
    num_mapping_layers=4,
)
BATCH = 8
RATE, DECAY_FROM = 5e-3, 0.6
EMA = 0.998
SEED = 23


def encoded(encoder: LoadedEncoder, images: np.ndarray) -> np.ndarray:
    """w_plus of all pictures on end, float32 (n, num_ws * w_dim)."""
    with torch.no_grad():
        parts = [encoder.encode(as_input(images[i : i + 200])) for i in range(0, len(images), 200)]
    return torch.cat(parts).flatten(1).numpy()


@dataclass(frozen=True, eq=False)
class Projection:
    """From another generator's w_plus, (n, d), to w: ``(codes - mean) @ matrix.T``.

    matrix : float64 (W_DIM, d), orthogonal rows of one length. mean : float64 (d,).
    """

    matrix: np.ndarray
    mean: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, seed: int) -> "Projection":
        """The principal components, rotated, at a scale that gives w unit variance on average."""
        mean = codes.mean(axis=0, dtype=np.float64)
        values, vectors = np.linalg.eigh(np.cov(codes.T.astype(np.float64)))
        turned, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((W_DIM, W_DIM)))
        turned *= np.sign(np.diag(r))
        scale = np.sqrt(values[::-1][:W_DIM].mean())
        return cls(turned @ vectors[:, ::-1][:, :W_DIM].T / scale, mean)

    def __call__(self, codes: np.ndarray) -> Tensor:
        return torch.from_numpy(((codes - self.mean) @ self.matrix.T).astype(np.float32))

    @torch.no_grad()
    def encoder(self, whole: WPlusEncoder) -> WPlusEncoder:
        """The encoder of w: the same network with the projection in its last layer."""
        old = whole.config
        config = EncoderConfig(
            old.resolution, old.channels, old.features, DESIGN.config.num_ws, W_DIM
        )
        made = WPlusEncoder(config)
        made.trunk.load_state_dict(whole.trunk.state_dict())
        made.hidden.load_state_dict(whole.hidden.state_dict())
        matrix = torch.from_numpy(self.matrix)
        w, offsets = whole.w_head, whole.offset_head
        weight = w.weight.double().repeat(old.num_ws, 1) + offsets.weight.double()
        bias = (whole.w_avg + w.bias).double().repeat(old.num_ws) + offsets.bias.double()
        made.w_head.weight.copy_(matrix @ weight)
        made.w_head.bias.copy_(matrix @ (bias - torch.from_numpy(self.mean)))
        made.offset_head.weight.zero_()
        made.offset_head.bias.zero_()
        return made


class Trainer(Resumable):
    """The network, its average, the optimiser and the step counter; saved and resumed as a file."""

    PARTS = ("g", "g_ema", "opt")

    def __init__(self, steps: int) -> None:
        torch.manual_seed(SEED)
        self.steps, self.step = steps, 0
        self.g = StyleGAN3(DESIGN.config, DESIGN.filters)
        self.g_ema = copy.deepcopy(self.g)
        self.opt = torch.optim.Adam(self.g.synthesis.parameters(), lr=RATE, betas=(0.9, 0.99))

    def advance(self, data: dict[str, np.ndarray], codes: Tensor) -> float:
        """One step on pictures drawn by seed and step; the weighted error. codes : of `data`."""
        left = (self.steps - self.step) / ((1 - DECAY_FROM) * self.steps)
        for group in self.opt.param_groups:
            group["lr"] = RATE * min(1.0, (self.step + 1) / 100, max(0.01, left))
        rng = np.random.default_rng([SEED, self.step])
        rows = np.sort(rng.integers(len(codes), size=BATCH))
        x = as_input(data["images"][rows]).contiguous()
        y = self.drawn(self.g, codes[rows], update_emas=True)
        weight = feature_weight(torch.from_numpy(data["landmarks"][rows]), x.shape[-1])
        detail = detail_loss(y, x, weight)
        self.opt.zero_grad(set_to_none=True)
        (detail + 0.5 * structure_loss(y, x)).backward()
        self.opt.step()
        self.step += 1
        self._average()
        return float(detail.detach())

    @staticmethod
    def drawn(network: StyleGAN3, w: Tensor, update_emas: bool = False) -> Tensor:
        """Pictures of w (n, W_DIM), unclipped."""
        ws = w[:, None].expand(-1, DESIGN.config.num_ws, -1)
        return network.synthesis(ws, update_emas=update_emas)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(EMA, (1 + self.step) / (10 + self.step))
        parts = self.g_ema.synthesis, self.g.synthesis
        for a, b in zip(*(part.parameters() for part in parts), strict=True):
            a.lerp_(b, 1 - decay)
        for old, new in zip(*(part.buffers() for part in parts), strict=True):
            old.copy_(new)

    @torch.no_grad()
    def pictures(self, w: Tensor) -> np.ndarray:
        """What the averaged network draws, uint8 (n, 64, 64, 3)."""
        drawn = torch.cat([self.drawn(self.g_ema, part) for part in w.split(50)])
        return to_uint8(drawn.clamp(-1, 1).numpy())


@dataclass(frozen=True, eq=False)
class Material:
    """What is learnt from: pictures and their truth, the encoder that saw them, and w of each."""

    data: dict[str, np.ndarray]
    encoder: LoadedEncoder
    projection: Projection
    w: Tensor

    @classmethod
    def prepared(cls, work: Path, encoder: Path, images: int) -> "Material":
        """Of the first `images` training pictures; their codes are kept in `work`."""
        data = rendered(work / "data", TRAIN_SEED, images)
        loaded = load_encoder(str(encoder))
        kept = work / f"codes-{loaded.fingerprint[:12]}-{images}.npy"
        if not kept.exists():
            np.save(kept, encoded(loaded, data["images"]))
        codes = np.load(kept)
        projection = Projection.of(codes, seed=5)
        return cls(data, loaded, projection, projection(codes))


def train(work: Path, material: Material, steps: int, threads: int) -> None:
    """Train, resuming from `work`/stylegan3.pt; logs to `work`/stylegan3.jsonl every 250 steps."""
    torch.set_num_threads(threads)
    held_out = np.ascontiguousarray(rendered(work / "data", VALIDATION_SEED, 2000)["images"][:200])
    w = material.projection(encoded(material.encoder, held_out))
    trainer = Trainer(steps)
    path = work / "stylegan3.pt"
    if path.exists():
        trainer.load(path)
    started, first, errors = time.monotonic(), trainer.step, []
    while trainer.step < steps:
        errors.append(trainer.advance(material.data, material.w))
        if trainer.step % 250 == 0 or trainer.step == steps:
            trainer.save(path)
            drawn = trainer.pictures(w)
            row = {
                "step": trainer.step,
                "detail": float(np.mean(errors)),
                "psnr": float(np.median(psnr(drawn, held_out))),
                "ssim": float(np.median(ssim(drawn, held_out))),
                "steps_per_s": (trainer.step - first) / (time.monotonic() - started),
            }
            errors = []
            with (work / "stylegan3.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            log.info("%s", row)


def fit_mapping(work: Path, material: Material, steps: int, threads: int) -> None:
    """Fit the mapping network to the codes, and its mean of w; writes `work`/stylegan3-mapping.pt,
    which is kept where it is there already."""
    path = work / "stylegan3-mapping.pt"
    if path.exists():
        return
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    mapping = StyleGAN3(DESIGN.config, DESIGN.filters).mapping
    distance = fit(mapping, material.w, steps)
    with torch.no_grad():
        z = torch.randn(10_000, W_DIM, generator=torch.Generator().manual_seed(0))
        mapping.w_avg.copy_(mapping(z).mean(dim=0))
    log.info("mapping of StyleGAN3: energy distance %.4f", distance)
    torch.save({"mapping": mapping.state_dict(), "distance": distance}, path)


def finished(work: Path) -> tuple[Trainer, float]:
    """The trainer as it ended, its averaged network with the fitted mapping; the energy distance
    of that."""
    trainer = Trainer(0)
    trainer.load(work / "stylegan3.pt")
    fitted = torch.load(work / "stylegan3-mapping.pt", weights_only=True)
    trainer.g_ema.mapping.load_state_dict(fitted["mapping"])
    return trainer, fitted["distance"]
