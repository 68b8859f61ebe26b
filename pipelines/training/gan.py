"""Train the bundled 64 px StyleGAN2 generator and its w_plus encoder on the face rig.

Reconstruction and adversarial training jointly. An encoder E and a generator G first learn to
reconstruct (pixel and gradient losses, later also SSIM; w is kept near zero mean and unit
variance, the layers' offsets small, as in e4e). From `adversarial_from` on, the mapping network is
trained so that its w have the encoder's distribution (an adversary on w: Makhzani et al.,
adversarial autoencoders, 2015), and G so that its samples pass an image discriminator
(non-saturating loss, Goodfellow et al. 2014, lazy R1, Mescheder et al. 2018). Exponential moving
averages of the weights are kept. The stages of `train_stage` then weigh errors by the face's
features, which the joint training leaves blurred. At the end the mapping network is fitted anew by
the energy distance (`pipelines.training.mapping`), because the critic leaves it behind.
"""

import copy
import json
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.encoders.w_plus_encoder.network import EncoderConfig, WPlusEncoder
from generators.facerig import ATTRIBUTES, EXPRESSIONS
from generators.families.stylegan2.network import StyleGAN2, StyleGAN2Config
from pipelines.training.annotators import Annotators, load_features
from pipelines.training.data import TRAIN_SEED, VALIDATION_SEED, as_input, expressive, rendered
from pipelines.training.losses import (
    code_loss,
    detail_loss,
    feature_loss,
    feature_weight,
    reconstruction_loss,
    structure_loss,
)
from pipelines.training.resumable import Resumable
from transforms.images.metrics import psnr, ssim
from transforms.images.preprocess import to_uint8

log = logging.getLogger(__name__)

CONFIG = StyleGAN2Config(
    z_dim=64,
    w_dim=64,
    img_resolution=64,
    channel_base=1024,
    channel_max=64,
    num_mapping_layers=4,
)
BATCH = 16
EMA = 0.998
STRUCTURE_FROM, STRUCTURE_FULL_FROM, GUIDE_FROM = 2000, 6000, 13_500


def raised_expression(before: np.ndarray, after: np.ndarray) -> Tensor:
    """Which expression is stronger in `after`, int64 (n,); both are attributes (n, 10)."""
    return torch.from_numpy((after - before)[:, : len(EXPRESSIONS)].argmax(axis=1))


