"""Which directions survive a change of the model: the call against a held-out measurement.

``python -m benchmarks.drift [--smoke] [--out DIR]`` takes the bundled generator and encoder and
makes changed copies of them: fine-tuned on further faces for a few steps (encoder and generator),
fine-tuned towards mirrored faces for ever more steps (generator alone), damaged by noise on the
weights, and one whose latent space is turned by a random rotation, which draws the same pictures.
Directions are fitted on the old model's codes of rig faces and again on each copy's.

The call (`pipelines.compare.trial.compare`) sees half of a few samples. The truth is the same rule
on many samples of other persons, whose codes nothing else has seen. ``error`` is the share of wrong
calls. Two simpler calls stand beside it: that every direction survives, and that those survive
whose cosine with the new direction is at least 0.5.

``ours_s`` is the time of the calls and ``peer_s`` that of the held-out measurements that they stand
for. ``--out`` keeps a page for every copy. The exit code is 1 when fewer than 80 % of the calls
are right (not for the smoke test, whose few samples decide nothing).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import generators
from generators.annotators import load_annotator
from generators.encoders.load import load_encoder
from generators.facerig import random_faces, render
from generators.families.stylegan2.adapter import StyleGAN2Adapter
from pipelines.compare.diff import spaces_facts, summarise, write_diff
from pipelines.compare.trial import SURVIVES, Rule, Side, compare, on_trial
from pipelines.engine.memory import PeakMemory
from pipelines.evaluation.meter import Meter, Sweep
from pipelines.evaluation.samples import Samples
from pipelines.evaluation.strips import edit_images
from schemas.directions.direction_set import DirectionSet, unit_direction
from transforms.accumulate.moments import Moments
from transforms.directions.mean_difference import fit_regressions, mean_differences
from transforms.drift.latent_maps import MapChoice, choose_map
from transforms.drift.verdict import judge
from transforms.pca.fit import fit_pca

MODEL = "bundled:faces64"
SPACE = "w_plus"
SEED = 31
RIGHT = 0.8
COSINE = 0.5


@dataclass(frozen=True)
class Size:
    """fit, samples, truth : faces. tuned, mirrored : steps of training of each copy; noise : shares
    of a weight's standard deviation."""

    fit: int = 600
    samples: int = 64
    truth: int = 100
    components: int = 3
    tuned: tuple[int, ...] = (10, 60)
    mirrored: tuple[int, ...] = (20, 80, 240)
    noise: tuple[float, ...] = (0.1, 0.3, 1.0)
    batch: int = 16
    attributes: tuple[str, ...] | None = None


SMOKE = Size(32, 8, 8, 0, (), (1,), (), 4, ("glasses", "happiness"))


@dataclass(frozen=True, eq=False)
class Model:
    """A generator with the encoder that belongs to it, and how much was done to it.

    turn : float64 (w_dim, w_dim), applied to the encoder's codes, where the space was rotated
    """

    name: str
    generator: StyleGAN2Adapter
    encoder: Any
    turn: np.ndarray | None = None

    def codes(self, images: np.ndarray) -> np.ndarray:
        """Codes float32 (n, layers, w_dim) of images uint8 (n, R, R, 3)."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), 50):
                parts.append(self.encoder.encode(pixels(images[start : start + 50])).numpy())
        codes = np.concatenate(parts)
        return codes if self.turn is None else (codes @ self.turn.T).astype(np.float32)


@dataclass(eq=False)
class Tally:
    """Right calls of the three ways, over directions and copies."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def accuracy(self, call: str) -> float:
        """Share of directions whose call agrees with the truth."""
        return float(np.mean([row[call] == row["truth"] for row in self.rows]))


def pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, R, R, 3) as float32 NCHW in [-1, 1]."""
    return torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1.0)


def faces(n: int, first: int) -> np.ndarray:
    """Pictures uint8 (n, 64, 64, 3) of rig faces, each of its own person."""
    return render(random_faces(n, SEED, first=first), 64).images


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one copy, few faces")
    parser.add_argument("--out", type=Path, default=None, help="folder for a page of every copy")
    options = parser.parse_args()
    size = SMOKE if options.smoke else Size()
    with PeakMemory() as memory:
        result = measure(size, options.out)
    result["peak_mb"] = round(memory.peak / 1e6)
    print_rows(result)
    print(json.dumps(result))
    return int(not options.smoke and result["accuracy"] < RIGHT)


def measure(size: Size, out: Path | None) -> dict[str, Any]:
    """All copies: calls, truth, times."""
    pictures = {
        "fit": faces(size.fit, 0),
        "samples": faces(size.samples, 100_000),
        "truth": faces(size.truth, 200_000),
    }
    base = Model("old", generators.load(MODEL), load_encoder(MODEL))
    annotators = [load_annotator(f"{MODEL}/{name}", name) for name in ("attributes", "pose")]
    old = fitted(base, pictures, annotators, size)
    tally, rows = Tally(), []
    call_s = truth_s = 0.0
    for model in copies(base, pictures["fit"], size):
        new = fitted(model, pictures, annotators, size)
        started = time.perf_counter()
        choice = linked(old["fit"], new["fit"])
        sides = [
            Side(s["directions"], Samples(SPACE, s["samples"]), s["meter"]) for s in (old, new)
        ]
        rule = Rule()
        found = compare(*sides, choice.chosen, rule, strip_rows=3 if out else 1)
        call_s += time.perf_counter() - started
        started = time.perf_counter()
        truth = [truth_of(entry, old, new, rule) for entry in found.entries]
        truth_s += time.perf_counter() - started
        mine = [
            {
                "copy": model.name,
                "direction": entry["name"],
                "truth": survived,
                "ours": entry["verdict"] == SURVIVES,
                "all": True,
                "cosine": entry.get("cosine", 0.0) >= COSINE,
                "share": entry.get("share"),
                "true_share": share,
            }
            for entry, (survived, share) in zip(found.entries, truth, strict=True)
        ]
        tally.rows += mine
        rows.append(summary_of(model.name, mine, choice))
        if out is not None:
            facts = [side_facts(m.name, s) for m, s in ((base, old), (model, new))]
            spaces = spaces_facts(choice, "", size.fit)
            page = summarise((facts[0], facts[1]), (sides[0], sides[1]), spaces, rule,
                             "rig faces", found)  # fmt: skip
            write_diff(page, found.strips, out / model.name)
    return {
        "name": "drift",
        "ours_s": round(call_s, 2),
        "peer_s": round(truth_s, 2),
        "ratio": round(truth_s / call_s, 3),
        "error": round(1.0 - tally.accuracy("ours"), 4),
        "accuracy": round(tally.accuracy("ours"), 4),
        "accuracy_all_survive": round(tally.accuracy("all"), 4),
        "accuracy_cosine": round(tally.accuracy("cosine"), 4),
        "calls": len(tally.rows),
        "survived": sum(row["truth"] for row in tally.rows),
        "evidence": (size.samples + 1) // 2,
        "held_out": size.truth,
        "rows": rows,
        "wrong": [row for row in tally.rows if row["ours"] != row["truth"]],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


# ---------------------------------------------------------------------------------------------
# Copies


def copies(base: Model, images: np.ndarray, size: Size) -> Iterator[Model]:
    """The changed models, one after the other."""
    for steps in size.tuned:
        yield trained(base, f"tuned-{steps}", images, images, steps, size.batch, encoder=True)
    for steps in size.mirrored:
        yield trained(base, f"mirrored-{steps}", images, images[:, :, ::-1], steps, size.batch)
    for level in size.noise:
        yield damaged(base, level)
    yield rotated(base)


def trained(
    base: Model,
    name: str,
    images: np.ndarray,
    targets: np.ndarray,
    steps: int,
    batch: int,
    *,
    encoder: bool = False,
) -> Model:
    """Fine-tuned so that the codes of `images` draw `targets`; the encoder too where asked for."""
    network, guess = copy.deepcopy(base.generator.network), copy.deepcopy(base.encoder)
    weights = list(network.synthesis.parameters())
    if encoder:
        weights += list(guess.network.parameters())
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.Adam(weights, 2e-3)
    rng = np.random.default_rng(np.random.SeedSequence([SEED, 1]))
    wanted = np.ascontiguousarray(targets)
    for _ in range(steps):
        rows = rng.integers(len(images), size=batch)
        codes = guess.network.encode(pixels(images[rows]))
        error = network.synthesis(codes) - pixels(wanted[rows])
        optimiser.zero_grad()
        (error.square().mean() + error.abs().mean()).backward()
        optimiser.step()
    guess.network.requires_grad_(False)
    return Model(name, StyleGAN2Adapter(network), guess)


def damaged(base: Model, level: float) -> Model:
    """Noise on every weight of the drawing layers, `level` of its tensor's standard deviation."""
    network = copy.deepcopy(base.generator.network)
    rng = np.random.default_rng(np.random.SeedSequence([SEED, 2]))
    with torch.no_grad():
        for weight in network.synthesis.parameters():
            spread = float(weight.std()) if weight.numel() > 1 else 0.0
            noise = rng.standard_normal(tuple(weight.shape)).astype(np.float32)
            weight += level * spread * torch.from_numpy(noise)
    return Model(f"noise-{level:g}", StyleGAN2Adapter(network), base.encoder)


