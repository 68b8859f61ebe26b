"""Metrics of generators against their oracles.

``python -m benchmarks.generator_metrics [--smoke] [--peer PYTHON]`` compares

- the Fréchet distance with its closed form on planted Gaussians (20,000 rows of 512 features whose
  sample moments are exactly those planted), and of fewer rows than features with that of the rows'
  own products;
- FID, KID, precision and recall of 5,000 and 4,000 rows of 256 features with torch-fidelity, run by
  ``--peer``, the interpreter of an environment in which it is installed; without one with scipy's
  matrix root, scikit-learn's kernel and scipy's distances;
- the path length by VGG16 with random weights of the bundled generator, in double precision, with
  the official definition written out here, but for the length of z: the authors' codes have
  length 1, at which the 1e-8 under the mapping network's root moves the figure by 1e-6;
- linear separability with scikit-learn's LinearSVC and entropies in bits, as the authors have it;
- everything block by block, merged in another order, with a single pass.

``error`` is the largest relative difference of any metric from its oracle, ``merged`` that from the
single pass. The exit code is 1 above 1e-6 and 1e-10. ``ours_s`` and ``peer_s`` are of FID, KID,
precision and recall on the same arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.svm import LinearSVC

import generators
from generators.perceptual.files import VGG16, PerceptualFile
from generators.perceptual.load import PerceptualDistance
from generators.protocols import Code
from pipelines.analyses.path_length import steps as steps_module
from pipelines.analyses.path_length.steps import AT_ONCE, Steps
from pipelines.engine.memory import PeakMemory
from transforms.accumulate.blocks import ArrayBlocks, iterate_blocks
from transforms.accumulate.moments import Moments
from transforms.generator_metrics.frechet import frechet_distance
from transforms.generator_metrics.kernel import Subsets, kernel_distance
from transforms.generator_metrics.path_length import trimmed_mean
from transforms.generator_metrics.separability import Confusion, separability, surest_labels
from transforms.generator_metrics.sets import compare_sets
from transforms.svm.fit import fit_hyperplanes

MODEL = "bundled:faces64"
NEIGHBOURS = 3
MOST, MOST_MERGED = 1e-6, 1e-10
PEER = """
import json, sys, time
import numpy as np, torch
from torch_fidelity import metric_fid, metric_kid, metric_prc
files = np.load(sys.argv[1])
real, drawn = (torch.from_numpy(files[name]) for name in ("real", "drawn"))
started = time.monotonic()
statistics = [metric_fid.fid_features_to_statistics(x) for x in (drawn, real)]
fid = metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
each = [
    metric_kid.kernel_mmd(files["drawn"][d], files["real"][r])
    for d, r in zip(files["drawn_rows"], files["real_rows"])
]
shares = metric_prc.prc_features_to_metric(drawn, real, prc_neighborhood=3, verbose=False)
print(json.dumps({"FID": fid, "KID": float(np.mean(each)), "precision": shares["precision"],
                  "recall": shares["recall"], "seconds": time.monotonic() - started}))
"""


def main() -> int:
    """Parse the arguments, compare, and print the table and the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few hundred rows")
    parser.add_argument("--peer", help="interpreter of an environment with torch-fidelity")
    options = parser.parse_args()
    with PeakMemory() as memory:
        rows, merged, times = compared(options.smoke, options.peer)
    print(f"{'metric':<34}{'ours':>16}{'oracle':>16}{'difference':>12}  oracle")
    for row in rows:
        values = f"{row['ours']:>16.9g}{row['oracle']:>16.9g}{row['error']:>12.1e}"
        print(f"{row['metric']:<34}{values}  {row['by']}")
    error = max(row["error"] for row in rows)
    result = {
        "name": "generator_metrics",
        **times,
        "ratio": times["peer_s"] / times["ours_s"],
        "peak_mb": round(memory.peak / 1e6),
        "error": error,
        "merged": merged,
        "rows": rows,
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
    }
    print(json.dumps(result))
    return int(error > MOST or merged > MOST_MERGED)


