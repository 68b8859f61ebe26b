"""Damaged and hostile files of every kind that is read, each read in a process of its own.

``python -m benchmarks.fuzz`` makes valid files of every format of every kind (pictures, tables,
specifications, annotators with their cards, checkpoints, direction files, stores), changes each in
some place (bytes, or by its format: a value, a type, a name, a row, a tensor's shape, an operation
of a pickle) and does with it what a command would do. A case may be accepted (``ok``, with a result
that is what it says), ``refused`` by one of our errors with a clean text, or ``quarantined``.
Counted as ``error`` are

- tracebacks: any other exception, or a result that is not what it says;
- hangs: more than 10 s of processor time, or 20 s by the clock;
- escapes: a file written, renamed or removed outside the case's folder, or the file beside read;
- executions: a command, socket, library, unpickling or code that came from the file.

Crashes of the libraries outside are counted apart, and their input is kept nowhere. `passed` is
the share of the cases that pass the first check of their reader, so that what lies behind it is
reached. The same ``--seed`` gives the same cases; ``--only`` repeats some and shows their errors.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pickle
import random
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fuzzing import cage
from benchmarks.fuzzing.codecs import MARK
from benchmarks.fuzzing.readers import INPUT, KINDS, OK, OUTPUT, QUARANTINED, REFUSED, Case
from benchmarks.fuzzing.seeds import Files, Seed, changed

AT_ONCE = 2
SHARED = (
    "torch._dynamo", "onnx", "onnxruntime", "pandas", "pyarrow.dataset", "zarr",
    "PIL.ImageFile", "pipelines.runs.plan", "pipelines.upkeep.verify",
    "pipelines.downstream.directions", "pipelines.upkeep.inspect", "generators.annotators.load",
    "generators.encoders.load",
)  # fmt: skip
"""Imported before the first process is forked; what else the valid files need, after them."""
FAULTS = ("traceback", "hang", "escape", "executed")
OUTCOMES = (OK, REFUSED, QUARANTINED, *FAULTS, "crash")
_WORST = {OK: 0, QUARANTINED: 1, REFUSED: 2}
Result = dict[str, Any]


def main() -> int:
    """Parse the arguments and run; the exit code is 1 when there is an error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="of each kind (default 1000)")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0, help="other seed, other cases")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of cases to repeat")
    parser.add_argument("--keep", type=Path, help="folder for the files of faults, not of crashes")
    parser.add_argument("--smoke", action="store_true", help="10 cases of each kind")
    options = parser.parse_args()
    numbers = options.only or range(10 if options.smoke else options.cases)
    for name in SHARED:  # once, not in every case
        importlib.import_module(name)
    started, rows, faults = time.monotonic(), [], []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for kind in options.kinds:
            fuzzed = Fuzzed(kind, Path(folder), options.seed, options.keep)
            fuzzed.run(numbers)
            rows.append(fuzzed.row())
            faults += fuzzed.faults()
            if options.only:
                for result in fuzzed.results:
                    print(json.dumps({k: v for k, v in result.items() if k != "trace"}, indent=1))
                    print(result.get("trace", ""))
    print_table(rows)
    for line in faults:
        print(line)
    result = {
        "name": "fuzz", "ours_s": round(time.monotonic() - started, 1), "peer_s": None,
        "ratio": None, "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "cases": sum(row["cases"] for row in rows),
        "error": sum(row[name] for row in rows for name in FAULTS),
        "rows": rows, "cores": os.cpu_count(), "threads": 1,
    }  # fmt: skip
    print(json.dumps(result))
    return int(result["error"] != 0)


def print_table(rows: Iterable[Result]) -> None:
    """What became of the cases of every kind."""
    names = ("cases", "passed", *OUTCOMES)
    print("".join([f"{'kind':<16}{'formats':>8}", *(f"{name:>12}" for name in names)]))
    for row in rows:
        cells = [f"{row['passed']:.0%}" if name == "passed" else str(row[name]) for name in names]
        print("".join([f"{row['kind']:<16}{len(row['formats']):>8}", *(f"{c:>12}" for c in cells)]))
    for row in rows:
        print(f"{row['kind']}: {', '.join(row['formats'])}")


@dataclass
class Running:
    """A case that is being read."""

    pid: int
    number: int
    box: Path
    pipe: int
    started: float
    told: bytearray = field(default_factory=bytearray)
    stopped: bool = False