def rotated(base: Model) -> Model:
    """Draws from the codes Q w what the old model draws from w; only the mapping is left as it was,
    as the codes here come from the encoder."""
    network = copy.deepcopy(base.generator.network)
    width = base.generator.facts.space("w").shape[0]
    rng = np.random.default_rng(np.random.SeedSequence([SEED, 3]))
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    with torch.no_grad():
        for part in base.generator.style_slices:
            affine = network.synthesis.get_submodule(f"{part.name}.affine")
            affine.weight.copy_(affine.weight @ torch.from_numpy(turn.T.astype(np.float32)))
        network.mapping.w_avg.copy_(
            torch.from_numpy(turn.astype(np.float32)) @ network.mapping.w_avg
        )
    return Model("rotated", StyleGAN2Adapter(network), base.encoder, turn)


# ---------------------------------------------------------------------------------------------
# Directions, maps, truth


def fitted(
    model: Model, pictures: dict[str, np.ndarray], annotators: list[Any], size: Size
) -> dict[str, Any]:
    """Codes of all pictures, and the directions of what the codes draw."""
    meter = Meter(model.generator, annotators)
    codes = {name: model.codes(images) for name, images in pictures.items()}
    return {**codes, "meter": meter, "directions": directions_of(model, meter, codes["fit"], size)}


def directions_of(model: Model, meter: Meter, codes: np.ndarray, size: Size) -> DirectionSet:
    """Mean differences of the scores at 0.5, regressions on the angles, principal components."""
    found = DirectionSet(model.generator.fingerprint, SPACE)
    values = meter.measure(drawn(meter, codes))
    shape = codes.shape[1:]

    def add(name: str, method: str, vector: np.ndarray, target: str | None) -> None:
        found.add(
            unit_direction(
                name, SPACE, vector.reshape(shape), method=method, codes=codes,
                provenance={"target": target},
            )
        )  # fmt: skip

    for name in meter.names("scores"):
        if size.attributes is not None and name not in size.attributes:
            continue
        shown = (values[name] > 0.5).astype(np.int64)
        if 2 <= shown.sum() <= len(shown) - 2:
            difference = mean_differences(codes, shown, reference=0)
            row = difference.levels.ravel().tolist().index(1)
            add(f"mean.{name}", "mean_difference", difference.vectors[row], name)
    angles = [name for name in ("yaw", "pitch") if name in meter.names("pose")]
    slopes = fit_regressions(codes, np.stack([values[name] for name in angles], axis=1)).slopes
    for name, slope in zip(angles, slopes, strict=True):
        add(f"linear.{name}", "linear", slope, name)
    if size.components:
        for i, vector in enumerate(fit_pca(codes, size.components).components):
            add(f"pca.{i:03d}", "pca", vector, None)
    return found


