"""Principal components of many rows from a Zarr store through Beam.

``python -m benchmarks.pca`` takes 1,000,000 x 512 float32 and 80 components, ``--smoke`` little.
The rows have a planted spectrum whose 80th and 81st eigenvalues differ by 1e-3 of their size: they
are U diag(s) V', with cosines, which are exactly orthonormal and centred, for U. They lie in a
temporary, uncompressed Zarr array. Twice, with column means 0 and 1,000:

floor : reading every block and one bare float64 DSYRK of it, nothing else
ours : `transforms.pca.beam.run_pca`, exact and centred
peer : scikit-learn's IncrementalPCA, partial fits of 10,000 rows, from the same store

Times are medians of interleaved runs in this process; ``peak_mb`` is of a process of its own that
does nothing but fit. Subspace errors are sines of the largest principal angle to the components of
a float64 LAPACK solution (QR of the centred rows, block by block, then SVD of the triangles).
``error`` is the worst of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy.linalg.blas import dsyrk

ROOT = Path(__file__).resolve().parent.parent
BLOCK_ROWS, PEER_ROWS, SEED = 8192, 10_000, 0
GAP = 1e-3


def main() -> int:
    """Parse the arguments and run; the exit code is 1 when a subspace is off by more than 1e-6."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few thousand rows")
    parser.add_argument("--rows", type=int, default=None, help="rows (default 1,000,000)")
    parser.add_argument("--repeats", type=int, default=None, help="runs of each (default 3)")
    parser.add_argument("--fit", nargs=2, metavar=("ZARR", "K"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit:
        print(json.dumps(fit_alone(options.fit[0], int(options.fit[1]))))
        return 0
    n_rows = options.rows or (20_000 if options.smoke else 1_000_000)
    n_features, k = (64, 10) if options.smoke else (512, 80)
    repeats = options.repeats or (1 if options.smoke else 3)
    results = []
    for column_mean in (0.0, 1e3):
        with tempfile.TemporaryDirectory(prefix="pca-") as folder:
            path = str(Path(folder) / "rows.zarr")
            write_rows(path, n_rows, n_features, k, column_mean)
            results.append({"column_mean": column_mean, **measure(path, k, repeats)})
    print(f"{'column mean':>12}{'floor s':>9}{'ours s':>9}{'peer s':>9}", end="")
    print(f"{'of floor':>10}{'ratio':>8}{'peak MB':>9}{'our error':>11}{'peer error':>12}")
    for r in results:
        print(f"{r['column_mean']:>12g}{r['floor_s']:>9.2f}{r['ours_s']:>9.2f}", end="")
        print(f"{r['peer_s']:>9.2f}{r['of_floor']:>10.2f}{r['ratio']:>8.1f}", end="")
        print(f"{r['peak_mb']:>9.0f}{r['error']:>11.1e}{r['peer_error']:>12.1e}")
    first = results[0]
    result = {
        "name": "pca",
        **{name: first[name] for name in ("ours_s", "peer_s", "ratio", "floor_s", "of_floor")},
        "peak_mb": max(r["peak_mb"] for r in results),
        "error": max(r["error"] for r in results),
        "n_rows": n_rows,
        "n_features": n_features,
        "n_components": k,
        "repeats": repeats,
        "rows": results,
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
    }
    print(json.dumps(result))
    return int(result["error"] > 1e-6)


def spectrum(n_features: int, k: int) -> np.ndarray:
    """Eigenvalues (n_features,), the k-th and the next one apart by GAP of their size."""
    above = np.geomspace(100.0, 1.0, k)
    below = (1 - GAP) * np.geomspace(1.0, 0.05, n_features - k)
    return np.concatenate([above, below])


def write_rows(path: str, n_rows: int, n_features: int, k: int, column_mean: float) -> None:
    """Write the planted rows, block by block, in an order that mixes the cosines' phases."""
    rng = np.random.default_rng(SEED)
    right = np.linalg.qr(rng.standard_normal((n_features, n_features)))[0].T
    loadings = np.sqrt(2 * spectrum(n_features, k))[:, None] * right
    array = zarr.create_array(
        path,
        shape=(n_rows, n_features),
        chunks=(BLOCK_ROWS, n_features),
        dtype="float32",
        compressors=None,
    )
    stride = next(s for s in range(int(0.618 * n_rows), n_rows) if np.gcd(s, n_rows) == 1)
    frequencies = np.arange(1, n_features + 1)
    for start in range(0, n_rows, BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, n_rows)) * stride % n_rows
        phase = np.outer(2 * rows + 1, frequencies) % (4 * n_rows)
        array[start : start + len(rows)] = (
            np.cos(phase * (np.pi / (2 * n_rows))) @ loadings + column_mean
        )


def blocks(path: str) -> Iterator[np.ndarray]:
    """The array's blocks of rows."""
    array = zarr.open_array(path, mode="r")
    for start in range(0, array.shape[0], BLOCK_ROWS):
        yield np.asarray(array[start : start + BLOCK_ROWS])


def floor(path: str) -> np.ndarray:
    """Read every block, and multiply it with itself in float64."""
    total: Any = None
    for x in blocks(path):
        if total is None:
            total = np.zeros((x.shape[1],) * 2, order="F")
        total = dsyrk(1.0, x.astype(np.float64).T, beta=1.0, c=total, overwrite_c=1)
    return np.asarray(total)


def ours(path: str, k: int) -> np.ndarray:
    """Components (k, D) through Beam."""
    from transforms.accumulate.sources import ZarrBlocks
    from transforms.beam.engine import BeamEngine
    from transforms.pca.beam import run_pca

    return run_pca(BeamEngine(), ZarrBlocks({"x": path}, BLOCK_ROWS), k).components


def peer(path: str, k: int) -> np.ndarray:
    """Components (k, D) by scikit-learn, each block read once and cut into its batches."""
    from sklearn.decomposition import IncrementalPCA

    model = IncrementalPCA(k, batch_size=PEER_ROWS)
    waiting = np.empty((0, 0))
    for x in blocks(path):
        waiting = np.concatenate([waiting, x]) if len(waiting) else x
        while len(waiting) >= PEER_ROWS + k:  # the last batch must have k rows too
            model.partial_fit(waiting[:PEER_ROWS])
            waiting = waiting[PEER_ROWS:]
    model.partial_fit(waiting)
    return np.asarray(model.components_)


def lapack(path: str, k: int) -> np.ndarray:
    """Components (k, D) by float64 QR of the centred rows and SVD of the triangles."""
    n_rows = zarr.open_array(path, mode="r").shape[0]
    mean = sum(x.sum(axis=0, dtype=np.longdouble) for x in blocks(path)) / n_rows
    triangle = np.zeros((0, len(mean)))
    for x in blocks(path):
        centred = (x - mean).astype(np.float64)
        triangle = np.linalg.qr(np.concatenate([triangle, centred]), mode="r")
    return np.linalg.svd(triangle)[2][:k]


def angle(found: np.ndarray, expected: np.ndarray) -> float:
    """Sine of the largest principal angle between the spans of two (k, D)."""
    q = np.linalg.qr(np.asarray(found, np.float64).T)[0]
    return float(np.linalg.norm(expected.T - q @ (q.T @ expected.T), 2))


def fit_alone(path: str, k: int) -> dict[str, float]:
    """Peak memory of this process and its children while it fits, in MB."""
    from pipelines.engine.memory import PeakMemory

    with PeakMemory(interval=0.05) as memory:
        ours(path, k)
    return {"peak_mb": memory.peak / 1e6}


def measure(path: str, k: int, repeats: int) -> dict[str, float]:
    """Times, peak memory and errors on one store."""
    calls: dict[str, Callable[[], np.ndarray]] = {
        "floor": lambda: floor(path),
        "ours": lambda: ours(path, k),
        "peer": lambda: peer(path, k),
    }
    import sklearn.decomposition  # noqa: F401  (loading it is not fitting)

    import transforms.beam.engine  # noqa: F401

    seconds: dict[str, list[float]] = {name: [] for name in calls}
    found = {}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            found[name] = call()
            seconds[name].append(time.perf_counter() - started)
    alone = subprocess.run(
        [sys.executable, "-m", "benchmarks.pca", "--fit", path, str(k)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = lapack(path, k)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        **{f"{name}_s": round(value, 3) for name, value in median.items()},
        "of_floor": round(median["ours"] / median["floor"], 3),
        "ratio": round(median["peer"] / median["ours"], 2),
        "peak_mb": round(json.loads(alone.stdout.splitlines()[-1])["peak_mb"]),
        "error": angle(found["ours"], expected),
        "peer_error": angle(found["peer"], expected),
    }


if __name__ == "__main__":
    sys.exit(main())
