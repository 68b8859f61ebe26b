"""Tensor models against LAPACK and tensorly, from a store in bounded memory, and with holes.

``python -m benchmarks.hosvd [--smoke] [--coordinates D] [--persons P] [--sweeps N]`` measures

1. in memory, 9216 x 100 x 25 x 2 float32: the factors U_n of the small modes and C = S x_1 U_1,
   against LAPACK SVDs of the three small unfoldings of the same (float64) tensor and the core by
   mode products, and against `tensorly.decomposition.tucker`, one sweep unless --sweeps says
   otherwise (``pip install .[bench]``; without it the row says that it is absent);
2. streamed, 9216 x 400 x 25 x 4 from a latent store through Beam, in a process of its own whose
   peak memory is measured; the factors must span the planted ones;
3. with 20 % of the cells missing, low rank and noise: the model's error on the missing cells, as a
   multiple of that of the model which had them.

``error`` is the largest relative deviation of energies and core from LAPACK's, ``peak_mb`` the
streaming process' peak. The exit code is 1 when a result is wrong: an error above 1e-6, a ratio on
missing cells above 1.05, factors off the planted ones or, at full size, a peak above 700 MB.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.engine.memory import PeakMemory
from transforms.hosvd.passes import multiply_modes
from transforms.hosvd.solve import hosvd

ROOT = Path(__file__).resolve().parent.parent
CHANNELS = 512
PEAK_MB = 700


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny tensors")
    parser.add_argument("--coordinates", type=int, default=9216, help="latent coordinates D")
    parser.add_argument("--persons", type=int, default=400, help="persons of the streamed tensor")
    parser.add_argument("--sweeps", type=int, default=1, help="sweeps of tucker; 0: its default")
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stream:
        sys.stdout.write(json.dumps(stream(options.stream)) + "\n")
        return 0
    if options.smoke:
        options.coordinates, options.persons = 64, 6
    shape = (10, 6, 2) if options.smoke else (100, 25, 2)
    decomposed = decompose(options.coordinates, shape, options.sweeps)
    ranks = (4, 3, 1) if options.smoke else (8, 5, 1)
    completed = complete(options.coordinates, (60, 20, 2) if options.smoke else shape, ranks)
    streamed = stream_apart(options.coordinates, options.persons)
    report(decomposed, completed, streamed)
    rows = [decomposed, streamed, completed]
    result = {
        "name": "hosvd",
        "ours_s": decomposed["ours_s"],
        "peer_s": decomposed["peer_s"],
        "ratio": decomposed["ratio"],
        "ratio_tucker": decomposed["ratio_tucker"],
        "peak_mb": streamed["peak_mb"],
        "error": decomposed["error"],
        "missing_cells_ratio": completed["ratio"],
        "rows": rows,
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }
    print(json.dumps(result))
    full = options.coordinates >= 9216 and options.persons >= 400
    return int(
        decomposed["error"] > 1e-6
        or completed["ratio"] > 1.05
        or streamed["error"] > 0.05
        or (full and streamed["peak_mb"] > PEAK_MB)
    )


def planted(n_features: int, shape: tuple[int, ...], ranks: tuple[int, ...], noise: float) -> Any:
    """float32 (D, I_1, ...): a random core of the given ranks, unit variance, noise, mean 1."""
    rng = np.random.default_rng(0)
    tensor = rng.standard_normal((n_features, *ranks), dtype=np.float32)
    factors = []
    for n, rank in zip(shape, ranks, strict=True):
        factors.append(np.linalg.qr(rng.standard_normal((n, rank)))[0].astype(np.float32))
    tensor = multiply_modes(tensor, factors)
    tensor /= tensor.std()
    tensor += 1
    for coordinate in tensor:
        coordinate += noise * rng.standard_normal(shape, dtype=np.float32)
    return tensor


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def decompose(n_features: int, shape: tuple[int, ...], sweeps: int) -> dict[str, Any]:
    """In memory: ours, LAPACK (interleaved, median of 3), tucker (once)."""
    ranks = tuple(min(n, r) for n, r in zip(shape, (60, 10, 2), strict=True))
    tensor = planted(n_features, shape, ranks, 0.05)
    ours, peer, error = [], [], 0.0
    for repeat in range(3):
        seconds, model = timed(lambda: hosvd(tensor))
        ours.append(seconds)
        seconds, (factors, values, core) = timed(lambda: lapack(tensor))
        peer.append(seconds)
        if repeat == 0:
            error = deviation(model, factors, values, core)
        del model, core
    found = {
        "part": "in memory",
        "shape": [n_features, *shape],
        "ours_s": round(statistics.median(ours), 4),
        "peer_s": round(statistics.median(peer), 4),
        "ratio": round(statistics.median(peer) / statistics.median(ours), 2),
        "error": error,
        "tucker_s": None,
        "ratio_tucker": None,
        "sweeps": sweeps or "default",
    }
    try:
        from tensorly.decomposition import tucker
    except ImportError:
        found["tucker"] = "tensorly is absent: install latentflow[bench]"
        return found
    rank = [min(200, n_features), *shape]
    limit = {"n_iter_max": sweeps} if sweeps else {}
    centred = tensor - tensor.mean(axis=(1, 2, 3), keepdims=True)
    seconds, _ = timed(lambda: tucker(centred, rank=rank, init="svd", **limit))
    found["tucker_s"] = round(seconds, 2)
    found["ratio_tucker"] = round(seconds / statistics.median(ours), 1)
    return found


def lapack(tensor: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """The textbook way: SVDs of the small unfoldings (thesis, Algorithm 1), then the core."""
    centred = tensor.astype(np.float64)
    centred -= centred.reshape(len(centred), -1).mean(axis=1).reshape(-1, 1, 1, 1)
    factors, values = [], []
    for n in range(1, centred.ndim):
        unfolded = np.moveaxis(centred, n, 0).reshape(centred.shape[n], -1)
        u, s, _ = np.linalg.svd(unfolded, full_matrices=False)
        factors.append(u)
        values.append(s**2)
    return factors, values, multiply_modes(centred, [u.T for u in factors])


def deviation(
    model: Any, factors: list[np.ndarray], values: list[np.ndarray], core: np.ndarray
) -> float:
    """Largest relative difference of energies and, signs aligned, of the core."""
    worst = max(
        float(np.abs(a - b).max() / b.max()) for a, b in zip(model.energies, values, strict=True)
    )
    for n, (a, b) in enumerate(zip(model.factors, factors, strict=True), start=1):
        signs = np.sign((a * b).sum(axis=0))
        core = core * signs.reshape([-1 if i == n else 1 for i in range(core.ndim)])
    return max(worst, float(np.linalg.norm(model.core - core) / np.linalg.norm(core)))


def complete(n_features: int, shape: tuple[int, ...], ranks: tuple[int, ...]) -> dict[str, Any]:
    """Models of the same ranks with and without a fifth of the cells; errors against the data."""
    asked = tuple(min(n, r + 1) for n, r in zip(shape, ranks, strict=True))  # the mean adds one
    tensor = planted(n_features, shape, ranks, 0.3)
    absent = np.random.default_rng(1).random(shape) < 0.2
    holes = tensor.copy()
    holes[:, absent] = np.nan
    whole_s, whole = timed(lambda: hosvd(tensor, asked))
    whole = whole.reconstruct()
    seconds, model = timed(lambda: hosvd(holes, asked, missing="complete"))
    model = model.reconstruct()
    errors = {}
    for name, cells in (("missing", absent), ("all", np.ones(shape, bool))):
        errors[name] = [
            float(np.linalg.norm((m - tensor)[:, cells]) / np.linalg.norm((tensor - 1)[:, cells]))
            for m in (model, whole)
        ]
    return {
        "part": "20 % of cells missing",
        "shape": [n_features, *shape],
        "ranks": list(asked),
        "ours_s": round(seconds, 3),
        "complete_s": round(whole_s, 3),
        "errors": errors,
        "ratio": round(errors["missing"][0] / errors["missing"][1], 4),
        "ratio_all": round(errors["all"][0] / errors["all"][1], 4),
    }


STREAM_RANKS = (12, 5, 3)


def stream_apart(n_features: int, persons: int) -> dict[str, Any]:
    """Write the store, then decompose it in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="hosvd-") as folder:
        seconds, _ = timed(lambda: write_store(Path(folder), n_features, persons))
        command = [sys.executable, "-m", "benchmarks.hosvd", "--stream", folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"streaming failed:\n{done.stderr}")
    return {**json.loads(done.stdout.splitlines()[-1]), "write_s": round(seconds, 1)}


