"""Wall time of optimisation until the median row is as near as an older version comes.

``python -m benchmarks.optimise_speed --old PATH`` takes a checkout of commit 316fff8 (``git
worktree add PATH 316fff8``), whose method ``optimise`` takes 300 steps of Adam. Faces of the rig
that no bundled model was trained on, nor a setting of the method chosen by, are optimised into a
bundled generator from its mean code, by the older version and by this one, batch after batch in
turn, each in a process of its own with one thread. The losses compared are of the same terms, at
full resolution, by this version.

``ratio`` is the older version's time / this one's with ``--steps``; ``error`` counts what fails of:
the median loss is as low, the 90 % quantile is as low. With ``--encoder`` this version starts from
the encoder's codes (method ``hybrid``). ``--smoke`` compares few steps of this version with fewer.
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

import numpy as np
import torch
from torch import Tensor

import generators
from benchmarks.projector import rig_faces
from generators.protocols import Code
from schemas.sections.invert import invert_section
from transforms.inversion.catalog import invert_batch
from transforms.inversion.loss import RowLosses
from transforms.inversion.method import Images, render, row_generator

OLD_STEPS = 300
WORKER = """
import json, sys, time
import numpy as np, torch, generators
from transforms.invert import Inversion, invert_batch, row_generator
uri, space, steps, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
model = generators.load(uri, "cpu")
inversion = Inversion("optimise", space, steps)
for line in sys.stdin:
    first, stop = json.loads(line)
    images = torch.from_numpy(np.load(folder + "/images.npy")[first:stop])
    rngs = [row_generator(0, 1, f"{i:064x}") for i in range(first, stop)]
    started = time.perf_counter()
    codes = invert_batch(model, images, inversion, None, rngs)
    seconds = time.perf_counter() - started
    np.save(folder + "/codes.npy", codes.numpy())
    print(json.dumps(seconds), flush=True)
"""


class Old:
    """The older version, in a process of its own."""

    def __init__(self, path: Path, uri: str, space: str, folder: Path) -> None:
        command = [sys.executable, "-c", WORKER, uri, space, str(OLD_STEPS), str(folder)]
        env = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
        self.folder = folder
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=path
        )

    def __call__(self, rows: slice) -> tuple[Tensor, float]:
        """Codes of some rows, and the seconds that they took."""
        if self.process.stdin is None or self.process.stdout is None:
            raise ValueError("the process has no pipes")
        self.process.stdin.write(json.dumps([rows.start, rows.stop]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the older version ended: see what it printed above")
        return torch.from_numpy(np.load(self.folder / "codes.npy")), float(json.loads(answer))

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


class New:
    """This version. keys : of its settings."""

    def __init__(self, images: Tensor, uri: str, encoder: bool, **keys: Any) -> None:
        self.images, self.model = images, generators.load(uri, "cpu")
        method = "hybrid" if encoder else "optimise"
        self.settings = invert_section({"method": method, **keys})
        self.encoder: Any = None
        if encoder:
            from generators.encoders.load import load_encoder

            self.encoder = load_encoder(uri, "cpu", keys["space"])

    def __call__(self, rows: slice) -> tuple[Tensor, float]:
        """Codes of some rows, and the seconds that they took."""
        rngs = [row_generator(0, 1, f"{i:064x}") for i in range(rows.start, rows.stop)]
        images = Images(self.images[rows], self.model, self.settings, self.encoder, rngs)
        started = time.perf_counter()
        found = invert_batch(images)
        return found.code.main, time.perf_counter() - started

    def losses(self, codes: Tensor) -> Tensor:
        """Of all rows, by the terms of the settings."""
        each = []
        for k in range(0, len(codes), 32):
            images = Images(self.images[k : k + 32], self.model, self.settings)
            drawn = render(self.model, Code(self.settings.space, codes[k : k + 32]))
            each.append(RowLosses(images)(drawn))
        return torch.cat(each)


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", type=Path, help="a checkout of commit 316fff8")
    parser.add_argument("--generator", default="bundled:faces64", help="its uri")
    parser.add_argument("--space", default="w_plus", help="w or w_plus (default w_plus)")
    parser.add_argument("--steps", type=int, default=80, help="of this version (default 80)")
    parser.add_argument("--rows", type=int, default=200, help="faces (default 200)")
    parser.add_argument("--batch", type=int, default=25, help="faces at once (default 25)")
    parser.add_argument("--encoder", action="store_true", help="start from the encoder's codes")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args()
    if options.smoke:
        options.rows, options.batch, options.steps = 2, 2, 8
    elif options.old is None:
        parser.error("--old is missing: give a checkout of commit 316fff8")
    torch.set_num_threads(1)
    images = rig_faces(options.rows)
    keys = {"space": options.space}
    new = New(images, options.generator, options.encoder, steps=options.steps, **keys)
    with tempfile.TemporaryDirectory(prefix="optimise-") as folder:
        np.save(Path(folder, "images.npy"), images.numpy())
        old: Any
        if options.smoke:
            old = New(images, options.generator, False, steps=2, schedule="adam", **keys)
        else:
            old = Old(options.old.resolve(), options.generator, options.space, Path(folder))
        codes: dict[str, list[Tensor]] = {"old": [], "new": []}
        seconds = {"old": 0.0, "new": 0.0}
        for first in range(0, options.rows, options.batch):
            rows = slice(first, min(first + options.batch, options.rows))
            for name, version in (("old", old), ("new", new)):
                found, took = version(rows)
                codes[name].append(found)
                seconds[name] += took
            print(f"{rows.stop} rows: {seconds['old']:.1f} s, {seconds['new']:.1f} s", flush=True)
        if isinstance(old, Old):
            old.close()
    losses = {name: new.losses(torch.cat(each)) for name, each in codes.items()}
    levels = {
        f"{name}_{what}": float(values.quantile(q))
        for name, values in losses.items()
        for what, q in (("median", 0.5), ("q90", 0.9))
    }
    failed = sum(levels[f"new_{what}"] > levels[f"old_{what}"] for what in ("median", "q90"))
    result = {
        "name": "optimise_speed",
        "rows": options.rows,
        "space": options.space,
        "generator": options.generator,
        "encoder": options.encoder,
        "steps": options.steps,
        "old_s": round(seconds["old"], 2),
        "new_s": round(seconds["new"], 2),
        **{name: round(value, 6) for name, value in levels.items()},
        "ratio": round(seconds["old"] / seconds["new"], 3),
        "error": failed,
    }
    print(json.dumps(result))
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