class Fuzzed:
    """The cases of one kind."""

    def __init__(self, kind: str, folder: Path, seed: int, keep: Path | None) -> None:
        self.kind, self.seed, self.keep = kind, seed, keep
        self.folder = folder / kind
        self.world = self.folder / "world"
        self.world.mkdir(parents=True)
        self.seeds = self._seeds()
        self.results: list[Result] = []
        self.seconds = 0.0

    def _seeds(self) -> list[Seed]:
        """The valid files, made and read in a process apart: libraries start threads, with which
        no process can be forked. What it imported is imported here, once for all cases."""
        made = self.folder / "seeds"
        pid = os.fork()
        if not pid:
            try:
                self._make(made)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(0)
        os.waitpid(pid, 0)
        if not made.exists():
            raise SystemExit(f"the valid files of kind {self.kind!r} are not all read")
        seeds, modules = pickle.loads(made.read_bytes())  # noqa: S301 (written above)
        for name in modules:
            if name not in sys.modules and name != "__main__":
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
        return list(seeds)

    def _make(self, path: Path) -> None:
        """In the child: the valid files, each of which must be accepted."""
        seeds = KINDS[self.kind].seeds(self.world)
        for number, seed in enumerate(seeds):
            os.chdir(self._box(-1 - number) / "case")
            case = written(seed.files, seed.main, seed.format, self.world)
            KINDS[self.kind].first(case)
            for step in KINDS[self.kind].steps:
                outcome = step(case)
                if outcome == REFUSED:
                    raise ValueError(f"valid {seed.format!r} is refused")
        path.write_bytes(pickle.dumps((seeds, sorted(sys.modules))))

    def run(self, numbers: Sequence[int]) -> None:
        """All cases, `AT_ONCE` at a time."""
        started, waiting = time.monotonic(), iter(numbers)
        with selectors.DefaultSelector() as selector:
            running: dict[int, Running] = {}
            while True:
                for number in _next(waiting, AT_ONCE - len(running)):
                    case = self._start(number)
                    running[case.pipe] = case
                    selector.register(case.pipe, selectors.EVENT_READ)
                if not running:
                    break
                for key, _ in selector.select(0.5):
                    case = running[key.fd]
                    data = os.read(case.pipe, 1 << 16)
                    case.told += data
                    if not data:
                        selector.unregister(case.pipe)
                        del running[case.pipe]
                        self.results.append(self._ended(case))
                        self._progress(len(numbers), started)
                for case in running.values():
                    _stop_when_over(case)
        self.results.sort(key=lambda result: result["number"])
        self.seconds = time.monotonic() - started

    def _box(self, number: int) -> Path:
        box = self.folder / str(number)
        for name in (INPUT, OUTPUT):
            (box / "case" / name).mkdir(parents=True)
        (box / cage.CANARY).write_bytes(self._canary)
        return box

    @property
    def _canary(self) -> bytes:
        from benchmarks.fuzzing.data import png

        return png(99)

    def _start(self, number: int) -> Running:
        box = self._box(number)
        receive, send = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            cage.run_forked(lambda tell: self._attempt(number, box, tell), send)
        os.close(send)
        return Running(pid, number, box, receive, time.monotonic())

    def _attempt(self, number: int, box: Path, tell: cage.Tell) -> Result:
        """In the child: change a valid file and read it."""
        os.setsid()
        cage.limit(box)
        rng = random.Random(f"{self.seed}/{self.kind}/{number}")
        seed = rng.choice(self.seeds)
        files, main, how = changed(rng, seed, self.seeds)
        case = written(files, main, seed.format, self.world)
        watch = cage.Watch(box)
        watch.start()
        try:
            KINDS[self.kind].first(case)
            passed = True
        except Exception:  # whatever the libraries raise: the format itself is broken
            passed = False
        tell({"format": seed.format, "how": how, "passed": passed})
        outcome, error = read(self.kind, case)
        watch.stop()
        return {
            "outcome": outcome, "escapes": watch.escapes, "executed": watch.executed,
            **error,
        }  # fmt: skip

    def _ended(self, case: Running) -> Result:
        """What became of a case, its folder looked through and taken away."""
        os.close(case.pipe)
        _, status = os.waitpid(case.pid, 0)
        result: Result = {"number": case.number, "outcome": "broken", "passed": False}
        for line in bytes(case.told).splitlines():
            with contextlib.suppress(ValueError):
                result |= json.loads(line)
        if os.WIFSIGNALED(status):
            found = os.WTERMSIG(status)
            hung = found == signal.SIGXCPU or case.stopped
            result["outcome"] = "hang" if hung else "crash"
            result["error"] = "over the limit" if hung else signal.Signals(found).name
            stderr = (case.box / "stderr").read_text(errors="replace")
            result |= {"place": cage.place_in(stderr), "trace": stderr[-4000:], "text": ""}
        beside = {path.name for path in case.box.iterdir()} - {"case", "stdout", "stderr"}
        if beside != {cage.CANARY} or (case.box / cage.CANARY).read_bytes() != self._canary:
            result.setdefault("escapes", []).append(f"beside the folder: {sorted(beside)!r}")
        if any(MARK in path.name for path in case.box.rglob("*")):
            result.setdefault("executed", []).append("a trace was left")
        for outcome, found in (("escape", "escapes"), ("executed", "executed")):
            if result.get(found):
                result |= {"outcome": outcome, "error": result[found][0][:200]}
        if self.keep is not None and result["outcome"] in FAULTS:
            kept = self.keep / f"{self.kind}-{case.number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(case.box / "case" / INPUT, kept / INPUT, symlinks=True)
            (kept / "fault.json").write_text(json.dumps(result, indent=1))
        if result["outcome"] == "broken":
            raise SystemExit(f"case {case.number} of {self.kind!r} did not run: {result}")
        shutil.rmtree(case.box, ignore_errors=True)
        return result

    def _progress(self, total: int, started: float) -> None:
        done = len(self.results)
        if done % 100 == 0 or done == total:
            seconds = time.monotonic() - started
            print(f"{self.kind}: {done} of {total}, {seconds:.0f} s", file=sys.stderr, flush=True)

    def row(self) -> Result:
        """Of the table."""
        counts = Counter(result["outcome"] for result in self.results)
        total = max(len(self.results), 1)
        return {
            "kind": self.kind,
            "formats": [seed.format for seed in self.seeds],
            "cases": len(self.results),
            "passed": round(sum(result["passed"] for result in self.results) / total, 3),
            **{outcome: counts[outcome] for outcome in OUTCOMES},
            "seconds": round(self.seconds, 1),
        }

    def faults(self) -> list[str]:
        """A line for each place at which cases failed, the most frequent first."""
        groups: dict[tuple[str, ...], list[Result]] = {}
        for result in self.results:
            if result["outcome"] in (*FAULTS, "crash"):
                parts = ("outcome", "error", "place")
                groups.setdefault(tuple(str(result.get(p, "")) for p in parts), []).append(result)
        lines = []
        for key, results in sorted(groups.items(), key=lambda group: -len(group[1])):
            first = results[0]
            text = " ".join(str(first.get("text", "")).split())[:160]
            numbers = ", ".join(str(result["number"]) for result in results[:4])
            where = f"{first.get('format')}, {first.get('how')}"
            lines.append(
                f"{self.kind}: {len(results)} x {' '.join(key)}: {text} ({where}; {numbers})"
            )
        return lines


