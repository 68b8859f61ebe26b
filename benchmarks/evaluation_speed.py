"""How long evaluation, start and the whole demonstration take, against an older build.

``python -m benchmarks.evaluation_speed --old FOLDER`` takes a checkout of the older build (with an
environment in its ``.venv``, else this one's) and runs both builds in turn on this machine, each in
processes of its own. ``--parts`` chooses among

- ``evaluation`` : the stage "evaluate" of a finished demonstration, made again from the same store
  and directions;
- ``start`` : ``latentflow run`` with nothing changed, and ``latentflow plan``;
- ``demo`` : ``latentflow demo`` from nothing, ``--demo-runs`` times (minutes each).

``--run`` is a finished demonstration of either build to begin with; without it one is made first.
Times are walls in seconds, medians of ``--runs``. ``ours_s`` and ``peer_s`` are the first row's,
the evaluation's where it is measured, ``ratio`` is peer_s / ours_s, and ``error`` the largest
difference of a figure between the evaluations of both builds: those of the demonstration's
summary.json, or of evaluation.json with ``--smoke``, which compares this build with itself on a
tiny run in this process.

A process that draws with several threads, as 0.1.0 evaluated, and one that draws with one differ by
a level in about one pixel of 200 pictures: torch then interpolates by another kernel. With
``--old-threads 1`` the older build draws the same bits.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("evaluation", "start", "demo")
EVALUATION = ("evaluation.json", "evaluation.npz")
#: Of a summary: how long it took and how much memory, which are no figures.
TIMES = frozenset({"seconds", "stages", "peak_memory_mb"})
#: Figures of pictures that differ by a level in single pixels.
SAME = 1e-5


@dataclass(frozen=True)
class Build:
    """A checkout with its Python. scratch : for its bytecode, so that none is left in it.

    threads : of torch where a process is not told by its specification; None for torch's own.
    """

    folder: Path
    python: str
    scratch: Path
    threads: int | None = None

    @classmethod
    def at(cls, folder: Path, scratch: Path, threads: int | None = None) -> Build:
        """With the environment that lies in it, else with this one."""
        own = folder / ".venv" / "bin" / "python"
        python = str(own) if own.exists() else sys.executable
        return cls(folder.resolve(), python, scratch, threads)

    def latentflow(self, *arguments: str | Path) -> float:
        """Seconds of a command. Raises RuntimeError with what it printed where it fails."""
        ours = ("PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS")
        env = {k: v for k, v in os.environ.items() if k not in ours}
        env |= {"PYTHONPATH": str(self.folder), "PYTHONPYCACHEPREFIX": str(self.scratch)}
        if self.threads is not None:
            env["OMP_NUM_THREADS"] = str(self.threads)
        started = time.monotonic()
        done = subprocess.run(
            [self.python, "-m", "pipelines", *map(str, arguments)],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(
                f"{arguments!r} of {self.folder} failed:\n{done.stdout}{done.stderr}"
            )
        return time.monotonic() - started

    def evaluation(self, out: Path) -> float:
        """Seconds of the stage "evaluate", made again."""
        forget_evaluation(out)
        self.latentflow("run", out / "demo.yaml")
        stages = json.loads((out / "run.json").read_text())["stages"]
        return next(float(s["seconds"]) for s in stages if s["name"] == "evaluate")


def forget_evaluation(out: Path) -> None:
    """Take an evaluation away, with its checksums: as if it had not been made."""
    for name in EVALUATION:
        (out / name).unlink(missing_ok=True)
    noted = out / "checksums.json"
    if noted.exists():
        kept = {k: v for k, v in json.loads(noted.read_text()).items() if k not in EVALUATION}
        noted.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def in_turn(n: int, *measure: Callable[[], float]) -> list[float]:
    """Medians of n walls each, one after the other and round again."""
    seconds = [[each() for each in measure] for _ in range(n)]
    return [statistics.median(column) for column in zip(*seconds, strict=True)]


def largest_difference(a: Any, b: Any, leave_out: frozenset[str] = TIMES) -> float:
    """Between the numbers of two JSON values; infinite where they differ in anything else."""
    if isinstance(a, dict) and isinstance(b, dict):
        left, right = a.keys() - leave_out, b.keys() - leave_out
        if left != right:
            return math.inf
        return max((largest_difference(a[k], b[k], leave_out) for k in left), default=0.0)
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return math.inf
        pairs = zip(a, b, strict=True)
        return max((largest_difference(x, y, leave_out) for x, y in pairs), default=0.0)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
    if numbers:
        return abs(float(a) - float(b))
    return 0.0 if a == b else math.inf


def row(part: str, ours: float, peer: float) -> dict[str, Any]:
    """One line of the table and of the result."""
    print(f"{part:<12} {peer:8.2f} s -> {ours:8.2f} s   x {peer / ours:.2f}", flush=True)
    return {"part": part, "ours_s": ours, "peer_s": peer, "ratio": peer / ours}


def measure(
    builds: tuple[Build, Build], parts: Sequence[str], base: Path | None, root: Path, sizes: Sizes
) -> tuple[list[dict[str, Any]], float | None]:
    """Rows of the parts, and the largest difference of a figure where evaluations were made.

    builds : the older one and this one. base : a finished demonstration, made first where None.
    """
    rows: list[dict[str, Any]] = []
    outs = [root / "old", root / "new"]
    error = None
    if "demo" in parts:
        walls = []
        for number in range(sizes.demos):
            for build, out in zip(builds, outs, strict=True):
                shutil.rmtree(out, ignore_errors=True)
                walls.append(build.latentflow("demo", "--out", out, "--people", sizes.people))
                print(f"demonstration {number + 1}, {out.name}: {walls[-1]:.1f} s", flush=True)
        rows.append(row("demo", statistics.median(walls[1::2]), statistics.median(walls[::2])))
        error = difference(outs)
        base = base or outs[0]
    if {"evaluation", "start"} & set(parts):
        if base is None:
            base = root / "base"
            builds[0].latentflow("demo", "--out", base, "--people", sizes.people)
        for out in outs:
            if out != base:
                shutil.rmtree(out, ignore_errors=True)
                shutil.copytree(base, out)
    both = list(zip(builds, outs, strict=True))
    if "evaluation" in parts:
        for build, out in both:  # the copy's files are new to the caches, and code is compiled
            build.latentflow("run", out / "demo.yaml")
        peer, ours = in_turn(sizes.runs, *(partial(b.evaluation, o) for b, o in both))
        rows.insert(0, row("evaluation", ours, peer))
        error = max(error or 0.0, difference(outs))
    if "start" in parts:
        for command in ("run", "plan"):
            for build, out in both:
                build.latentflow("run", out / "demo.yaml")
                build.latentflow(command, out / "demo.yaml")
            again = [partial(b.latentflow, command, o / "demo.yaml") for b, o in both]
            peer, ours = in_turn(sizes.starts, *again)
            rows.append(row(command, ours, peer))
    return rows, error


@dataclass(frozen=True)
class Sizes:
    """How often each part is measured, and how many persons a demonstration has."""

    runs: int = 3
    starts: int = 5
    demos: int = 1
    people: int = 100


def difference(outs: Sequence[Path]) -> float:
    """Largest difference of a figure of two finished demonstrations."""
    from pipelines.demo.demo import summarise

    return largest_difference(*(summarise(out) for out in outs))


def smoke(root: Path, base: Path | None) -> tuple[list[dict[str, Any]], float]:
    """This build against itself on a tiny run (a copy of ``base``), in this process."""
    sys.path[:0] = [str(ROOT / "tests")]
    from tiny_run import make_tiny, run_tiny

    root /= "tiny"
    spec = make_tiny(root, 30) if base is None else shutil.copytree(base, root) / "spec.yaml"
    run_tiny(spec, "evaluate")
    found = []

    def evaluation() -> float:
        forget_evaluation(root / "out")
        started = time.monotonic()
        run_tiny(spec, "evaluate")
        found.append(json.loads((root / "out" / "evaluation.json").read_text()))
        return time.monotonic() - started

    peer, ours = in_turn(1, evaluation, evaluation)
    return [row("evaluation", ours, peer)], largest_difference(*found)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit status is 1 where figures differ by more than `SAME`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", type=Path, default=ROOT, help="the older checkout")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--run", type=Path, help="a finished demonstration (or tiny run)")
    parser.add_argument("--runs", type=int, default=Sizes.runs, help="evaluations of each build")
    parser.add_argument("--demo-runs", type=int, default=Sizes.demos)
    parser.add_argument("--people", type=int, default=Sizes.people, help="of demonstrations")
    parser.add_argument("--old-threads", type=int, help="of torch in the older build")
    parser.add_argument("--smoke", action="store_true", help="a tiny run: seconds")
    given = parser.parse_args(arguments)
    sizes = Sizes(given.runs, Sizes.starts, given.demo_runs, given.people)
    with tempfile.TemporaryDirectory(prefix="evaluation-speed-") as folder:
        root = Path(folder)
        base = None if given.run is None else given.run.resolve()
        rows: list[dict[str, Any]]
        error: float | None
        if given.smoke:
            rows, error = smoke(root, base)
        else:
            old = Build.at(given.old, root / "old-code", given.old_threads)
            builds = old, Build.at(ROOT, root / "new-code")
            rows, error = measure(builds, given.parts, base, root, sizes)
    first = rows[0]
    result = {
        "name": "evaluation_speed",
        "ours_s": first["ours_s"],
        "peer_s": first["peer_s"],
        "ratio": first["ratio"],
        "peak_mb": None,
        "error": error,
        "cores": os.cpu_count(),
        "threads": 1,
        "rows": rows,
    }
    print(json.dumps(result))
    return int(error is not None and error > SAME)


if __name__ == "__main__":
    sys.exit(main())
