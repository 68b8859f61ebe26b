"""Time per row as rows grow: 10,000, 100,000 and 1,000,000 rows of 512 float32.

``python -m benchmarks.scaling`` measures every analysis of `ANALYSES`, ``--analysis pca`` one of
them, ``--smoke`` few and short rows. Each is measured twice: in cache, with all rows in memory and
prepared blocks kept between passes, and out of cache, with every block of every pass read from an
uncompressed Zarr array. Times are of passes over rows, per row and pass; what a fit costs besides,
however many rows there are, stands apart as ``once_s``. The most rows need 2.1 GB of memory and as
much room for temporary files.

``error`` is the largest spread (slowest over fastest, less 1) of the time per row and pass of one
analysis in one place; ``ours_s`` is the time of the most rows in cache of the first analysis and
``peer_s`` what a line through its fewest rows predicts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks.hyperplanes import problem
from transforms.accumulate.blocks import Accumulator, ArrayBlocks, BlockSource
from transforms.accumulate.moments import Moments
from transforms.accumulate.passes import PassRequest, PassSolver, run_passes
from transforms.accumulate.requests import MomentsOfRows
from transforms.accumulate.sources import ZarrBlocks
from transforms.pca.fit import solve_pca
from transforms.svm.fit import HyperplaneOptions, HyperplaneSolver

BLOCK_ROWS, SEED = 8192, 0
LIMIT = 0.2
"""Spread above which the exit code of a full run is 1."""


@dataclass(frozen=True)
class Analysis:
    """How an analysis is measured. To add one, put it into `ANALYSES`.

    make : (rows, features) -> the arrays of some rows
    solver : the passes over them, and what follows
    """

    make: Callable[[int, int], Mapping[str, np.ndarray]]
    solver: Callable[[], PassSolver]


@dataclass(frozen=True)
class Components:
    """Principal components as a solver of one pass."""

    done: bool = False

    def request(self) -> PassRequest:
        """The moments."""
        return MomentsOfRows()

    def step(self, total: Accumulator) -> Components:
        """Solve for up to 80 components."""
        if isinstance(total, Moments):
            solve_pca(total, min(80, len(total.mean)))
        return replace(self, done=True)


def normal_rows(n_rows: int, n_features: int) -> dict[str, np.ndarray]:
    """x, independent normal numbers."""
    rng = np.random.default_rng(SEED)
    return {"x": rng.standard_normal((n_rows, n_features), dtype=np.float32)}


def labelled_rows(n_rows: int, n_features: int) -> dict[str, np.ndarray]:
    """x and the labels y of the benchmark of hyperplanes."""
    x, y = problem(n_rows, n_features, 40 if n_features >= 512 else 4, SEED)
    return {"x": x, "y": y}


ANALYSES = {
    "pca": Analysis(normal_rows, Components),
    "hyperplanes": Analysis(labelled_rows, lambda: HyperplaneSolver(HyperplaneOptions())),
}


@dataclass
class Clocked:
    """A solver that measures how long its passes take, and everything between them."""

    solver: PassSolver
    clock: Callable[[], float]
    seconds: float = 0.0
    passes: int = 0
    once: float = 0.0
    started: float = 0.0

    @property
    def done(self) -> bool:
        """That of the solver."""
        return self.solver.done

    def request(self) -> PassRequest:
        """The solver's request; a pass begins."""
        before = self.clock()
        request = self.solver.request()
        self.started = self.clock()
        self.once += self.started - before
        return request

    def step(self, total: Accumulator) -> Clocked:
        """The solver's step; a pass has ended."""
        ended = self.clock()
        self.seconds += ended - self.started
        self.passes += 1
        self.solver = self.solver.step(total)
        self.once += self.clock() - ended
        return self