class ImageDiscriminator(nn.Module):
    """Small strided critic of images (n, 3, 64, 64) -> (n,), with a batch-deviation channel."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 96)
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.trunk = nn.Sequential(*layers)
        self.last = nn.Conv2d(widths[-1] + 1, 96, 3, padding=1)
        self.head = nn.Linear(96 * 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        spread = x.var(dim=0, unbiased=False).add(1e-8).sqrt().mean()
        x = torch.cat([x, spread.expand(len(x), 1, *x.shape[2:])], dim=1)
        return self.head(F.leaky_relu(self.last(x), 0.2).flatten(1))[:, 0]


def latent_discriminator(w_dim: int) -> nn.Module:
    """Critic of w codes (n, w_dim) -> (n, 1)."""
    return nn.Sequential(
        nn.Linear(w_dim, 256),
        nn.LeakyReLU(0.2),
        nn.Linear(256, 256),
        nn.LeakyReLU(0.2),
        nn.Linear(256, 1),
    )


class Trainer(Resumable):
    """All networks, optimisers and the step counter; saved and resumed as one file."""

    def __init__(self, steps: int, adversarial_from: int, seed: int):
        torch.manual_seed(seed)
        self.steps, self.adversarial_from = steps, adversarial_from
        self.g = StyleGAN2(CONFIG)
        self.e = WPlusEncoder(EncoderConfig(num_ws=CONFIG.num_ws, w_dim=CONFIG.w_dim))
        self.g_ema, self.e_ema = copy.deepcopy(self.g), copy.deepcopy(self.e)
        self.d, self.dw = ImageDiscriminator(), latent_discriminator(CONFIG.w_dim)
        synthesis = list(self.g.synthesis.parameters())
        mapping = list(self.g.mapping.parameters())
        self.opt = torch.optim.Adam(
            [{"params": synthesis, "lr": 2.5e-3}, {"params": self.e.parameters(), "lr": 1e-3}],
            betas=(0.9, 0.99),
        )
        self.opt_map = torch.optim.Adam(mapping, lr=2e-3, betas=(0.0, 0.99))
        self.opt_d = torch.optim.Adam(self.d.parameters(), lr=1e-3, betas=(0.0, 0.99))
        self.opt_dw = torch.optim.Adam(self.dw.parameters(), lr=1e-3, betas=(0.0, 0.99))
        torch.manual_seed(seed)
        self.guide = nn.Linear(CONFIG.num_ws * CONFIG.w_dim, 136 + len(ATTRIBUTES))
        self.opt_guide = torch.optim.Adam(self.guide.parameters(), lr=1e-3, betas=(0.9, 0.99))
        self.moves = nn.Embedding(len(EXPRESSIONS), CONFIG.num_ws * CONFIG.w_dim)
        self.opt_moves = torch.optim.Adam(self.moves.parameters(), lr=1e-3, betas=(0.9, 0.99))
        self.step = 0
        self.rng = np.random.default_rng(seed)
        self.seed = seed

    PARTS = (
        "g", "e", "g_ema", "e_ema", "d", "dw", "guide", "moves",
        "opt", "opt_map", "opt_d", "opt_dw", "opt_guide", "opt_moves",
    )  # fmt: skip

    def scale(self) -> float:
        """Learning-rate factor: short warm-up, then cosine down to 2 %."""
        t = self.step / self.steps
        return min(1.0, self.step / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(t, 1))))

    def batch(self, images: np.ndarray) -> Tensor:
        """The step's images, float32 (BATCH, 3, 64, 64) in [-1, 1]; a function of the step."""
        rng = np.random.default_rng([self.seed, self.step])
        rows = np.sort(rng.integers(len(images), size=BATCH))
        return as_input(images[rows]).contiguous()

    def advance(self, images: np.ndarray) -> dict[str, float]:
        """One optimisation step; returns the losses."""
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        for opt, base in ((self.opt, None), (self.opt_map, 2e-3)):
            for group, lr in zip(opt.param_groups, (2.5e-3, 1e-3), strict=False):
                group["lr"] = (lr if base is None else base) * self.scale()
        x = self.batch(images)
        w, offsets = self.e(x)
        y = self.g.synthesis(w[:, None] + offsets)
        loss = reconstruction_loss(y, x) + code_loss(w, offsets)
        if self.step >= STRUCTURE_FROM:
            weight = 1.0 if self.step >= STRUCTURE_FULL_FROM else 0.25
            loss = loss + weight * structure_loss(y, x)
        shown = {"reconstruction": float(loss.detach())}
        adversarial = self.step >= self.adversarial_from
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        if adversarial:
            shown |= self._latent_step(w.detach())
            if self.step % 2 == 0:
                shown |= self._image_step(x)
        self.opt.step()
        self._average()
        self.step += 1
        return shown

    def _latent_step(self, real: Tensor) -> dict[str, float]:
        """Match mapping(z) to the encoder's w: critic step, then mapping step (4 batches)."""
        for _ in range(4):
            fake = self.g.mapping(torch.randn(len(real), CONFIG.z_dim))
            critic = F.softplus(self.dw(fake.detach())).mean() + F.softplus(-self.dw(real)).mean()
            self.opt_dw.zero_grad(set_to_none=True)
            critic.backward()
            self.opt_dw.step()
        fake = self.g.mapping(torch.randn(64, CONFIG.z_dim), update_w_avg=True)
        loss = F.softplus(-self.dw(fake)).mean()
        loss = loss + 0.5 * (fake.mean(dim=0) - self.e.w_avg).square().mean()
        loss = loss + 0.1 * (fake.std(dim=0) - 1).square().mean()
        self.opt_map.zero_grad(set_to_none=True)
        loss.backward()
        self.opt_map.step()
        return {"latent": float(loss.detach())}

    def _image_step(self, real: Tensor) -> dict[str, float]:
        """Discriminator on samples; the generator's gradient is added to the reconstruction's."""
        with torch.no_grad():
            w = self.g.mapping(torch.randn(len(real), CONFIG.z_dim))
        ws = w[:, None].expand(-1, CONFIG.num_ws, -1)
        fake = self.g.synthesis(ws, noise_mode="random")
        loss = F.softplus(-self.d(fake)).mean()
        (0.02 * loss).backward()
        lazy = self.step % 16 == 0
        real = real.clone().requires_grad_(lazy)
        score = self.d(real)
        critic = F.softplus(self.d(fake.detach())).mean() + F.softplus(-score).mean()
        if lazy:
            (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
            critic = critic + 8 * 0.5 * slope.square().sum(dim=(1, 2, 3)).mean()
        self.opt_d.zero_grad(set_to_none=True)
        critic.backward()
        self.opt_d.step()
        return {"image": float(loss.detach()), "critic": float(critic.detach())}

    def rates(self, scale: float) -> None:
        """Set the learning rates of generator and encoder to their base rates times `scale`."""
        for group, lr in zip(self.opt.param_groups, (2.5e-3, 1e-3), strict=True):
            group["lr"] = lr * scale

    def draw(self, n: int, size: int) -> np.ndarray:
        """Rows of the step's batch, ascending: a function of the seed and the step."""
        rng = np.random.default_rng([self.seed, self.step])
        return np.sort(rng.integers(n, size=size))

    def guide_loss(self, codes: Tensor, data: dict[str, np.ndarray], rows: np.ndarray) -> Tensor:
        """How badly a linear layer reads landmarks and attributes from codes."""
        read = self.guide(codes.flatten(1))
        points = (torch.from_numpy(data["landmarks"][rows]).flatten(1) - 32) / 32
        shown = torch.from_numpy(data["attributes"][rows])
        return 8 * F.smooth_l1_loss(
            read[:, :136], points, beta=0.05
        ) + 2 * F.binary_cross_entropy_with_logits(read[:, 136:], shown)

    def finish(self, loss: Tensor) -> None:
        """One optimiser step of everything that the loss reaches."""
        optimisers = (self.opt, self.opt_guide, self.opt_moves)
        for opt in optimisers:
            opt.zero_grad(set_to_none=True)
        loss.backward()
        for opt in optimisers:
            opt.step()
        self._average()
        self.step += 1

    def advance_detail(
        self, data: dict[str, np.ndarray], scale: float, features: Annotators | None = None
    ) -> dict[str, float]:
        """Both networks, errors weighted on the face's features and, if given, on `features`."""
        self.rates(scale)
        rows = self.draw(len(data["images"]), BATCH)
        x = as_input(data["images"][rows])
        weight = feature_weight(torch.from_numpy(data["landmarks"][rows]), x.shape[-1])
        w, offsets = self.e(x)
        codes = w[:, None] + offsets
        y = self.g.synthesis(codes)
        detail = detail_loss(y, x, weight)
        loss = detail + 0.5 * structure_loss(y, x) + code_loss(w, offsets)
        shown = {"detail": float(detail.detach())}
        if features is not None:
            seen = feature_loss(features, y, x)
            loss = loss + seen
            shown["features"] = float(seen.detach())
        if self.step >= GUIDE_FROM:
            guide = self.guide_loss(codes, data, rows)
            loss = loss + guide
            shown["guide"] = float(guide.detach())
        self.finish(loss)
        return shown

    def advance_encoder(
        self, data: dict[str, np.ndarray], anchor: Tensor, scale: float
    ) -> dict[str, float]:
        """The encoder alone: codes must tell landmarks and attributes, and stay near `anchor`.

        anchor : (n, num_ws, w_dim), the codes of all training pictures when the stage began
        """
        self.rates(scale)
        rows = self.draw(len(data["images"]), 2 * BATCH)
        x = as_input(data["images"][rows])
        codes = self.e.encode(x)
        guide = self.guide_loss(codes, data, rows)
        drift = (codes - anchor[torch.from_numpy(rows)]).square().mean()
        self.finish(2 * guide + 0.3 * drift)
        return {"guide": float(guide.detach()), "drift": float(drift.detach())}

    def advance_generator(
        self, data: dict[str, np.ndarray], codes: Tensor, scale: float
    ) -> dict[str, float]:
        """The generator alone, from the fixed codes (n, num_ws, w_dim) of all pictures."""
        self.rates(scale)
        rows = self.draw(len(data["images"]), 2 * BATCH)
        x = as_input(data["images"][rows])
        weight = feature_weight(torch.from_numpy(data["landmarks"][rows]), x.shape[-1])
        y = self.g.synthesis(codes[torch.from_numpy(rows)])
        detail = detail_loss(y, x, weight)
        self.finish(detail + 0.5 * structure_loss(y, x))
        return {"detail": float(detail.detach())}

    @torch.no_grad()
    def measure_moves(
        self, data: dict[str, np.ndarray], raised: dict[str, np.ndarray], pairs: int
    ) -> None:
        """Begin `moves` as the mean differences of the codes of the first `pairs` pairs."""
        apart = self.encode_all(raised["images"][:pairs]) - self.encode_all(data["images"][:pairs])
        which = raised_expression(data["attributes"][:pairs], raised["attributes"][:pairs])
        self.moves.weight.zero_()
        for k in which.unique():
            self.moves.weight[k] = apart[which == k].flatten(1).mean(dim=0)

    def advance_pairs(
        self,
        data: dict[str, np.ndarray],
        raised: dict[str, np.ndarray],
        scale: float,
        features: Annotators,
    ) -> dict[str, float]:
        """Both networks, on pairs of pictures that differ in one expression's intensity.

        Adding an expression shall be one move of the codes, whoever shows it and whatever else is
        shown: from the first picture's codes, moved, the generator must draw the second, and the
        second's codes must lie there.
        """
        self.rates(scale)
        rows = self.draw(len(data["images"]), BATCH // 2)
        both = {name: np.concatenate([data[name][rows], raised[name][rows]]) for name in data}
        x = as_input(both["images"])
        w, offsets = self.e(x)
        codes = w[:, None] + offsets
        first, second = codes.chunk(2)
        which = raised_expression(*np.split(both["attributes"], 2))
        moved = first + self.moves(which).view_as(first)
        y = self.g.synthesis(torch.cat([codes, moved]))
        x = torch.cat([x, x[len(rows) :]])
        weight = feature_weight(torch.from_numpy(both["landmarks"]), x.shape[-1])
        weight = torch.cat([weight, weight[len(rows) :]])
        detail, seen = detail_loss(y, x, weight), feature_loss(features, y, x)
        guide = self.guide_loss(codes, both, np.arange(len(codes)))
        apart = (second - moved).square().mean() / (moved - first).square().mean()
        loss = detail + 0.5 * structure_loss(y, x) + seen + guide + code_loss(w, offsets)
        self.finish(loss + 0.2 * apart)
        shown = {"detail": detail, "features": seen, "guide": guide, "apart": apart}
        return {name: float(value.detach()) for name, value in shown.items()}

    @torch.no_grad()
    def encode_all(self, images: np.ndarray) -> Tensor:
        """Codes of the averaged encoder, float32 (n, num_ws, w_dim)."""
        parts = []
        for start in range(0, len(images), 200):
            parts.append(self.e_ema.encode(as_input(images[start : start + 200])))
        return torch.cat(parts)

    def redraw(self, x: Tensor) -> Tensor:
        """Reconstructions of the averaged networks, images (n, 3, R, R) in [-1, 1]."""
        return self.g_ema.synthesis(self.e_ema.encode(x)).clamp(-1, 1)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(EMA, (1 + self.step) / (10 + self.step))
        for ema, net in ((self.g_ema, self.g), (self.e_ema, self.e)):
            for a, b in zip(ema.parameters(), net.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
            for old, new in zip(ema.buffers(), net.buffers(), strict=True):
                old.copy_(new)

    @torch.no_grad()
    def quality(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """PSNR (dB) and SSIM of the reconstruction of each of `images`, uint8 (n, 64, 64, 3)."""
        drawn = torch.cat([self.redraw(part) for part in as_input(images).split(100)])
        pictures = to_uint8(drawn.numpy())
        return psnr(pictures, images), ssim(pictures, images)

    def evaluate(self, images: np.ndarray) -> dict[str, float]:
        """Median PSNR (dB) and SSIM of the reconstructions of `images`."""
        p, s = self.quality(images)
        return {"psnr": float(np.median(p)), "ssim": float(np.median(s))}


STAGES = {
    "detail": (3_250, 9_000),
    "encoder": (3_500, 3_500),
    "generator": (1_000, 6_000),
    "both": (4_500, 4_500),
    "expressions": (8_000, 8_000),
    "longer": (10_000, 10_000),
    "recoloured": (4_000, 4_000),
    "recoloured_again": (4_000, 4_000),
    "pale": (3_000, 3_000),
    "pairs": (5_000, 5_000),
}
"""What follows the joint training: steps, and over how many steps the rate would fall to zero."""


def train_stage(name: str, work: Path, images: int, threads: int, seed: int = 19) -> None:
    """One of `STAGES`, continuing from the stage before; resumes from `work`/<name>.pt.

    Background, hair and skin make up most of a picture's error, and most of what it means is in
    eyes, brows and mouth: from here on errors are weighted there. "detail" trains both networks,
    from step `GUIDE_FROM` on with a linear layer that must read landmarks and attributes from the
    codes; "encoder" trains the encoder alone to tell these, three times as fast; "generator" the
    generator alone to draw from the fixed codes; "both" trains them together again; "expressions"
    goes on with the differences that the annotators' network sees (perceptual loss), and the
    stages behind it do the same for longer; "pairs" makes each expression one move of the codes.
    """
    torch.set_num_threads(threads)
    order = ["gan", *STAGES]
    before, path = work / f"{order[order.index(name) - 1]}.pt", work / f"{name}.pt"
    data = rendered(work / "data", TRAIN_SEED, images)
    held_out = np.ascontiguousarray(rendered(work / "data", VALIDATION_SEED, 2000)["images"][:500])
    trainer = Trainer(1, 1, seed)
    trainer.load(before)
    first, (steps, decay) = trainer.step, STAGES[name]
    codes = trainer.encode_all(data["images"]) if name in ("encoder", "generator") else None
    if name in ("encoder", "generator"):  # the averaged networks are the better place to begin
        trainer.g.load_state_dict(trainer.g_ema.state_dict())
        trainer.e.load_state_dict(trainer.e_ema.state_dict())
    if path.exists():
        trainer.load(path)
    raised = None
    if name == "pairs":
        raised = rendered(work / "data", TRAIN_SEED, images, alter=expressive)
        if not path.exists():
            trainer.measure_moves(data, raised, pairs=6000)
    features = None
    if order.index(name) >= order.index("expressions"):
        features = load_features(work).requires_grad_(False)
    started, begun = time.monotonic(), trainer.step
    while trainer.step < first + steps:
        t = (trainer.step - first) / decay
        scale = min(1.0, (trainer.step - first + 1) / 100) * (0.01 + 0.99 * (1 - t) ** 0.7)
        if codes is not None:
            advance = trainer.advance_encoder if name == "encoder" else trainer.advance_generator
            shown = advance(data, codes, scale)
        elif raised is not None and features is not None:
            shown = trainer.advance_pairs(data, raised, scale, features)
        else:
            shown = trainer.advance_detail(data, scale, features)
        if (trainer.step - first) % 250 == 0 or trainer.step == first + steps:
            trainer.save(path)
            rate = (trainer.step - begun) / (time.monotonic() - started)
            row = {"stage": name, "step": trainer.step, **shown, **trainer.evaluate(held_out)}
            row["steps_per_s"] = rate
            with (work / "gan.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            log.info("%s", row)


def load_pair(work: Path) -> Trainer:
    """The finished pair: what the last stage left in `work`."""
    trainer = Trainer(1, 1, 0)
    trainer.load(work / f"{list(STAGES)[-1]}.pt")
    return trainer


def train(work: Path, images: int, steps: int, adversarial_from: int, seed: int, threads: int):
    """Train, resuming from `work`/gan.pt; logs to `work`/gan.jsonl every 250 steps."""
    torch.set_num_threads(threads)
    data = rendered(work / "data", TRAIN_SEED, images)["images"]
    held_out = np.ascontiguousarray(rendered(work / "data", VALIDATION_SEED, 2000)["images"][:500])
    trainer = Trainer(steps, adversarial_from, seed)
    path = work / "gan.pt"
    if path.exists():
        trainer.load(path)
    started, first = time.monotonic(), trainer.step
    while trainer.step < steps:
        shown = trainer.advance(data)
        if trainer.step % 250 == 0 or trainer.step == steps:
            trainer.save(path)
            rate = (trainer.step - first) * BATCH / (time.monotonic() - started)
            row = {
                "step": trainer.step,
                **shown,
                **trainer.evaluate(held_out),
                "images_per_s": rate,
            }
            with (work / "gan.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            log.info("%s", row)
    return trainer