def compared(smoke: bool, peer: str | None) -> tuple[list[dict[str, Any]], float, dict[str, float]]:
    """(a row of each metric, largest difference of merged sums, seconds)."""
    rows = closed_forms(*((2_000, 24) if smoke else (20_000, 512)))
    (n, m, d), count, size = ((400, 300, 16), 10, 50) if smoke else ((5_000, 4_000, 256), 100, 1000)
    real, drawn = features(n, d, 1), features(m, d, 2) + 0.05
    subsets = Subsets(count, size)
    started = time.monotonic()
    ours = metrics(real, drawn, subsets, 2048)
    seconds = {"ours_s": time.monotonic() - started}
    by, theirs = by_peer(peer, real, drawn, subsets) if peer else written_out(real, drawn, subsets)
    seconds["peer_s"] = theirs.pop("seconds")
    rows += [row(name, ours[name], value, by) for name, value in theirs.items()]
    rows += [path_length(16 if smoke else 64, part) for part in ("w_end", "z_full")]
    rows.append(separable(*((400, 8) if smoke else (4_000, 64))))
    other = metrics(real, drawn, subsets, 97)
    merged = max(relative(other[name], value) for name, value in ours.items())
    return rows, merged, seconds


def relative(value: float, expected: float) -> float:
    """Difference from what is expected, by its size."""
    return abs(value - expected) / abs(expected) if expected else abs(value)


def row(metric: str, ours: float, oracle: float, by: str) -> dict[str, Any]:
    """A line of the table."""
    error = relative(ours, oracle)
    return {"metric": metric, "ours": ours, "oracle": oracle, "error": error, "by": by}


