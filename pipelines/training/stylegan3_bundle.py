"""Write the trained StyleGAN3 into the package, with a card that says what it reaches."""

from pathlib import Path

import numpy as np
import torch

from generators import save_safetensors
from generators.annotators.load import load_annotator
from generators.encoders.load import save_encoder
from generators.families.stylegan3.adapter import StyleGAN3Adapter
from pipelines.training.bundle import LICENCE
from pipelines.training.data import TRAIN_SEED, VALIDATION_SEED, rendered
from pipelines.training.stylegan3 import (
    BATCH,
    DESIGN,
    SEED,
    W_DIM,
    Material,
    Trainer,
    encoded,
    finished,
)
from transforms.images.metrics import psnr, ssim

BUNDLED = Path(__file__).parents[2] / "generators" / "bundled" / "faces64t"
PERSONS = 2000


def write_bundle(work: Path, out: Path, annotators: Path, material: Material) -> None:
    """Generator, encoder of w and their card into `out`.

    annotators : folder of the annotators that measure
    """
    trainer, distance = finished(work)
    measured = figures(work, annotators, material, trainer)
    out.mkdir(parents=True, exist_ok=True)
    adapter = StyleGAN3Adapter(trainer.g_ema)
    save_safetensors(adapter, out / "generator.safetensors")
    encoder = material.projection.encoder(material.encoder.network)
    save_encoder(encoder, out / "encoder.safetensors", licence=LICENCE)
    _write_card(out, material, trainer, adapter.facts.fingerprint, distance, measured)


def figures(
    work: Path, annotators: Path, material: Material, trainer: Trainer
) -> dict[str, tuple[float, float]]:
    """Measure -> two numbers, over persons that were not seen and draws of the prior; see
    `_write_card`."""
    held_out = rendered(work / "data", VALIDATION_SEED, PERSONS)
    images = np.ascontiguousarray(held_out["images"])
    codes = material.projection(encoded(material.encoder, images))
    drawn = trainer.pictures(codes)
    with torch.no_grad():
        z = torch.randn(PERSONS, W_DIM, generator=torch.Generator().manual_seed(1))
        samples = trainer.pictures(trainer.g_ema.mapping(z))
    found: dict[str, tuple[float, float]] = {}
    for name, values in (("psnr", psnr(drawn, images)), ("ssim", ssim(drawn, images))):
        found[name] = float(np.median(values)), float(np.quantile(values, 0.05))
    points = load_annotator(str(annotators / "landmarks.onnx"))
    for name, shown in (("landmarks", drawn), ("landmarks_of_pictures", images)):
        apart = np.linalg.norm(points.annotate(shown) - held_out["landmarks"], axis=2)
        found[name] = float(apart.mean()), float(np.quantile(apart.mean(axis=1), 0.95))
    pose = load_annotator(str(annotators / "pose.onnx"))
    angles = pose.annotate(drawn)
    spread = pose.annotate(samples)
    for i, name in enumerate(("yaw", "pitch", "roll")):
        truth = held_out["pose"][:, i]
        found[name] = float(np.abs(angles[:, i] - truth).mean()), _told_linearly(codes, truth)
        low, high = np.quantile(spread[:, i], [0.05, 0.95])
        found[f"{name}_range"] = float(low), float(high)
        low, high = np.quantile(truth, [0.05, 0.95])
        found[f"{name}_range_of_pictures"] = float(low), float(high)
    return found


def _told_linearly(codes: torch.Tensor, truth: np.ndarray) -> float:
    """Share of the variance of `truth` that a linear function of w tells, fitted on the first half
    and measured on the second."""
    x = np.column_stack([codes.numpy(), np.ones(len(codes))]).astype(np.float64)
    half = len(x) // 2
    weights = np.linalg.lstsq(x[:half], truth[:half], rcond=None)[0]
    rest = truth[half:] - x[half:] @ weights
    return float(1 - rest.var() / truth[half:].var())


def _write_card(
    out: Path,
    material: Material,
    trainer: Trainer,
    fingerprint: str,
    distance: float,
    measured: dict[str, tuple[float, float]],
) -> None:
    config = DESIGN.config
    widths = ", ".join(f"{layer.out_channels} x {layer.out_size[0]}" for layer in config.layers)
    angles = "\n".join(
        f"| {name} | {measured[name][0]:.2f} | {measured[name][1]:.3f} | "
        f"{measured[f'{name}_range'][0]:.0f} to {measured[f'{name}_range'][1]:.0f} | "
        f"{measured[f'{name}_range_of_pictures'][0]:.0f} to "
        f"{measured[f'{name}_range_of_pictures'][1]:.0f} |"
        for name in ("yaw", "pitch", "roll")
    )
    card = f"""# faces64t: StyleGAN3 and its encoder

Made by `make models` ({trainer.step} steps of {BATCH} images, on one CPU core, seed {SEED}) from
{len(material.w):,} pictures of the built-in face rig (seed {TRAIN_SEED}, every picture its own
person). Evaluated on {PERSONS:,} pictures of other persons (seed {VALIDATION_SEED}). Licence
{LICENCE}; no photograph of a person was used.

- `generator.safetensors`: StyleGAN3, configuration T, 64 px, z and w of {W_DIM}, w_plus
  {config.num_ws} x {W_DIM}, {sum(p.numel() for p in trainer.g_ema.parameters()):,} parameters.
  Layers (channels x samples, margins included): {widths}.
  No clamp. Fingerprint `{fingerprint}`.
- `encoder.safetensors`: images into w (w_plus repeats it).

Its w is what the encoder of `bundled:faces64` sees: the first {W_DIM} principal components of its
w_plus, turned by a random rotation. Synthesis learnt by plain **regression** (no adversary) to
draw each picture from its w, errors weighted on eyes, brows, nose and mouth. The mapping network is
fitted so that mapping(z) has the distribution of these w (energy distance {distance:.4f}).
Exponential moving averages of the weights are kept.

| reconstruction of persons not seen, from w | median | 5 % quantile |
|---|---|---|
| PSNR | {measured["psnr"][0]:.2f} dB | {measured["psnr"][1]:.2f} dB |
| SSIM | {measured["ssim"][0]:.3f} | {measured["ssim"][1]:.3f} |

| landmarks (`bundled:faces64/landmarks`, against the truth) | mean | 95 % quantile of pictures |
|---|---|---|
| of reconstructions | {measured["landmarks"][0]:.2f} px | {measured["landmarks"][1]:.2f} px |
| of the pictures themselves | {measured["landmarks_of_pictures"][0]:.2f} px | {
        measured["landmarks_of_pictures"][1]:.2f} px |

Degrees: mean error of reconstructions (`bundled:faces64/pose`, against the truth), share of the
variance that a linear function of w tells (fitted on one half of the persons, measured on the
other), and what 90 % of draws from z, and of pictures, lie between.

| | error | told by w | draws | pictures |
|---|---|---|---|---|
{angles}

Known limits: it draws rig faces only. Its training saw a thirtieth of the pictures that
`bundled:faces64` saw: eyes, mouths and glasses are soft, and how well expressions come out was not
measured. Draws from z turn less far than pictures do. `make models` goes on where it ended when
`--stylegan3-steps` is raised.
"""
    (out / "generator.md").write_text(card)
