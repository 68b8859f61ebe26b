"""Write the trained models into the package, each with a card that says what it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from generators import save_safetensors
from generators.encoders.load import save_encoder
from generators.families.stylegan2.adapter import StyleGAN2Adapter
from pipelines.training.data import TRAIN_SEED, VALIDATION_SEED, rendered
from pipelines.training.gan import BATCH, STAGES, STRUCTURE_FROM, Trainer, load_pair

BUNDLED = Path(__file__).parents[2] / "generators" / "bundled" / "faces64"
LICENCE = "Apache-2.0"


def write_bundle(work: Path, out: Path) -> None:
    """Generator, encoder and annotators from `work` into `out`, with cards in Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    trainer = load_pair(work)
    held_out = rendered(work / "data", VALIDATION_SEED, 2000)["images"]
    quality = _reconstruction(trainer, held_out)
    fitted = torch.load(work / "mapping.pt", weights_only=True)
    trainer.g_ema.mapping.load_state_dict(fitted["mapping"])
    _set_w_avg(trainer)
    adapter = StyleGAN2Adapter(trainer.g_ema)
    save_safetensors(adapter, out / "generator.safetensors")
    save_encoder(trainer.e_ema, out / "encoder.safetensors", licence=LICENCE)
    for name in ("attributes", "landmarks", "pose"):
        for suffix in (".onnx", ".json"):
            shutil.copyfile(work / f"{name}{suffix}", out / f"{name}{suffix}")
    measured = json.loads((work / "annotators.json").read_text())
    rows = [json.loads(line) for line in (work / "gan.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["step"] == trainer.step][-1]  # of the pair that is written
    _write_cards(out, trainer, adapter.fingerprint, quality, measured, last, fitted)


def _set_w_avg(trainer: Trainer) -> None:
    """The mean of w over 10,000 draws, instead of the running average of training."""
    with torch.no_grad():
        z = torch.randn(10_000, 64, generator=torch.Generator().manual_seed(0))
        trainer.g_ema.mapping.w_avg.copy_(trainer.g_ema.mapping(z).mean(dim=0))


def _reconstruction(trainer: Trainer, images: np.ndarray) -> dict[str, float]:
    """Median and 5 % quantile of PSNR and SSIM over held-out persons."""
    p, s = trainer.quality(np.ascontiguousarray(images))
    return {
        "psnr_median": float(np.median(p)),
        "psnr_q05": float(np.quantile(p, 0.05)),
        "ssim_median": float(np.median(s)),
        "ssim_q05": float(np.quantile(s, 0.05)),
    }


def _write_cards(
    out: Path,
    trainer: Trainer,
    fingerprint: str,
    quality: dict[str, float],
    measured: dict,
    last: dict,
    fitted: dict,
) -> None:
    made = (
        f"Made by `make models` ({trainer.step} steps of {BATCH} images on two CPU cores) from "
        f"{measured['training_images']:,} pictures of the built-in face rig (seed {TRAIN_SEED}, "
        "every picture its own person). Evaluated on 2,000 pictures of other persons (seed "
        f"{VALIDATION_SEED}). Licence {LICENCE}; no photograph of a person was used."
    )
    stages = ", ".join(f"{name} ({steps} steps)" for name, (steps, _) in STAGES.items())
    size = sum(p.numel() for p in trainer.g_ema.parameters())
    card = f"""# faces64: generator and encoder

{made}

- `generator.safetensors`: StyleGAN2, skip architecture, 64 px, z and w of 64, w_plus 10 x 64,
  {size:,} parameters. Fingerprint `{fingerprint}`.
- `encoder.safetensors`: strided convolutions into w_plus,
  {sum(p.numel() for p in trainer.e_ema.parameters()):,} parameters.

Training is **adversarial and reconstruction jointly**, then by stages (`make models`):

1. joint: generator and encoder learn to reconstruct (squared, absolute and gradient error; from
   step {STRUCTURE_FROM} also SSIM); in the last third the generator's samples are also trained
   against an image discriminator (non-saturating loss, lazy R1). Seed 7.
2. {stages}:
   errors weighted on eyes, brows, nose and mouth; a linear layer must read landmarks and
   attributes from the codes (the rig's truth guides the encoder); from "expressions" on also the
   differences that the annotators' convolutional trunk sees (perceptual loss); in "pairs" every
   picture has a second one that shows one expression more strongly, and the codes of the second
   must be the first's plus one move that all faces share, so that expressions add up. Seed 19.
3. mapping: fitted so that mapping(z) has the distribution of the encoder's w (energy distance
   {fitted["distance"]:.4f}, seed 13).

The rig's expressions were made stronger, and blends of two were added, before "expressions"; faces
got their expressions' colours and yaw up to 50 degrees before "longer"; fear, pale about the mouth
until then, turned it blue before "recoloured", the nose before "recoloured_again", and the whole
face pale before "pale". Earlier stages saw the rig as it was. Exponential moving averages of the
weights are kept.

| reconstruction of persons not seen | median | 5 % quantile |
|---|---|---|
| PSNR | {quality["psnr_median"]:.2f} dB | {quality["psnr_q05"]:.2f} dB |
| SSIM | {quality["ssim_median"]:.3f} | {quality["ssim_q05"]:.3f} |

Known limits: it draws rig faces only, and softens what is a pixel or two wide; a photograph is
reconstructed as the nearest rig face.
Samples from z are less varied than the training set. Last training losses: {json.dumps(last)}.
"""
    (out / "generator.md").write_text(card)
    rows = []
    for name, value in measured["pictures"].items():
        rows.append(f"| {name} | {value:.3f} | {measured['reconstructions'][name]:.3f} |")
    card = f"""# faces64: attributes, landmarks, pose

{made.replace(f"{trainer.step} steps of {BATCH} images", f"{measured['steps']} steps of 32 images")}

One convolutional trunk with three heads, exported as three ONNX files (opset 17), each with a JSON
description of its input and outputs. Trained on pictures first, then on those and as many with one
expression more, half of each batch drawn through encoder and generator, so that renders are
measured as well as pictures. Seed {measured["seed"]}.

- `attributes.onnx`: probabilities of six expressions (twice the estimated intensity, at most 1: an
  expression counts as shown from half its full intensity on), glasses, beard, long hair,
  old (age factor above 0.6).
- `landmarks.onnx`: 68 points in iBUG order, pixels of the 64 px input.
- `pose.onnx`: yaw, pitch, roll in degrees; yaw above 0 turns to the image's right.

| held-out measure | pictures | reconstructions |
|---|---|---|
{chr(10).join(rows)}
"""
    (out / "annotators.md").write_text(card)