def features(n: int, d: int, seed: int) -> np.ndarray:
    """Rows float64 (n, d), correlated."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).standard_normal((d, d)) / np.sqrt(d)
    return rng.standard_normal((n, d)) @ (mix + 0.1 * rng.standard_normal((d, d)) / np.sqrt(d))


def moments(x: np.ndarray, block_rows: int) -> Moments:
    """Block by block, merged."""
    total = Moments.zero(x.shape[1])
    for _, _, arrays in iterate_blocks(ArrayBlocks({"x": x}, block_rows)):
        total = total.add(arrays["x"])
    return total


def metrics(
    real: np.ndarray, drawn: np.ndarray, subsets: Subsets, block_rows: int
) -> dict[str, float]:
    """FID, KID, precision and recall."""
    fid = frechet_distance(moments(real, block_rows), moments(drawn, block_rows))
    found = compare_sets(real, drawn, NEIGHBOURS, subsets, block_rows)
    kid = kernel_distance(found.sums or {}, (len(real), len(drawn)), subsets).mean
    return {"FID": fid, "KID": kid, "precision": found.precision, "recall": found.recall}


def closed_forms(n: int, d: int) -> list[dict[str, Any]]:
    """The Fréchet distance where it is known."""
    rng = np.random.default_rng(3)
    base = np.linalg.qr(rng.standard_normal((d, d)))[0]  # both covariances have its axes
    sides, planted = [], []
    for _ in range(2):
        white = rng.standard_normal((n, d))
        white -= white.mean(axis=0)
        white = np.linalg.qr(white)[0] * np.sqrt(n - 1)  # sample covariance exactly 1
        mean, sd = rng.standard_normal(d), rng.uniform(0.1, 2, d)
        sides.append(moments(white * sd @ base.T + mean, 1024))
        planted.append((mean, sd))
    (mean, sd), (other, sd_other) = planted
    expected = float(((mean - other) ** 2).sum() + ((sd - sd_other) ** 2).sum())
    x, y = rng.standard_normal((d // 4, d)), rng.standard_normal((d // 3, d)) + 0.1
    p, q = (v - v.mean(axis=0) for v in (x, y))
    shared = np.linalg.svd(p @ q.T, compute_uv=False).sum() / np.sqrt((len(p) - 1) * (len(q) - 1))
    apart = x.mean(axis=0) - y.mean(axis=0)
    few = apart @ apart + sum((v**2).sum() / (len(v) - 1) for v in (p, q)) - 2 * shared
    return [
        row("FID of Gaussians", frechet_distance(*sides), expected, "closed form"),
        row(
            "FID of fewer rows than features",
            frechet_distance(Moments.of(x), Moments.of(y)),
            float(few),
            "products of the rows",
        ),
    ]


def by_peer(
    python: str, real: np.ndarray, drawn: np.ndarray, subsets: Subsets
) -> tuple[str, dict[str, float]]:
    """torch-fidelity's metrics of the same rows and subsets."""
    chosen = {
        f"{name}_rows": np.stack([np.flatnonzero(m) for m in subsets.members(side, n).T])
        for side, (name, n) in enumerate((("real", len(real)), ("drawn", len(drawn))))
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npz"
        np.savez(file, real=real, drawn=drawn, **chosen)
        command = [python, "-W", "ignore", "-c", PEER, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stderr}")
    return "torch-fidelity", json.loads(done.stdout.strip().splitlines()[-1])


def written_out(
    real: np.ndarray, drawn: np.ndarray, subsets: Subsets
) -> tuple[str, dict[str, float]]:
    """The same by scipy and scikit-learn."""
    started = time.monotonic()
    apart = real.mean(axis=0) - drawn.mean(axis=0)
    c, e = np.cov(real, rowvar=False), np.cov(drawn, rowvar=False)
    fid = apart @ apart + np.trace(c + e) - 2 * np.trace(sqrtm(c @ e)).real
    options = {"degree": 3, "gamma": None, "coef0": 1}
    m, each = subsets.size, []
    members = [subsets.members(0, len(real)) > 0, subsets.members(1, len(drawn)) > 0]
    for s in range(subsets.count):
        x, y = real[members[0][:, s]], drawn[members[1][:, s]]
        xx, yy, xy = (polynomial_kernel(*v, **options) for v in ((x, x), (y, y), (x, y)))
        within = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
        each.append(within / (m * (m - 1)) - 2 * xy.mean())
    across = cdist(real, drawn)
    radii = [np.sort(cdist(v, v), axis=1)[:, NEIGHBOURS] for v in (real, drawn)]
    return "scipy, scikit-learn", {
        "FID": float(fid),
        "KID": float(np.mean(each)),
        "precision": float((across <= radii[0][:, None]).any(axis=0).mean()),
        "recall": float((across <= radii[1]).any(axis=1).mean()),
        "seconds": time.monotonic() - started,
    }


def random_vgg(seed: int) -> PerceptualFile:
    """VGG16 with random weights, in double precision."""
    rng, found = np.random.default_rng(seed), {}
    for k, shape in VGG16.convolutions.items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        found[f"{k}.weight"] = (rng.standard_normal(shape, np.float32) * scale).astype(np.float64)
        found[f"{k}.bias"] = 0.1 * rng.standard_normal(shape[0])
    return PerceptualFile(
        VGG16, found | {f"lin{k}": rng.random(n) for k, n in enumerate(VGG16.maps)}
    )


def path_length(samples: int, path: str) -> dict[str, Any]:
    """PPL of the bundled generator against the official definition, both in double precision."""
    file = random_vgg(4)
    model = generators.load(MODEL).to(torch.float64)
    space, _, part = path.partition("_")
    steps = Steps(
        MODEL, model.facts.fingerprint, "", None, file.fingerprint, space, part == "full", 1e-4,
        True, "const", 0,
    )  # fmt: skip
    with (
        patch.object(steps_module, "generator_of", lambda *_: model),
        patch.object(steps_module, "_distance", lambda *_: PerceptualDistance(file)),
        torch.no_grad(),
    ):
        ranges = [range(at, at + AT_ONCE) for at in range(0, samples, AT_ONCE)]
        ours = np.concatenate([steps.lengths(numbers) for numbers in ranges])
        theirs = np.concatenate([official(model, file, space, part, each) for each in ranges])
    low = np.percentile(theirs, 1, method="lower")
    high = np.percentile(theirs, 99, method="higher")
    expected = np.extract(np.logical_and(theirs >= low, theirs <= high), theirs).mean()
    return row(f"PPL {path}", trimmed_mean(ours), float(expected), "official, written out")


def official(model: Any, file: PerceptualFile, space: str, part: str, rows: range) -> np.ndarray:
    """As in the authors' code: slerp of z or lerp of w, crop, LPIPS by VGG16, epsilon^2."""
    epsilon, weights = 1e-4, {name: torch.from_numpy(v) for name, v in file.tensors.items()}
    streams = [np.random.default_rng(np.random.SeedSequence([0, 47, number])) for number in rows]
    seeds = [stream.integers(1 << 32, size=2).tolist() for stream in streams]
    t = torch.tensor([[stream.uniform()] for stream in streams]).double() * (part == "full")
    z0, z1 = (model.sample("z", [pair[i] for pair in seeds]).main.double() for i in (0, 1))

    def mapped(z: torch.Tensor) -> torch.Tensor:
        w: torch.Tensor = model.convert(Code("z", z), "w").main
        return w

    if space == "w":
        w0, w1 = mapped(z0), mapped(z1)
        codes = [w0.lerp(w1, at) for at in (t, t + epsilon)]
    else:
        a, b = (z / z.norm(dim=-1, keepdim=True) for z in (z0, z1))
        d = (a * b).sum(dim=-1, keepdim=True)
        c = b - d * a
        c = c / c.norm(dim=-1, keepdim=True)
        angles = [at * torch.acos(d) for at in (t, t + epsilon)]
        lengths = [z.norm(dim=-1, keepdim=True) for z in (z0, z1)]
        codes = [
            mapped((a * angle.cos() + c * angle.sin()) * (lengths[0].lerp(lengths[1], at)))
            for angle, at in zip(angles, (t, t + epsilon), strict=True)
        ]
    both = []
    for w in codes:
        images = model.draw(Code("w", w))
        c = images.shape[2] // 8
        both.append(vgg_maps(weights, images[:, :, c * 3 : c * 7, c * 2 : c * 6]))
    total = torch.zeros(len(rows), dtype=torch.float64)
    for k, (x, y) in enumerate(zip(*both, strict=True)):
        total += (weights[f"lin{k}"][:, None, None] * (x - y).square()).sum(1).mean((1, 2))
    found: np.ndarray = total.numpy() / epsilon**2
    return found


def vgg_maps(weights: dict[str, torch.Tensor], images: torch.Tensor) -> list[torch.Tensor]:
    """The five maps of VGG16, each position's channels at length 1."""
    mean = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)[:, None, None]
    x, found = (images - mean) / scale, []
    for layers in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
        for k in layers:
            x = F.relu(F.conv2d(x, weights[f"{k}.weight"], weights[f"{k}.bias"], padding=1))
        found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        x = F.max_pool2d(x, 2)
    return found


