"""Tables III to V of Yu and Wang (2021), "Diverse Similarity Encoder", on the rig's generator.

``python -m benchmarks.paper_002 --work DIR [--minutes M] [--steps N] [--batch B]`` trains the
encoders of `benchmarks._dse_training` on pictures that "bundled:faces64" draws, each variant and
seed with equal steps from equal weights, and measures them; what is done already in DIR is not done
again, so a run that was ended goes on. Nothing is chosen by what is measured on.

y : faces of the rig, of persons that neither the generator nor an encoder saw. x : what the
generator draws from their codes by the bundled encoder. MSE is of values in [-1, 1], times 100, as
the paper prints it. CS is the cosine of a picture and its reconstruction, as vectors of values in
[-1, 1]. LPIPS* and FID* are by the project's own feature network and stand beside no printed
figure; identity is by `benchmarks._persons`. Rows that do not exist here (ALAE, In-Domain's own
encoder) are left out; that of pSp is the bundled encoder, which was trained longer, and on faces.

Beside the tables, the encoder by all terms against that by the pixels' MSE alone, on y: SSIM, CS
and identity are to be better and PSNR at most 0.3 dB worse, for each seed, after 3/7 of the steps
and all; once with the printed weights, and once ("scaled") with that of LPIPS divided by how much
larger LPIPS* is (`benchmarks._dse_training.LPIPS_STAR`). ``error`` counts where they are not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import generators
from benchmarks._dse_training import MODEL, Size, codes_of_faces, file_of, train
from benchmarks._persons import Persons
from generators.annotators import load_annotator
from generators.encoders import load_encoder
from generators.facerig import random_faces, render
from generators.perceptual import load_perceptual
from generators.similarity.attentions import CentreCrops
from schemas.atomic import read_json, write_json
from schemas.sections.invert import invert_section
from transforms.accumulate.moments import Moments
from transforms.generator_metrics.frechet import frechet_distance
from transforms.images import metrics
from transforms.images.preprocess import to_float, to_uint8
from transforms.inversion.catalog import invert_batch
from transforms.inversion.method import Images, row_generator
from transforms.inversion.method import render as drawn_from

FEATURES = "bundled:features64/features"
FACES = 4004
"""Seed of the persons that are measured on."""
BATCH = 50
LEAST_PSNR = -0.3
WORK = Path("runs/paper_002")
COLUMNS = {
    "III": ("PSNR", "SSIM", "MSE e2", "LPIPS*", "CS", "identity"),
    "IV": ("PSNR", "SSIM", "LPIPS*", "FID*"),
    "V": ("PSNR", "SSIM", "LPIPS*", "FID*"),
    "figure": ("PSNR", "SSIM", "MSE e2", "LPIPS*", "CS", "identity"),
}
COMPARED = ("DSE", "DSE scaled", "MSE only")
ABLATIONS = ("w/o AT", "w/ AT1", "w/o SSIM")

Figures = dict[str, float]
Row = tuple[str, str, str, Callable[[str], Figures]]


def main() -> int:
    """Parse the arguments, train and measure; the exit code is 1 where the claim does not hold, 3
    where time ran out first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=600.0, help="to stop after (default 600)")
    parser.add_argument("--steps", type=int, default=1000, help="of a training (default 1000)")
    parser.add_argument("--batch", type=int, default=8, help="pictures a step (default 8)")
    parser.add_argument("--seeds", type=int, default=3, help="of DSE and MSE only (default 3)")
    parser.add_argument("--rows", type=int, default=500, help="pictures of x and y (default 500)")
    parser.add_argument(
        "--tuned", type=int, default=60, help="of y that methods with steps invert (default 60)"
    )
    parser.add_argument("--tuning-steps", type=int, default=100, help="of those (default 100)")
    parser.add_argument("--smoke", action="store_true", help="two steps, a few pictures")
    options = parser.parse_args()
    size = Size(options.steps, options.batch)
    if options.smoke:
        options.rows, options.tuned, options.tuning_steps, options.seeds = 6, 1, 1, 1
        size = Size(steps=2, batch=2, faces=4, width=(2, 4))
    with tempfile.TemporaryDirectory(prefix="paper-002-") as own:
        if options.smoke and options.work == WORK:
            options.work = Path(own)
        options.work.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + 60 * options.minutes
        bench = Bench(options, size, lambda: end - time.monotonic())
        complete = bench.run()
        failed = bench.report()
    result = {
        "name": "paper_002",
        "error": len(failed),
        "failed": failed,
        "complete": complete,
        "steps": size.steps,
        "batch": size.batch,
        "rows": options.rows,
        "tables": bench.found,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))
    return (0 if options.smoke or not failed else 1) if complete else 3