def write_store(folder: Path, n_features: int, persons: int) -> None:
    """A latent store of persons x 25 x 4 rows in shuffled order, and the planted factors."""
    from schemas.store.latent_store import ArraySpec, LatentStore
    from schemas.store.reasons import Status

    rng = np.random.default_rng(0)
    shape = (persons, 25, 4)
    ranks = tuple(min(n, r) for n, r in zip(shape, STREAM_RANKS, strict=True))
    factors = [
        np.linalg.qr(rng.standard_normal((n, r)))[0] for n, r in zip(shape, ranks, strict=True)
    ]
    layers = max(n_features // CHANNELS, 1)
    code = (layers, n_features // layers)
    core = rng.standard_normal((int(np.prod(ranks)), n_features)).astype(np.float32)
    core *= np.sqrt(np.prod(shape) / len(core))
    cells = rng.permutation(int(np.prod(shape)))
    store = LatentStore.create(
        folder / "store",
        name="hosvd",
        generator_fp="ab" * 32,
        method={"method": "planted"},
        seed=0,
        n_rows=len(cells),
        arrays=[ArraySpec("latents", "w_plus", code)],
        stages=["invert"],
    )
    for block in range(store.n_blocks):
        rows = store.block_slice(block)
        levels = np.unravel_index(cells[rows], shape)
        weights = np.ones((len(levels[0]), 1))
        for u, level in zip(factors, levels, strict=True):
            weights = np.einsum("ma,mb->mab", weights, u[level]).reshape(len(weights), -1)
        x = weights.astype(np.float32) @ core
        x += 0.5 * rng.standard_normal(x.shape, dtype=np.float32) + 1
        flags = np.full(len(x), Status.OK, "u1"), np.zeros(len(x), "u1")
        arrays = {"latents/w_plus": x.reshape(-1, *code)}
        identity = [(f"image-{row}", "active") for row in range(rows.start, rows.stop)]
        store.write_block(
            "invert", block, arrays, *flags, store.block_fp("invert", block, identity, 1)
        )
    np.savez(folder / "planted.npz", cells=cells, **{f"u{i}": u for i, u in enumerate(factors)})


def stream(folder: Path) -> dict[str, Any]:
    """Decompose the store through Beam; peak memory, seconds, angle to the planted factors."""
    from transforms.accumulate.sources import SelectBlocks, StoreBlocks
    from transforms.beam.engine import BeamEngine
    from transforms.hosvd.passes import SlabCells, split_slabs
    from transforms.hosvd.solve import HOSVDSolver

    with np.load(folder / "planted.npz") as file:
        cells, factors = file["cells"], [file[f"u{i}"] for i in range(3)]
    shape = tuple(len(u) for u in factors)
    path, array = str(folder / "store"), "latents/w_plus"
    layers, width = StoreBlocks(path, (array,), ("invert",))._store.array(array).shape[1:]
    sources = [
        SelectBlocks(
            StoreBlocks(path, (array,), ("invert",), layers=(i, i + 1)),
            {"x": array},
            {"cells": cells},
        )
        for i in range(layers)
    ]
    source = SlabCells(split_slabs(sources, width, len(cells)), shape)
    ranks = tuple(min(n, u.shape[1] + 1) for n, u in zip(shape, factors, strict=True))
    with PeakMemory(0.1) as memory:
        engine = BeamEngine(cache_bytes=1 << 26)
        seconds, solver = timed(lambda: engine.run(HOSVDSolver(ranks=ranks), source))
        model = solver.model()
    outside = [
        float(np.linalg.norm(u - own @ (own.T @ u), axis=0).max())
        for u, own in zip(factors, model.factors, strict=True)
    ]
    return {
        "part": "streamed",
        "shape": [layers * width, *shape],
        "ranks": list(model.ranks),
        "ours_s": round(seconds, 2),
        "peak_mb": round(memory.peak / 1e6),
        "bytes_mb": round(layers * width * len(cells) * 4 / 1e6),
        "relative_error": model.relative_error,
        "error": max(outside),
    }


def report(decomposed: dict[str, Any], completed: dict[str, Any], streamed: dict[str, Any]) -> None:
    """The table."""
    size = " x ".join(map(str, decomposed["shape"]))
    print(f"{'U_n and C, ' + size:44}{'seconds':>10}{'ratio':>9}")
    print(f"{'ours':44}{decomposed['ours_s']:>10.2f}{'':>9}")
    name = "LAPACK, small unfoldings + core"
    print(f"{name:44}{decomposed['peer_s']:>10.2f}{decomposed['ratio']:>8.1f}x")
    if decomposed["tucker_s"] is None:
        print(decomposed["tucker"])
    else:
        name = f"tensorly tucker, {decomposed['sweeps']} sweep(s), one run"
        print(f"{name:44}{decomposed['tucker_s']:>10.2f}{decomposed['ratio_tucker']:>8.1f}x")
    print(f"largest deviation from LAPACK: {decomposed['error']:.1e}")
    size = " x ".join(map(str, streamed["shape"]))
    print(
        f"streamed {size} ({streamed['bytes_mb']} MB): {streamed['ours_s']:.1f} s, peak "
        f"{streamed['peak_mb']} MB, planted factors outside by {streamed['error']:.1e}"
    )
    print(
        f"20 % of cells missing: error {completed['ratio']:.3f} of the complete model's on the "
        f"missing cells, {completed['ratio_all']:.3f} on all; {completed['ours_s']:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
