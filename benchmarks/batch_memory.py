"""Whether ``batch_size: auto`` keeps to the memory that it is allowed, and how much of it is used.

``python -m benchmarks.batch_memory`` inverts the same pictures by each of `METHODS`, with each of
``--limits`` (MB), in a process of its own: its greatest resident memory, as the system counted it
(``getrusage``), must stay below the limit. ``--generator`` is a file of another model, inverted by
gradient steps alone. ``--smoke`` takes one limit.

``error`` counts the processes that took more; ``ratio`` is the least limit / peak.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BUNDLED = "bundled:faces64"
METHODS: dict[str, dict[str, Any]] = {
    "encoder": {"method": "encoder"},
    "optimise": {"method": "optimise", "steps": 3},
}


def inverted(method: str, generator: str, limit: int, pictures: Path, out: Path) -> dict[str, Any]:
    """Invert in this process; batch size, seconds and greatest resident memory in MB."""
    from pipelines.engine.blocks import InProcess
    from pipelines.folder.store_identity import identify
    from pipelines.sources.folder import FolderSource
    from pipelines.stages.index import update_index
    from pipelines.stages.invert import invert
    from schemas.index import DatasetIndex
    from schemas.sections.dataset import DatasetSpec
    from schemas.sections.invert import invert_section

    spec = DatasetSpec(path=str(pictures))
    source = FolderSource(str(pictures))
    index, _ = update_index(DatasetIndex.empty(), source, spec)
    settings = invert_section({**METHODS[method], "batch_size": "auto", "block_rows": 64})
    identity = identify(
        out,
        settings,
        name="memory",
        seed=0,
        generator_uri=generator,
        encoder_uri=generator if settings.needs.encoder else None,
    )
    started = time.perf_counter()
    made = invert(index, source, identity, engine=InProcess(), actor_memory_mb=limit)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "batch_size": made.batch_size,
        "seconds": round(time.perf_counter() - started, 2),
        "peak_mb": round(peak),
    }


def in_own_process(method: str, generator: str, limit: int, rows: int, size: int) -> dict[str, Any]:
    """`inverted`, of so many pictures of noise."""
    with tempfile.TemporaryDirectory(prefix="batch-memory-") as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        rng = np.random.default_rng(0)
        for i in range(rows):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(pictures / f"{i:04}.png")
        given = ["--only", method, str(pictures), folder, "--generator", generator]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.batch_memory", *given, "--limits", str(limit)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        return {"method": method, "limit_mb": limit, "failed": done.stderr.strip().splitlines()[-1]}
    return {"method": method, "limit_mb": limit, **json.loads(done.stdout.splitlines()[-1])}


def main() -> int:
    """Invert, print; the exit code is 1 when a process took more than it was allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", default=BUNDLED)
    parser.add_argument("--limits", type=int, nargs="+", default=[600, 800, 1200])
    parser.add_argument("--rows", type=int, default=128, help="pictures (default 128)")
    parser.add_argument("--size", type=int, default=64, help="of the pictures, in pixels")
    parser.add_argument("--smoke", action="store_true", help="one limit")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        method, pictures, out = options.only
        told = inverted(method, options.generator, options.limits[0], Path(pictures), Path(out))
        print(json.dumps(told))
        return 0
    methods = list(METHODS) if options.generator == BUNDLED else ["optimise"]
    limits = options.limits[-1:] if options.smoke else options.limits
    rows = []
    for method in methods[:1] if options.smoke else methods:
        for limit in limits:
            row = in_own_process(method, options.generator, limit, options.rows, options.size)
            print(" ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            rows.append(row)
    kept = [row["limit_mb"] / row["peak_mb"] for row in rows if "peak_mb" in row]
    error = sum(ratio < 1 for ratio in kept)
    ratio = min(kept, default=0.0)
    result = {"name": "batch_memory", "ratio": ratio, "error": error, "cores": os.cpu_count()}
    print(json.dumps({**result, "rows": rows}))
    return int(error > 0 or not kept)


if __name__ == "__main__":
    sys.exit(main())
