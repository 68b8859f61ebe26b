"""An encoder for a generator that others made, by ``latentflow train-encoder``.

``python -m benchmarks.train_encoder [--out runs/train_encoder] [--minutes 20] [--threads 2]``
trains an encoder of the DCGAN of ``make real`` (``latentflow obtain gan_face_generate``; 64 px, z
of 100) with the defaults, and measures it on samples that it was not trained on: PSNR, R2 of every
coordinate of z. A training that was ended goes on. ``--smoke`` makes two steps for the bundled
StyleGAN2.

``ours_s`` are the seconds of a step, in this call, times all steps; ``cpu_s`` the processor's.
``ratio`` is the error of the mean code's picture over that of the encoder's, as 10^(gain / 10) of
their PSNRs; ``error`` is 1 where an encoder is no better than that.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.encoder_training import trainer
from pipelines.encoder_training.folder import TrainingFolder
from pipelines.encoder_training.measure import BASELINE
from pipelines.encoder_training.train import train_encoder
from pipelines.engine.interruption import Interruption
from pipelines.engine.memory import PeakMemory
from schemas.spec import RunSpec, parse_spec

GENERATOR = "obtained:gan_face_generate"


def specification(out: Path, smoke: bool, minutes: float, threads: int) -> RunSpec:
    """What is trained."""
    train: dict[str, Any] = {"minutes": minutes, "threads": threads, "held_out": 500}
    if smoke:
        train = {"steps": 2, "batch_size": 2, "held_out": 4, "threads": threads}
        train["architecture"] = {"name": "convolutional", "channels": 4, "features": 16}
    document = {
        "name": "gan_face_generate",
        "dataset": {"kind": "sampled", "n": 1},
        "generator": "bundled:faces64" if smoke else GENERATOR,
        "encoder": "trained",
        "train_encoder": train,
        "output": str(out),
    }
    return parse_spec(json.dumps(document), out)


class Clock:
    """Seconds, of the wall and of the processor, of the steps that are made meanwhile."""

    def __init__(self) -> None:
        self.steps, self.wall, self.cpu = 0, 0.0, 0.0

    def __enter__(self) -> Clock:
        self._advance = advance = trainer.Trainer.advance

        def timed(training: trainer.Trainer) -> dict[str, float]:
            wall, cpu = time.monotonic(), time.process_time()
            found = advance(training)
            self.steps += 1
            self.wall += time.monotonic() - wall
            self.cpu += time.process_time() - cpu
            return found

        trainer.Trainer.advance = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *about: object) -> None:
        trainer.Trainer.advance = self._advance  # type: ignore[method-assign]


def main() -> int:
    """Train, measure, print; the exit code is 1 when the encoder is no better than the mean."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="two steps, seconds")
    parser.add_argument("--out", type=Path, default=Path("runs/train_encoder"))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="train-encoder-") as temporary:
        out = Path(temporary) if options.smoke else options.out.absolute()
        spec = specification(out, options.smoke, options.minutes, options.threads)
        with PeakMemory() as memory, Clock() as clock, Interruption() as stop:
            train_encoder(spec, Console(stderr=True), stop)
        report = json.loads(TrainingFolder.of(spec).report.read_text())
    found, steps = report["held_out"], report["training"]["steps"]
    per_step = 1 / max(1, clock.steps)
    gain = found["psnr"]["median"] - found[BASELINE]["median"]
    result = {
        "name": "train_encoder",
        "ours_s": round(clock.wall * per_step * steps, 1),
        "cpu_s": round(clock.cpu * per_step * steps, 1),
        "steps": steps,
        "timed_steps": clock.steps,
        "psnr": round(found["psnr"]["median"], 2),
        "psnr_of_mean_code": round(found[BASELINE]["median"], 2),
        "ssim": round(found.get("ssim", {}).get("median", 0.0), 4),
        "lpips_star": round(found["lpips_star"]["median"], 4),
        "cosine": round(found["cosine"]["median"], 4),
        "r2": {key: found["r2"][key] for key in ("median", "mean", "worst", "best", "above_0.5")},
        "held_out": found["n"],
        "ratio": round(10 ** (gain / 10), 3),
        "peak_mb": round(memory.peak / 1e6),
        "error": int(gain <= 0),
        "cores": os.cpu_count(),
        "threads": options.threads,
    }
    print(json.dumps(result))
    return 0 if options.smoke else int(gain <= 0)


if __name__ == "__main__":
    raise SystemExit(main())