def _next(waiting: Iterator[int], count: int) -> list[int]:
    return [number for _, number in zip(range(count), waiting, strict=False)]


def _stop_when_over(case: Running) -> None:
    """A signal that writes down where it is, then one that nothing survives."""
    over = time.monotonic() - case.started - cage.WALL_SECONDS
    if over < 0:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(case.pid, signal.SIGXCPU if not case.stopped else signal.SIGKILL)
    case.stopped = True


def written(files: Files, main: str, format: str, world: Path) -> Case:
    """The case whose files now lie in the working folder."""
    for name, data in files.items():
        path = INPUT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Case(format, INPUT / main, world)


def read(kind: str, case: Case) -> tuple[str, Result]:
    """The worst outcome of the kind's steps, and the error with which it came."""
    from schemas.expected_errors import expected
    from transforms.images.quarantine import Quarantine

    worst: tuple[str, Result] = (OK, {})
    for step in KINDS[kind].steps:
        try:
            found: tuple[str, Result] = (step(case) or OK, {})
        except BaseException as e:
            told = expected(e)  # as the command line tells it
            if told is None:
                return "traceback", cage.told(e)
            found = (QUARANTINED if isinstance(told, Quarantine) else REFUSED, cage.told(e))
            if not is_clean(told):
                return "traceback", {**cage.told(e), "error": f"text of {type(e).__name__}"}
        worst = max(worst, found, key=lambda pair: _WORST[pair[0]])
    return worst


def is_clean(error: Exception) -> bool:
    """Whether an error's text can be shown: not empty, no control characters, no traceback."""
    text = str(error)
    shown = all(character.isprintable() or character in "\n\t" for character in text)
    return bool(text.strip()) and shown and "Traceback (most" not in text


if __name__ == "__main__":
    sys.exit(main())
