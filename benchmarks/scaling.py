"""Time per row as rows grow: 10,000, 100,000 and 1,000,000 rows of 512 float32.

``python -m benchmarks.scaling`` measures every analysis of `ANALYSES`, ``--analysis pca`` one of
them, ``--smoke`` few and short rows. Each is measured twice: in cache, with all rows in memory and
prepared blocks kept between passes, and out of cache, with every block of every pass read from an
uncompressed Zarr array. Times are of passes over rows; what a fit costs once, however many rows
there are, stands apart as ``once_s``.

``error`` is the largest spread (slowest over fastest, less 1) of the time per row and pass of one
analysis in one place; ``ours_s`` is the time of the most rows in cache of the first analysis and
``peer_s`` what a line through its fewest rows predicts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from transforms.blocks import ArrayBlocks, BlockSource
from transforms.sources import ZarrBlocks

BLOCK_ROWS, SEED = 8192, 0
LIMIT = 0.2
"""Spread above which the exit code of a full run is 1."""


@dataclass(frozen=True)
class Analysis:
    """How an analysis is measured. To add one, put it into `ANALYSES`.

    make : (random generator, rows, features) -> the arrays of some rows
    accumulate : (source, keep) -> (passes made, what `solve` takes); keep says whether prepared
        blocks may stay in memory between passes
    solve : what is done once, after all passes
    """

    make: Callable[[np.random.Generator, int, int], Mapping[str, np.ndarray]]
    accumulate: Callable[[BlockSource, bool], tuple[int, Any]]
    solve: Callable[[Any], object]


def _pca() -> Analysis:
    from transforms.moments import moments_of
    from transforms.pca import solve_pca

    def make(rng: np.random.Generator, n: int, n_features: int) -> dict[str, np.ndarray]:
        return {"x": rng.standard_normal((n, n_features), dtype=np.float32)}

    def solve(moments: Any) -> object:
        return solve_pca(moments, min(80, len(moments.mean)))

    return Analysis(make, lambda source, keep: (1, moments_of(source)), solve)


ANALYSES: dict[str, Callable[[], Analysis]] = {"pca": _pca}


def main() -> int:
    """Parse the arguments and run; the exit code is 1 when a full run's spread is above LIMIT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few and short rows")
    parser.add_argument("--analysis", choices=sorted(ANALYSES), help="only this one")
    parser.add_argument("--rows", type=int, nargs="+", default=None, help="numbers of rows")
    options = parser.parse_args()
    sizes = options.rows or ([500, 1000] if options.smoke else [10_000, 100_000, 1_000_000])
    n_features = 32 if options.smoke else 512
    names = [options.analysis] if options.analysis else list(ANALYSES)
    from pipelines.memory import PeakMemory

    rows: list[dict[str, Any]] = []
    with PeakMemory() as memory:
        for name in names:
            for n_rows in sizes:
                rows += measure(name, n_rows, n_features)
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
        "peak_mb": round(memory.peak / 1e6),
        "error": round(max(spreads.values()), 4),
        "spreads": spreads,
        "rows": rows,
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
    }
    print(json.dumps(result))
    return int(not options.smoke and result["error"] > LIMIT)


CACHES = ("in", "out")


def measure(name: str, n_rows: int, n_features: int) -> list[dict[str, Any]]:
    """One analysis on that many rows, in and out of cache."""
    analysis = ANALYSES[name]()
    rng = np.random.default_rng(SEED)
    arrays = {k: np.asarray(v) for k, v in analysis.make(rng, n_rows, n_features).items()}
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        paths = {k: str(Path(folder) / f"{k}.zarr") for k in arrays}
        for key, array in arrays.items():
            chunks = (min(BLOCK_ROWS, n_rows), *array.shape[1:])
            stored = zarr.create_array(
                paths[key], shape=array.shape, chunks=chunks, dtype=array.dtype, compressors=None
            )
            stored[...] = array
        found = [_time(analysis, ArrayBlocks(arrays, BLOCK_ROWS), True, n_rows)]
        del arrays
        found.append(_time(analysis, ZarrBlocks(paths, BLOCK_ROWS), False, n_rows))
    labels = {"analysis": name, "n_rows": n_rows}
    return [{**labels, "cache": c, **f} for c, f in zip(CACHES, found, strict=True)]


def _time(analysis: Analysis, source: BlockSource, keep: bool, n_rows: int) -> dict[str, Any]:
    """Median of at least 3 runs, more of them for few rows."""
    seconds, passes, total = [], 1, None
    for _ in range(max(3, min(20, 100_000 // n_rows))):
        started = time.perf_counter()
        passes, total = analysis.accumulate(source, keep)
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    analysis.solve(total)
    once = time.perf_counter() - started
    median = statistics.median(seconds)
    return {
        "seconds": round(median, 4),
        "passes": passes,
        "us_per_row": median / n_rows / passes * 1e6,
        "once_s": round(once, 4),
    }


def spread(rows: list[dict[str, Any]], name: str, cache: str) -> float:
    """Slowest over fastest time per row and pass of one analysis in one place, less 1."""
    times = [r["us_per_row"] for r in rows if r["analysis"] == name and r["cache"] == cache]
    return max(times) / min(times) - 1


if __name__ == "__main__":
    sys.exit(main())