class Bench:
    """Models, pictures and what was measured, which is kept in ``figures-*.json``."""

    def __init__(self, options: argparse.Namespace, size: Size, left: Callable[[], float]) -> None:
        self.options, self.size, self.left = options, size, left
        self.generator = generators.load(MODEL)
        self.perceptual = load_perceptual(FEATURES)
        self._features = load_annotator(FEATURES)
        self._persons = Persons(*((24, 6) if options.smoke else ()))
        self._kept = options.work / f"figures-{size.steps}-{options.rows}-{options.tuned}.json"
        self.found: dict[str, dict[str, Figures]] = read_json(self._kept)
        self.codes = codes_of_faces(options.work, size.faces)
        self.y = render(random_faces(options.rows, FACES), 64).images
        self.x = self.inverted(self.y, MODEL)

    def run(self) -> bool:
        """Train and measure what is missing; whether all is done. What cannot be trained in time
        has no rows."""
        seeds = range(self.options.seeds)
        order = [(variant, seed) for seed in seeds for variant in COMPARED]
        order += [(variant, 0) for variant in ABLATIONS]
        complete = True
        for variant, seed in order:
            complete &= self._train(variant, seed)
        for table, row, encoder, measure in self._tables():
            if row in self.found.get(table, {}):
                continue
            if encoder != MODEL and not Path(encoder).exists():
                continue
            started = time.monotonic()
            self.found.setdefault(table, {})[row] = measure(encoder)
            write_json(self._kept, self.found)
            print(f"table {table}, {row}: {time.monotonic() - started:.1f} s", flush=True)
        return complete

    def _train(self, variant: str, seed: int) -> bool:
        started = time.monotonic()
        done = train(
            *(self.options.work, self.generator, self.perceptual, self.codes),
            *(variant, seed, self.size, self.left),
        )
        print(f"{variant}, seed {seed}: {time.monotonic() - started:.1f} s", flush=True)
        return done

    def _tables(self) -> list[Row]:
        figure = self._figure(range(self.options.seeds))
        return [*self._table_3(), *self._table_4(), *self._table_5(), *figure]

    # ---- rows: table, name, the encoder's file, what is measured of it

    def _table_3(self) -> list[Row]:
        few = self.y[: self.options.tuned]
        steps = self.options.tuning_steps
        dse = self._file("DSE", 0)
        rows: list[tuple[str, np.ndarray, str, dict[str, Any]]] = [
            ("x: pSp (w_plus_encoder)", self.x, MODEL, {}),
            ("x: DSE", self.x, dse, {}),
            ("y: pSp (w_plus_encoder)", few, MODEL, {}),
            ("y: In-domain (W)", few, dse, {"method": "in_domain", "steps": steps}),
            ("y: DSE", few, dse, {}),
            ("y: DSE (E)", few, dse, {"method": "encoder_tuning", "steps": steps}),
        ]
        return [
            ("III", name, encoder, lambda e, i=images, k=keys: self._measured(i, e, **k))
            for name, images, encoder, keys in rows
        ]

    def _table_4(self) -> list[Row]:
        def row(encoder: str, scale: int) -> Figures:
            drawn = self.inverted(self.x, encoder)
            return self.figures(scaled(self.x, scale), scaled(drawn, scale), COLUMNS["IV"])

        names = {"w/o AT": "w/o AT", "w/ AT1": "w/ AT1", "DSE": "w/ (AT1, AT2)"}
        return [
            ("IV", f"x'{scale or ''} {shown}", self._file(v, 0), lambda e, s=scale: row(e, s))
            for scale in (0, 1, 2)
            for v, shown in names.items()
        ]

    def _table_5(self) -> list[Row]:
        def row(encoder: str) -> Figures:
            return self.figures(self.y, self.inverted(self.y, encoder), COLUMNS["V"])

        names = {"w/o SSIM": "w/o SSIM", "DSE": "w/ SSIM"}
        return [
            ("V", f"{mark} iterations, {shown}", self._file(variant, 0, mark), row)
            for mark in self.size.marks
            for variant, shown in names.items()
        ]

    def _figure(self, seeds: Sequence[int]) -> list[Row]:
        return [
            (
                "figure",
                f"y: {variant}, seed {seed}, {mark}",
                self._file(variant, seed, mark),
                lambda e: self._measured(self.y, e),
            )
            for mark in self.size.marks
            for seed in seeds
            for variant in COMPARED
        ]

    # ---- figures

    def _file(self, variant: str, seed: int, mark: int | None = None) -> str:
        step = self.size.steps if mark is None else mark
        return str(file_of(self.options.work, variant, seed, step))

    def inverted(self, images: np.ndarray, encoder: str, **keys: Any) -> np.ndarray:
        """What is drawn from the codes that a method finds, uint8 like `images`."""
        settings = invert_section({"method": "encoder", **keys})
        settings = settings.into(self.generator.facts.default_space)
        loaded = load_encoder(encoder)
        compared = self.perceptual if settings.compared_by is not None else None
        parts = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            rngs = []
            if settings.needs.random:
                rngs = [row_generator(0, 1, f"{start + i:064x}") for i in range(len(part))]
            pixels = torch.from_numpy(to_float(part))
            given = Images(pixels, self.generator, settings, loaded, rngs, compared)
            code = invert_batch(given).code
            parts.append(to_uint8(drawn_from(self.generator, code).numpy()))
        return np.concatenate(parts)

    def _measured(self, images: np.ndarray, encoder: str, **keys: Any) -> Figures:
        started = time.monotonic()
        drawn = self.inverted(images, encoder, **keys)
        seconds = (time.monotonic() - started) / len(images)
        return {**self.figures(images, drawn, COLUMNS["III"]), "s/image": round(seconds, 4)}

    def figures(self, images: np.ndarray, drawn: np.ndarray, names: Sequence[str]) -> Figures:
        """Means over pictures; of FID* the distance of both sets."""
        measures: dict[str, Callable[[], Any]] = {
            "PSNR": lambda: metrics.psnr(images, drawn),
            "SSIM": lambda: metrics.ssim(images, drawn),
            "MSE e2": lambda: 400 * metrics.mse(images, drawn),
            "LPIPS*": lambda: self.perceptual(images, drawn),
            "CS": lambda: cosines(images, drawn),
            "identity": lambda: self._persons.cosine(images, drawn),
            "FID*": lambda: frechet_distance(*map(self._moments, (images, drawn))),
        }
        return {name: round(float(np.mean(measures[name]())), 5) for name in names}

    def _moments(self, images: np.ndarray) -> Moments:
        return Moments.of(self._features.annotate(images).astype(np.float64))

    # ---- what is printed

    def report(self) -> list[str]:
        """Print the tables that there are; what of the claim does not hold."""
        for table in COLUMNS:
            names = [*COLUMNS[table], *(["s/image"] if table in ("III", "figure") else [])]
            title = "DSE against MSE only" if table == "figure" else f"Table {table}"
            print(f"\n{title:<32}" + "".join(f"{name:>10}" for name in names))
            for of, row, *_ in self._tables():
                if of == table and row in self.found.get(table, {}):
                    values = self.found[table][row]
                    print(f"{row:<32}" + "".join(f"{values[name]:>10.4f}" for name in names))
        failed = []
        rows = self.found.get("figure", {})
        for mark, seed in itertools.product(self.size.marks, range(self.options.seeds)):
            after = f"seed {seed}, {mark}"
            plain = rows.get(f"y: MSE only, {after}")
            for variant in COMPARED[:-1]:
                found = rows.get(f"y: {variant}, {after}")
                if found is None or plain is None:
                    continue
                for name in ("SSIM", "CS", "identity", "PSNR"):
                    gain = found[name] - plain[name]
                    if gain < LEAST_PSNR if name == "PSNR" else gain <= 0:
                        failed.append(f"{variant}, {after}: {name} {gain:+.4f}")
        area = self._persons.area(*((12, 3) if self.options.smoke else ()))
        print(f"\nidentity: area under the ROC {area:.3f}; does not hold: {failed or 'nothing'}")
        return failed


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each pair of pictures as vectors of values in [-1, 1]."""
    x, y = (to_float(part).reshape(len(part), -1).astype(np.float64) for part in (a, b))
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    found: np.ndarray = (x * y).sum(axis=1) / np.maximum(lengths, 1e-12)
    return found


def scaled(images: np.ndarray, scale: int) -> np.ndarray:
    """The pictures, or one of their two centre crops in their own size."""
    if scale == 0:
        return images
    return to_uint8(CentreCrops()(torch.from_numpy(to_float(images)))[scale - 1].numpy())


if __name__ == "__main__":
    sys.exit(main())
