"""Hyperplanes of 40 attributes over 70,000 codes of 512, against scikit-learn's LinearSVC.

``python -m benchmarks.hyperplanes`` (full size) or ``--smoke``. LinearSVC(dual=False, tol=1e-4)
fits one attribute at a time; two of the 40 are timed and their mean is multiplied by 40, as the
table says. Both penalise the intercept, and both objectives are evaluated in float64 by one
formula. Then the same fit runs through Beam from files. How time grows with rows is measured by
``benchmarks.scaling``.

``error`` is how far our objective is above scikit-learn's, relative, at most over the two.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from transforms.accumulate.blocks import NpyBlocks
from transforms.svm.fit import (
    HyperplaneOptions,
    Hyperplanes,
    HyperplaneSolver,
    fit_hyperplanes,
)


def main() -> int:
    """Parse the arguments and run; the exit code is 1 where a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    parser.add_argument("--rows", type=int, default=None, help="number of rows (default 70,000)")
    parser.add_argument("--repeats", type=int, default=3, help="fits of ours; the median counts")
    options = parser.parse_args()
    shape = (1500, 24, 6) if options.smoke else (options.rows or 70_000, 512, 40)
    result = compare(*shape, repeats=options.repeats)
    report(result)
    print(json.dumps(result))
    return int(result["error"] > 1e-6 or not result["converged"])


def problem(n: int, d: int, attributes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes float32 (n, d) with 64 strong directions and noise, labels int8 (n, attributes)."""
    rng = np.random.default_rng(seed)
    strong = min(64, d)
    basis = rng.standard_normal((strong, d), dtype=np.float32)
    basis *= np.linspace(3, 0.3, strong, dtype=np.float32)[:, None]
    normals = rng.standard_normal((d, attributes), dtype=np.float32) / np.float32(np.sqrt(d))
    x, y = np.empty((n, d), np.float32), np.empty((n, attributes), np.int8)
    for start in range(0, n, 50_000):
        rows = slice(start, min(start + 50_000, n))
        m = rows.stop - rows.start
        x[rows] = rng.standard_normal((m, strong), dtype=np.float32) @ basis
        x[rows] += np.float32(0.3) * rng.standard_normal((m, d), dtype=np.float32)
        scores = x[rows] @ normals
        scores /= scores.std(axis=0)
        scores += 0.5 * rng.standard_normal(scores.shape, dtype=np.float32)
        y[rows] = np.where(scores > 0.3, 1, -1)
    return x, y


def objective(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: float, c: float = 1.0) -> float:
    """1/2 |w|^2 + 1/2 b^2 + C sum max(0, 1 - y (x.w + b))^2 in float64, rows in chunks."""
    total = (w @ w + b * b) / 2
    for start in range(0, len(x), 8192):
        rows = slice(start, start + 8192)
        slack = np.maximum(0, 1 - y[rows] * (x[rows].astype(np.float64) @ w + b))
        total += c * float(slack @ slack)
    return float(total)


def compare(n: int, d: int, attributes: int, repeats: int) -> dict[str, object]:
    """Ours in memory and through Beam, and the peer, on the same arrays."""
    from sklearn.svm import LinearSVC

    x, y = problem(n, d, attributes)
    seconds, peers = [], []
    errors: list[float] = []
    timed = [0, attributes - 1]
    for i in range(max(repeats, len(timed))):  # interleaved
        started = time.perf_counter()
        found = fit_hyperplanes(x, y, penalise_intercept=True)
        seconds.append(time.perf_counter() - started)
        if i < len(timed):
            a = timed[i]
            started = time.perf_counter()
            peer = LinearSVC(dual=False, tol=1e-4).fit(x, y[:, a])
            peers.append(time.perf_counter() - started)
            theirs = objective(x, y[:, a], peer.coef_[0].astype(np.float64), peer.intercept_[0])
            ours = objective(x, y[:, a], found.coef[a], found.intercepts[a])
            errors.append(ours / theirs - 1)
    ours_s, peer_s = float(np.median(seconds)), float(np.mean(peers)) * attributes
    beam_s, difference = through_beam(x, y, found.coef)
    return {
        "name": "hyperplanes",
        "ours_s": ours_s,
        "peer_s": peer_s,
        "ratio": peer_s / ours_s,
        "peak_mb": peak_mb(),
        "error": max(errors),
        "errors": errors,
        "peer_timed": len(timed),
        "peer_fits_s": peers,
        "converged": bool(found.converged.all()),
        "passes": found.n_passes,
        "beam_s": beam_s,
        "beam_difference": difference,
        "shape": [n, d, attributes],
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }


def through_beam(x: np.ndarray, y: np.ndarray, coef: np.ndarray) -> tuple[float, float]:
    """(seconds from .npy files through Beam, largest relative difference of the normals)."""
    with tempfile.TemporaryDirectory(prefix="hyperplanes-") as folder:
        paths = {name: str(Path(folder) / f"{name}.npy") for name in ("x", "y")}
        np.save(paths["x"], x)
        np.save(paths["y"], y)
        started = time.perf_counter()
        found = from_files(paths, HyperplaneOptions(penalise_intercept=True))
        seconds = time.perf_counter() - started
    gap = np.linalg.norm(found.coef - coef, axis=1) / np.linalg.norm(coef, axis=1)
    return seconds, float(gap.max())


def from_files(paths: dict[str, str], options: HyperplaneOptions) -> Hyperplanes:
    """Through Beam. paths : .npy files of x and y."""
    from transforms.beam.engine import BeamEngine

    return BeamEngine().run(HyperplaneSolver(options), NpyBlocks(paths)).result()


def peak_mb() -> float:
    """Largest resident size of this process so far, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(result: dict[str, object]) -> None:
    """The table."""
    n, d, attributes = result["shape"]
    print(f"{n} x {d}, {attributes} attributes, squared hinge, C = 1, intercept penalised")
    print(f"{'LinearSVC x ' + str(attributes):<28}{result['peer_s']:>12.2f} s  (2 of them timed)")
    print(f"{'ours, all at once':<28}{result['ours_s']:>12.2f} s  {result['passes']} passes")
    print(f"{'ratio':<28}{result['ratio']:>12.0f}")
    print(f"{'ours through Beam':<28}{result['beam_s']:>12.2f} s")
    print(f"{'objective above the peer':<28}{result['error']:>12.1e}")


if __name__ == "__main__":
    sys.exit(main())
