"""Rows of w drawn from a generator's prior, through PCA and 40 hyperplanes on planted labels.

``python -m benchmarks.sampled`` (1,000,000 rows of 512) or ``--smoke``. One specification draws the
rows into z and reads w of them, for both analyses; the labels are factors of a table that names the
rows by their seeds (`svm: labels: factors`), so that no picture is drawn.

ours  : `latentflow run --until analyse` on an empty folder: table, index, drawing, store, analyses
parts : the bare mapping network once over all z, 1024 at a time; `benchmarks.pca` and
    `benchmarks.hyperplanes` on stored blocks of w. Neither drawing z nor writing anything counts

All with one process that works at a time, of one thread. ``ratio`` is the sum of the parts over
ours; ``cpu_ratio``, with ``--in-process``, that of their CPU seconds (ours then without Ray): for
machines that do other work. ``error`` is the largest of the sine between the principal subspaces
and of the relative differences of the normals, against those of the parts.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import PropertyMock, patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
import zarr

from benchmarks import hyperplanes, pca
from transforms.svm.fit import HyperplaneOptions

BATCH, BLOCK_ROWS, SEED = 1024, 8192, 0
TOLERANCE = 1e-5
"""Of the hyperplanes' gradients; normals agree to about as much."""


def main() -> int:
    """Parse the arguments and run; the exit code is 1 where results differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few hundred rows, without Ray")
    parser.add_argument("--rows", type=int, default=None, help="rows (default 1,000,000)")
    parser.add_argument("--in-process", action="store_true", help="without Ray; CPU seconds count")
    options = parser.parse_args()
    shape = Shape(options.rows or 1_000_000)
    if options.smoke:
        shape = Shape(options.rows or 700, width=16, attributes=4, components=4)
    with tempfile.TemporaryDirectory(prefix="sampled-") as folder:
        result = compare(Path(folder), shape, options.in_process or options.smoke)
    report(result)
    print(json.dumps(result))
    return int(result["error"] > 1e-3)


@dataclass(frozen=True)
class Shape:
    """Sizes: rows, width of z and w, planted attributes, components."""

    rows: int
    width: int = 512
    attributes: int = 40
    components: int = 64


@dataclass
class Clock:
    """Seconds of parts by name: of the wall's clock, and of this process' CPU."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Adds what passes inside to a part."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu


def compare(folder: Path, shape: Shape, in_process: bool) -> dict[str, Any]:
    """Parts first, then ours, each result against the other."""
    import torch

    import pipelines.engine.beam  # noqa: F401  (loading it is no part of either)

    torch.set_num_threads(1)
    clock = Clock()
    model = write_model(folder / "generator.safetensors", shape)
    normals = plant(folder, model, shape, clock)
    with clock.of("pca"):
        components = pca.ours(str(folder / "x.zarr"), shape.components)
    with clock.of("hyperplanes"):
        planes = stored_hyperplanes(folder)
    shutil.rmtree(folder / "x.zarr")
    (folder / "x.npy").unlink()
    with clock.of("ours"):
        record = run(folder, shape, in_process)
    found = directions(folder / "out")
    parts = ("mapping", "pca", "hyperplanes")
    wall = sum(clock.wall[name] for name in parts)
    return {
        "name": "sampled",
        "ours_s": clock.wall["ours"],
        "peer_s": wall,
        "ratio": wall / clock.wall["ours"],
        "cpu_ratio": sum(clock.cpu[n] for n in parts) / clock.cpu["ours"] if in_process else None,
        "seconds": clock.wall,
        "cpu_seconds": clock.cpu if in_process else None,
        "stages": {stage["name"]: stage["seconds"] for stage in record["stages"]},
        "analyses": {
            name: facts["seconds"]
            for stage in record["stages"]
            if stage["name"] == "analyse"
            for name, facts in stage["detail"].items()
        },
        "error": max(
            pca.angle(found["components"], components),
            float(np.max(np.linalg.norm(found["normals"] - planes, axis=1))),
        ),
        "recovered": float(np.min(np.sum(found["normals"] * normals, axis=1))),
        "peak_mb": record["peak_memory_mb"],
        "bytes": sizes(folder / "out"),
        "scratch_bytes": shape.rows * shape.width * 4,
        "shape": [shape.rows, shape.width, shape.attributes],
        "in_process": in_process,
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }


def write_model(path: Path, shape: Shape) -> Any:
    """A StyleGAN2 with a mapping network of eight layers of that width, and pictures of 8 px."""
    import torch

    import generators
    from generators.families.stylegan2.adapter import StyleGAN2Adapter
    from generators.families.stylegan2.network import StyleGAN2, StyleGAN2Config

    torch.manual_seed(SEED)
    config = StyleGAN2Config(shape.width, 0, shape.width, img_resolution=8, channels=(4, 4))
    generators.save_safetensors(StyleGAN2Adapter(StyleGAN2(config)), path)
    return generators.load(path)


