"""Faces from their lines alone: an encoder of sketches, trained and measured on the face rig.

``python -m benchmarks.sketches [--work runs/sketches] [--steps 1200]`` renders faces, trains an
encoder of architecture ``sketch`` for the bundled StyleGAN2 by ``latentflow train-encoder`` (three
quarters of each batch are rendered faces), and draws 200 faces that it has not seen from their
lines. Peers are the mean code, which knows nothing, and the bundled encoder, which is shown the
pictures. Medians: PSNR (dB), SSIM, LPIPS*, and the distance of landmarks in pixels.

``ratio`` is the mean code's distance of landmarks / ours; ``latency_ms`` what `latentflow answer`
takes for a frame, on one thread; ``sketches.jpg`` in the folder shows faces, lines and what is
drawn. ``--smoke`` makes two steps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from benchmarks.projector import rig_faces
from generators.annotators import load_annotator
from generators.encoders import load_encoder
from generators.encoders.sketch.network import lines_of
from generators.perceptual import load_perceptual
from generators.protocols import Code
from pipelines.downstream.frames import Answering, answer_frames
from pipelines.encoder_training.train import train_encoder
from pipelines.engine.interruption import Interruption
from schemas.sections.perceptual import OWN
from schemas.spec import RunSpec, parse_spec
from transforms.images import metrics
from transforms.images.preprocess import to_uint8

MODEL, SPACE = "bundled:faces64", "w_plus"
TRAINED, MEASURED, SHOWN = 4000, 200, 8


def main() -> int:
    """Parse the arguments and run; the exit code is 1 when lines tell no more than nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="two steps, seconds")
    parser.add_argument("--work", type=Path, default=Path("runs/sketches"), help="a folder")
    parser.add_argument("--steps", type=int, default=1200, help="of the training (default 1200)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="sketches-") as temporary:
        work = Path(temporary) if options.smoke else options.work.absolute()
        n, rows, steps = (8, 4, 2) if options.smoke else (TRAINED, MEASURED, options.steps)
        spec = specification(work, n, steps)
        with Interruption() as stop:
            train_encoder(spec, Console(stderr=True), stop)
        result = measured(spec, work, rows)
    print(json.dumps(result))
    return int(bool(result["error"]) and not options.smoke)


def specification(work: Path, n: int, steps: int) -> RunSpec:
    """What is trained, with its pictures, which are rendered where they are missing."""
    folder = work / "faces"
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, n, 500):
        count = min(500, n - first)
        paths = [folder / f"{first + k:05}.png" for k in range(count)]
        if all(path.exists() for path in paths):
            continue
        faces = to_uint8(rig_faces(count, MEASURED + first).numpy())
        for path, face in zip(paths, faces, strict=True):
            Image.fromarray(face).save(path)
    document = {
        "name": "sketches",
        "dataset": {"path": "faces"},
        "generator": MODEL,
        "encoder": "trained",
        "output": "run",
        "train_encoder": {
            "architecture": {"name": "sketch"},
            "objective": {
                "name": "reconstruction", "perceptual_weight": 0.125, "mean_weight": 0.01,
            },
            "steps": steps,
            "real": 0.75,
            "threads": 1,
            "held_out": 4 if n < TRAINED else 500,
        },
    }  # fmt: skip
    return parse_spec(json.dumps(document), work)


@torch.no_grad()
def measured(spec: RunSpec, work: Path, rows: int) -> dict[str, Any]:
    """The figures of faces that were not trained on; prints them as a table."""
    faces = rig_faces(rows)
    answering = Answering(spec)
    generator, wanted = answering.generator, to_uint8(faces.numpy())
    landmarks = load_annotator(f"{MODEL}/landmarks")
    perceptual, points = load_perceptual(OWN), landmarks.annotate(wanted)
    codes = {
        "mean code": generator.centre(SPACE).expand(rows, -1, -1).contiguous(),
        "lines": answering.encoder.encode(lines_of(faces)),
        "picture": load_encoder(MODEL).encode(faces),
    }
    told: dict[str, dict[str, float]] = {}
    drawn: dict[str, NDArray[np.uint8]] = {}
    print(f"{'':12}{'PSNR':>8}{'SSIM':>8}{'LPIPS*':>8}{'px':>8}")
    for name, code in codes.items():
        drawn[name] = to_uint8(generator.draw(Code(SPACE, code)).numpy())
        apart = np.linalg.norm(landmarks.annotate(drawn[name]) - points, axis=2).mean(axis=1)
        each = {
            "psnr": metrics.psnr(wanted, drawn[name]),
            "ssim": metrics.ssim(wanted, drawn[name]),
            "lpips_star": perceptual(wanted, drawn[name]),
            "landmarks_px": apart,
        }
        told[name] = {key: float(np.median(values)) for key, values in each.items()}
        print(f"{name:12}" + "".join(f"{value:8.3f}" for value in told[name].values()))
    seen = to_uint8(lines_of(faces).numpy())
    shown = [np.concatenate(list(part[:SHOWN]), 1) for part in (wanted, seen, drawn["lines"])]
    Image.fromarray(np.concatenate(shown)).save(work / "sketches.jpg", quality=92)
    folder = work / "frames"
    folder.mkdir(exist_ok=True)
    for k, lines in enumerate(seen):
        Image.fromarray(lines).save(folder / f"{k:04}.png")
    seconds = answer_frames(answering, sorted(folder.iterdir()), work / "answers", lambda _: None)
    middle, late = (float(v) for v in np.quantile(seconds[1:], [0.5, 0.95]) * 1e3)
    ratio = told["mean code"]["landmarks_px"] / told["lines"]["landmarks_px"]
    return {
        "name": "sketches",
        "n": rows,
        "figures": told,
        "latency_ms": {"median": round(middle, 2), "p95": round(late, 2)},
        "ratio": round(ratio, 2),
        "error": int(ratio <= 1),
    }


if __name__ == "__main__":
    raise SystemExit(main())