def drawn(meter: Meter, codes: np.ndarray) -> np.ndarray:
    """What codes draw, uint8 (n, R, R, 3)."""
    still = unit_direction("still", SPACE, np.ones(codes.shape[1:]), method="none", sd=1.0,
                           provenance={"generator_fp": meter.generator.fingerprint})  # fmt: skip
    return edit_images(meter.generator, codes, still, [0.0], space=SPACE, batch_size=50)[:, 0]


def linked(old: np.ndarray, new: np.ndarray) -> MapChoice:
    """The map between two models' codes of the same faces; a fifth is held out."""
    held = np.arange(len(old)) % 5 == 0
    parts = [
        [
            Moments.of(np.concatenate([old[rows, i], new[rows, i]], axis=1, dtype=np.float64))
            for i in range(old.shape[1])
        ]
        for rows in (~held, held)
    ]
    return choose_map(*parts, old.shape[1:], new.shape[1:])


def truth_of(
    entry: dict[str, Any], old: dict[str, Any], new: dict[str, Any], rule: Rule
) -> tuple[bool, float | None]:
    """Whether the direction survives on the held-out faces, and its share of the effect."""
    measure = entry.get("measure")
    if measure is None or "reference" not in entry:
        return False, None
    before = old["directions"][entry["name"]]
    sides = {"reused": (new, on_trial(before, new["directions"].generator_fp))}
    if entry["reference"] == "new":
        sides["reference"] = (new, new["directions"][entry["name"]])
    else:
        sides["reference"] = (old, before)
    changes = {}
    for name, (side, direction) in sides.items():
        sweep = Sweep(direction, (0.0, rule.strength))
        values = side["meter"].edit(Samples(SPACE, side["truth"]), sweep, 0).values
        changes[name] = values[measure][:, 1] - values[measure][:, 0]
    if entry["reference"] == "old":  # the sense in which it moved its measure
        sign = np.sign(changes["reference"].mean())
        changes = {name: sign * c for name, c in changes.items()}
    verdict = judge(changes["reused"], changes["reference"], rule.share, rule.sigmas)
    return verdict.survives, verdict.share


# ---------------------------------------------------------------------------------------------
# Output


def summary_of(name: str, rows: list[dict[str, Any]], choice: MapChoice) -> dict[str, Any]:
    """One copy's figures."""
    return {
        "copy": name,
        "directions": len(rows),
        "survived": sum(row["truth"] for row in rows),
        "right": sum(row["ours"] == row["truth"] for row in rows),
        "right_all_survive": sum(row["all"] == row["truth"] for row in rows),
        "right_cosine": sum(row["cosine"] == row["truth"] for row in rows),
        "relation": choice.relation,
        "map_error": round(choice.error, 4),
        "identity_error": round(choice.errors["identity"], 4),
    }


def side_facts(name: str, side: dict[str, Any]) -> dict[str, Any]:
    """What the page says of a side."""
    directions = side["directions"]
    return {
        "name": name,
        "generator_fp": directions.generator_fp,
        "store": name,
        "space": SPACE,
        "code_shape": list(side["fit"].shape[1:]),
        "images": len(side["fit"]),
        "directions": len(directions),
        "generator_absent": "",
    }


def print_rows(result: dict[str, Any]) -> None:
    """The table."""
    print(f"{'copy':14}{'directions':>11}{'survive':>9}{'right':>7}{'cosine':>8}{'all':>5}"
          f"  {'relation':10}{'error':>8}{'as is':>8}")  # fmt: skip
    for row in result["rows"]:
        print(
            f"{row['copy']:14}{row['directions']:>11}{row['survived']:>9}{row['right']:>7}"
            f"{row['right_cosine']:>8}{row['right_all_survive']:>5}  {row['relation']:10}"
            f"{row['map_error']:>8.3f}{row['identity_error']:>8.3f}"
        )
    print(
        f"calls from {result['evidence']} samples: {result['accuracy']:.1%} right of "
        f"{result['calls']} ({result['survived']} survive by {result['held_out']} other samples); "
        f"cosine {result['accuracy_cosine']:.1%}, all survive "
        f"{result['accuracy_all_survive']:.1%}; {result['ours_s']} s against {result['peer_s']} s"
    )


if __name__ == "__main__":
    raise SystemExit(main())