def main() -> int:
    """Parse the arguments and run; the exit code is 1 when a full run's spread is above LIMIT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few and short rows")
    parser.add_argument("--analysis", choices=sorted(ANALYSES), help="only this one")
    parser.add_argument("--rows", type=int, nargs="+", default=None, help="numbers of rows")
    parser.add_argument("--cpu", action="store_true", help="processor time, on a busy machine")
    options = parser.parse_args()
    sizes = options.rows or ([500, 1000] if options.smoke else [10_000, 100_000, 1_000_000])
    n_features = 32 if options.smoke else 512
    names = [options.analysis] if options.analysis else list(ANALYSES)
    clock = time.process_time if options.cpu else time.perf_counter
    rows: list[dict[str, Any]] = []
    for name in names:
        for n_rows in sizes:
            rows += measure(name, n_rows, n_features, clock)
    print(f"{'analysis':14}{'cache':>7}{'rows':>10}{'passes':>8}{'us/row/pass':>13}{'once s':>9}")
    for r in rows:
        print(f"{r['analysis']:14}{r['cache']:>7}{r['n_rows']:>10}{r['passes']:>8}", end="")
        print(f"{r['us_per_row']:>13.3f}{r['once_s']:>9.3f}")
    spreads = {f"{name} {cache}": spread(rows, name, cache) for name in names for cache in CACHES}
    for label, value in spreads.items():
        print(f"{label}: time per row and pass within {100 * value:.0f} %")
    inside = [r for r in rows if r["analysis"] == names[0] and r["cache"] == "in"]
    predicted = inside[0]["us_per_row"] * inside[-1]["n_rows"] * inside[-1]["passes"] / 1e6
    result = {
        "name": "scaling",
        "ours_s": inside[-1]["seconds"],
        "peer_s": round(predicted, 4),
        "ratio": round(predicted / inside[-1]["seconds"], 3),
        # not by sampling, which takes a tenth of the time when gigabytes are mapped
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
        "error": round(max(spreads.values()), 4),
        "spreads": spreads,
        "rows": rows,
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
    }
    print(json.dumps(result))
    return int(not options.smoke and result["error"] > LIMIT)


CACHES = ("in", "out")


def measure(
    name: str, n_rows: int, n_features: int, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    """One analysis on that many rows, in and out of cache."""
    analysis = ANALYSES[name]
    arrays = dict(analysis.make(n_rows, n_features))
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        paths = {k: str(Path(folder) / f"{k}.zarr") for k in arrays}
        for key, array in arrays.items():
            chunks = (min(BLOCK_ROWS, n_rows), *array.shape[1:])
            stored = zarr.create_array(
                paths[key], shape=array.shape, chunks=chunks, dtype=array.dtype, compressors=None
            )
            stored[...] = array
        sources = [(ArrayBlocks(arrays, BLOCK_ROWS), True), (ZarrBlocks(paths, BLOCK_ROWS), False)]
        del arrays
        found = []
        while sources:
            found.append(_time(analysis, *sources.pop(0), n_rows, clock))
    labels = {"analysis": name, "n_rows": n_rows}
    return [{**labels, "cache": c, **f} for c, f in zip(CACHES, found, strict=True)]


def _time(
    analysis: Analysis, source: BlockSource, keep: bool, n_rows: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """The fastest of at least 5 runs, more of them for few rows: what else the machine does only
    ever adds to a time."""
    runs = [
        run_passes(Clocked(analysis.solver(), clock), source, keep=keep)
        for _ in range(max(5, min(20, 100_000 // n_rows)))
    ]
    best = min(run.seconds for run in runs)
    return {
        "seconds": round(best, 4),
        "passes": runs[0].passes,
        "us_per_row": best / n_rows / runs[0].passes * 1e6,
        "once_s": round(min(run.once for run in runs), 4),
    }


def spread(rows: list[dict[str, Any]], name: str, cache: str) -> float:
    """Slowest over fastest time per row and pass of one analysis in one place, less 1."""
    times = [r["us_per_row"] for r in rows if r["analysis"] == name and r["cache"] == cache]
    return max(times) / min(times) - 1


if __name__ == "__main__":
    sys.exit(main())