def separable(n: int, d: int) -> dict[str, Any]:
    """Separability of planted attributes, some of them hard to tell."""
    rng = np.random.default_rng(5)
    codes = rng.standard_normal((n, d))
    normals = rng.standard_normal((d, 4)) / np.sqrt(d)
    scores = codes @ normals + rng.standard_normal((n, 4)) * [0.1, 0.5, 1, 2]
    labels = surest_labels(scores, 0.0)
    fitted = fit_hyperplanes(codes, labels, penalise_intercept=True, tol=1e-8)
    request = Confusion(fitted.coef, fitted.intercepts)
    ours = separability(request.statistic({"x": codes, "y": labels})["counts"])
    bits = 0.0
    for score in scores.T:
        kept = np.argsort(-np.abs(score), kind="stable")[: n // 2]
        label = score[kept] > 0
        said = LinearSVC(tol=1e-10, max_iter=10**6, dual=False).fit(codes[kept], label)
        answer = said.predict(codes[kept])
        joint = np.array([[np.mean((answer == a) & (label == b)) for b in (0, 1)] for a in (0, 1)])
        for a in (0, 1):
            for b in (0, 1):
                if joint[a, b] > 0:
                    bits -= joint[a, b] * np.log2(joint[a, b] / joint[a].sum())
    return row("separability", ours, float(2.0**bits), "scikit-learn's LinearSVC")


if __name__ == "__main__":
    sys.exit(main())