def plant(folder: Path, model: Any, shape: Shape, clock: Clock) -> np.ndarray:
    """Write w of all rows as the parts read it, and labels y; returns the unit normals (A, D).

    A label is the side of a plane through the mean of w, of each row's w with noise of half a
    standard deviation. Only the mapping network is timed.
    """
    import torch

    from generators.seeds import drawn

    rng = np.random.default_rng(SEED)
    normals = rng.standard_normal((shape.attributes, shape.width))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    n, width = shape.rows, shape.width
    x = zarr.create_array(
        str(folder / "x.zarr"),
        shape=(n, width),
        chunks=(BLOCK_ROWS, width),
        dtype="float32",
        compressors=None,
    )
    flat = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (n, width))
    y = np.empty((n, shape.attributes), np.int8)
    centre: Any = 0.0
    for start in range(0, n, BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, n))
        z, w = (
            torch.from_numpy(drawn("normal", rows.tolist(), (width,))),
            np.empty((len(rows), width), "f4"),
        )
        with clock.of("mapping"), torch.no_grad():
            for first in range(0, len(rows), BATCH):
                w[first : first + BATCH] = model.network.mapping(z[first : first + BATCH])
        x[start : start + len(rows)] = flat[rows] = w
        if start == 0:
            centre, spread = w.mean(axis=0), (w @ normals.T).std(axis=0)
        noise = rng.standard_normal((len(rows), shape.attributes))
        y[rows] = np.where((w - centre) @ normals.T + 0.5 * spread * noise > 0, 1, -1)
    flat.flush()
    np.save(folder / "y.npy", y)
    columns = {f"planted{i:02}": pa.array(y[:, i]) for i in range(shape.attributes)}
    pq.write_table(pa.table({"seed": pa.array(range(n)), **columns}), folder / "labels.parquet")
    return normals


def stored_hyperplanes(folder: Path) -> np.ndarray:
    """Unit normals (A, D), as `benchmarks.hyperplanes` fits them from files."""
    paths = {name: str(folder / f"{name}.npy") for name in ("x", "y")}
    return hyperplanes.from_files(paths, HyperplaneOptions(tol=TOLERANCE)).normals


def run(folder: Path, shape: Shape, in_process: bool) -> dict[str, Any]:
    """Run the specification until its analyses are done; what run.json says."""
    from rich.console import Console

    from pipelines.engine.blocks import InProcess
    from pipelines.runs.run import Run
    from pipelines.runs.run import run as whole_run
    from schemas.spec import load_spec

    spec = {
        "name": "sampled",
        "dataset": {
            "kind": "sampled",
            "n": shape.rows,
            "factors": "labels.parquet",
            "key": "seed",
        },
        "generator": "generator.safetensors",
        "invert": {"space": "z"},
        "analyse": {
            "pca": {"space": "w", "n_components": shape.components},
            "svm": {"space": "w", "labels": "factors", "tolerance": TOLERANCE},
        },
        "evaluate": {"holdout": {"fraction": 0}},
        "output": "out",
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    console = Console(file=io.StringIO())
    if in_process:
        with patch.object(Run, "ray", PropertyMock(return_value=InProcess())):
            whole_run(load_spec(path), until="analyse", console=console)
    else:
        whole_run(load_spec(path), until="analyse", console=console)
    record: dict[str, Any] = json.loads((folder / "out" / "run.json").read_text())
    return record


def directions(out: Path) -> dict[str, np.ndarray]:
    """Components (k, D) and unit normals (A, D) of a run."""
    from schemas.directions.direction_set import DirectionSet

    (path,) = (out / "directions").iterdir()
    found = DirectionSet.load(path)
    coef = found.load_model("svm")[0]["coef"]
    normals = coef / np.linalg.norm(coef, axis=1, keepdims=True)
    return {"components": found.load_model("pca")[0]["components"], "normals": normals}


def sizes(out: Path) -> dict[str, int]:
    """Bytes of what a run leaves, by the folder's entries."""
    return {
        path.name: sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
        for path in sorted(out.iterdir())
        if path.is_dir() or path.name == "index.parquet"
    }


def report(result: dict[str, Any]) -> None:
    """The table."""
    n, width, attributes = result["shape"]
    print(f"{n} rows of {width}, {attributes} planted labels")
    for name, seconds in result["seconds"].items():
        cpu = "" if result["cpu_seconds"] is None else f"{result['cpu_seconds'][name]:>10.1f} s CPU"
        print(f"{name:<20}{seconds:>10.1f} s{cpu}")
    for name, seconds in {**result["stages"], **result["analyses"]}.items():
        print(f"  ours, {name:<12}{seconds:>10.1f} s")
    for name, size in result["bytes"].items():
        print(f"{name:<20}{size / 1e6:>10.1f} MB")
    print(f"peak memory {result['peak_mb']:.0f} MB; kept while it ran {result['scratch_bytes']} B")
    print(f"parts / ours {result['ratio']:.2f}, error {result['error']:.1e}")


if __name__ == "__main__":
    sys.exit(main())
