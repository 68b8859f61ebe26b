"""What goes wrong on a cluster while a dataset is inverted, and whether the store comes out whole.

``python -m benchmarks.faults`` inverts 256 pictures on tiny models with two Ray actors, undisturbed
and then under each fault, three times (``--times``; ``--only`` chooses faults):

driver, actor, raylet
    SIGKILL amid the inversion, after a number of committed blocks drawn at random; a run that ends
    for it is started again. Survived when the store's bytes are those of the undisturbed run.
disk
    The output lies on a file system (a tmpfs in a mount namespace of its own) that is too small by
    a random share; then it is made larger, and the run started again. Survived when the first run
    ends with the error "file_system" and the store's bytes are the same.
nan
    All pixels of a random row are NaN, beside the others of its batch. Survived when this row alone
    is quarantined, and the arrays of all others are the same to the bit.
memory
    Batches of more than half the batch size raise torch's error of memory (injected). Survived when
    the run says that it halved batches, and every row is there, with its code up to rounding:
    batches of other sizes round differently.
second
    A second run starts amid the first, then a third that waits. Survived when the second is
    refused, the others end well, and the store's bytes are the same.

A run that does not end within its time has not survived, and is killed. ``error`` is tried minus
survived. ``ours_s`` is the time of all disturbed runs, ``peer_s`` the undisturbed run's for each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import faulty_method
from benchmarks.kills import FINISHED, ROOT, prepare, start, victims_of, watch

LIMIT_S = 120.0
"""For one run; the undisturbed one takes seconds."""
PAUSE_S = 0.15
"""Before every batch, so that there is an amid."""
LOCKED = 75
BATCH = 16
CLOSE = 1e-3
"""Largest difference of codes of other batch sizes."""
KILLED = ("driver", "actor", "raylet")


@dataclass
class Row:
    """One fault. failures : what was not as it should be; left_over : processes that outlived their
    driver by ten seconds, and were then killed."""

    fault: str
    tried: int = 0
    survived: int = 0
    runs: int = 0
    seconds: float = 0.0
    left_over: int = 0
    failures: list[str] = field(default_factory=list)


class FaultError(Exception):
    """A fault was not survived."""


def main() -> int:
    """Parse the arguments and run; the exit code is 1 when a fault was not survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=3, help="of each fault (default 3)")
    parser.add_argument("--only", nargs="*", choices=list(FAULTS), help="faults; default: all")
    parser.add_argument("--rows", type=int, default=256, help="pictures (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and rows")
    parser.add_argument("--smoke", action="store_true", help="'nan' once, 130 pictures")
    options = parser.parse_args()
    if options.smoke:
        options.times, options.only, options.rows = 1, ["nan"], 130
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        trials = Trials(Path(folder), options.rows, random.Random(options.seed))
        rows = [trials.of(fault, options.times) for fault in options.only or FAULTS]
    alone_s = trials.alone_s
    tried, survived = sum(r.tried for r in rows), sum(r.survived for r in rows)
    ours_s, runs = sum(r.seconds for r in rows), sum(r.runs for r in rows)
    print(f"undisturbed: {alone_s:.1f} s; {survived} of {tried} faults survived")
    result = {
        "name": "faults",
        "ours_s": round(ours_s, 2),
        "peer_s": round(alone_s * runs, 2),
        "ratio": round(alone_s * runs / max(ours_s, 1e-9), 3),
        "peak_mb": round(trials.peak / 1e6),
        "error": tried - survived,
        "tried": tried,
        "survived": survived,
        "rows": [{**vars(row), "seconds": round(row.seconds, 2)} for row in rows],
        "images": options.rows,
        "cores": os.cpu_count(),
        "threads": 1,
    }
    print(json.dumps(result))
    return int(tried != survived)


class Trials:
    """A data set, its undisturbed inversion, and disturbed ones beside it."""

    def __init__(self, folder: Path, rows: int, rng: random.Random) -> None:
        self.rng, self.data, self.told = rng, folder / "data", folder / "faults.json"
        method = {"method": faulty_method.NAME, "steps": 5, "batch_size": BATCH, "block_rows": 64}
        self.spec = prepare(self.data, rows, beam=False, invert=method)
        self.images = sorted((self.data / "images").iterdir())
        faulty_method.install(folder / "plugin")
        path = [str(ROOT), str(folder / "plugin"), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        os.environ[faulty_method.FILE] = str(self.told)
        self.number = 0
        self.tell()
        started = time.monotonic()
        self.peak = watch(start(self.spec, "undisturbed", "invert"))
        self.alone_s = time.monotonic() - started
        self.expected = self.tree("undisturbed")

    def tell(self, **faults: Any) -> None:
        """What goes wrong from now on."""
        self.told.write_text(json.dumps(faults))

    def of(self, fault: str, times: int) -> Row:
        """A fault, several times."""
        row = Row(fault)
        for _ in range(times):
            self.number += 1
            trial = Trial(self, row, f"out{self.number}")
            started = time.monotonic()
            row.tried += 1
            try:
                FAULTS[fault](trial)
                row.survived += 1
            except FaultError as e:
                row.failures.append(str(e))
                print(f"{fault}: {e}", flush=True)
            finally:
                row.left_over += trial.clear()
                row.seconds += time.monotonic() - started
        print(f"{fault:8} {row.survived} of {row.tried}, {row.seconds:.1f} s", flush=True)
        return row

    def tree(self, output: str) -> dict[str, str]:
        """sha256 of every file of a run's store."""
        from inversion_fixture import tree

        return tree(self.data / output / "stores")


class Trial:
    """One fault once. output : name of the run's folder."""

    def __init__(self, trials: Trials, row: Row, output: str) -> None:
        self.trials, self.row, self.output, self.rng = trials, row, output, trials.rng
        self.out = trials.data / output
        self.seen: dict[int, psutil.Process] = {}

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """A run, into the trial's folder."""
        self.row.runs += 1
        return start(self.trials.spec, self.output, "invert", *options)

    def end(self, driver: subprocess.Popen[bytes]) -> int:
        """Its exit code. Raises FaultError for a run that does not end."""
        try:
            return driver.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.look(driver)
            driver.kill()
            driver.wait()
            raise FaultError(f"a run did not end within {LIMIT_S:.0f} s") from None

    def look(self, driver: subprocess.Popen[bytes]) -> None:
        """Remember the processes of a driver."""
        try:
            found = psutil.Process(driver.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        self.seen |= {process.pid: process for process in found}

    def clear(self) -> int:
        """End what outlived its driver; how many there were."""
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=10)
        for process in alive:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        return len(alive)

    def amid(self, driver: subprocess.Popen[bytes]) -> None:
        """Wait until some blocks are committed. Raises FaultError for a run that ends before."""
        n_blocks = -(-len(self.trials.images) // 64)
        wanted = self.rng.randrange(n_blocks - 1)
        latest = time.monotonic() + LIMIT_S
        while driver.poll() is None and time.monotonic() < latest:
            done = len(list(self.out.glob("stores/*/commit/*/c/*/0")))
            if done >= wanted and victims_of(driver.pid, "actor"):
                time.sleep(self.rng.uniform(0.0, PAUSE_S))
                self.look(driver)
                return
            time.sleep(0.02)
        raise FaultError("the run ended before the fault")

    def check_bytes(self) -> None:
        """Raise FaultError unless the store is the undisturbed one's."""
        expected, found = self.trials.expected, self.trials.tree(self.output)
        wrong = sorted(n for n in expected | found if expected.get(n) != found.get(n))
        if wrong:
            raise FaultError(f"{len(wrong)} files differ, such as {wrong[0]!r}")

    def finished(self, driver: subprocess.Popen[bytes]) -> None:
        """Raise FaultError unless a run ends well."""
        code = self.end(driver)
        if code not in FINISHED:
            raise FaultError(f"a run without fault ended with code {code}")

    def arrays(self, output: str) -> dict[str, Any]:
        """Every array of a run's store, and the rows' status."""
        from schemas.store.latent_store import LatentStore

        (path,) = (p for p in (self.trials.data / output / "stores").iterdir() if p.is_dir())
        store = LatentStore.open(path)
        found = {name: store.array(name)[:] for name in store.arrays("invert")}
        return {**found, "reason": store.reason("invert")}

    def detail(self) -> dict[str, Any]:
        """What the run says of its inversion."""
        stages = json.loads((self.out / "run.json").read_text())["stages"]
        return dict(next(s["detail"] for s in stages if s["name"] == "invert"))


# ---------------------------------------------------------------------------------------------
# The faults


def kill(kind: str) -> Callable[[Trial], None]:
    """SIGKILL of a process of one kind."""

    def fault(trial: Trial) -> None:
        trial.trials.tell(pause_s=PAUSE_S)
        driver = trial.start()
        trial.amid(driver)
        trial.rng.choice(victims_of(driver.pid, kind)).send_signal(signal.SIGKILL)
        if trial.end(driver) not in FINISHED:
            if kind == "actor":
                raise FaultError("the run ended for the death of an actor")
            trial.finished(trial.start())
        trial.check_bytes()

    return fault


def disk(trial: Trial) -> None:
    """A file system that is full."""
    trial.trials.tell()
    files = [f for f in (trial.trials.data / "undisturbed").rglob("*") if f.is_file()]
    pages = sum(1 + -(-f.stat().st_size // 4096) for f in files)
    pages = int(pages * trial.rng.uniform(0.2, 0.8))
    spec = trial.trials.data / f"{trial.output}.yaml"
    text = trial.trials.spec.read_text()
    spec.write_text(text.replace("output: out", f"output: {trial.output}"))
    run = f"{sys.executable} -m pipelines invert {spec}"
    script = f"""
        mkdir {trial.out} && mount -t tmpfs -o size={pages * 4}k tmpfs {trial.out} || exit 99
        {run}; first=$?
        mount -o remount,size=1g {trial.out}
        {run} || exit 98
        cp -r {trial.out} {trial.out}.copy
        exit $first
    """
    trial.row.runs += 2
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=2 * LIMIT_S,
    )  # fmt: skip
    if done.returncode == 99:
        raise FaultError(f"no file system of its own can be mounted here: {done.stderr[-200:]}")
    if done.returncode == 98:
        raise FaultError(f"the run with space again did not end well: {done.stderr[-300:]}")
    if done.returncode in FINISHED:
        raise FaultError(f"a disk of {pages} pages was not full")
    if "error (file_system)" not in done.stderr:
        raise FaultError(f"the full disk was not told: {done.stderr[:300]}")
    trial.out.rmdir()
    Path(f"{trial.out}.copy").rename(trial.out)
    trial.check_bytes()


def nan(trial: Trial) -> None:
    """A row that diverges beside others."""
    import numpy as np

    from schemas.store.reasons import Reason
    from transforms.images.preprocess import decode, fit, to_float

    at = trial.rng.randrange(len(trial.trials.images))
    pixels = to_float(fit(decode(trial.trials.images[at].read_bytes()), 16)[None])
    trial.trials.tell(nan=float(pixels.astype(np.float64).mean()))
    trial.finished(trial.start())
    fine, found = trial.arrays("undisturbed"), trial.arrays(trial.output)
    others = np.arange(len(fine["reason"])) != at
    lost = np.flatnonzero(found["reason"]).tolist()
    if lost != [at] or found["reason"][at] != Reason.NOT_FINITE:
        raise FaultError(f"rows {lost} are set aside, not {at} as not finite")
    for name, values in fine.items():
        if values[others].tobytes() != found[name][others].tobytes():
            raise FaultError(f"other rows of {name!r} differ")


def memory(trial: Trial) -> None:
    """Batches that do not fit."""
    import numpy as np

    trial.trials.tell(most=BATCH // 2)
    trial.finished(trial.start())
    if not trial.detail()["batches_halved_for_memory"]:
        raise FaultError("the run does not say that it halved batches")
    fine, found = trial.arrays("undisturbed"), trial.arrays(trial.output)
    if found["reason"].any():
        raise FaultError(f"{np.count_nonzero(found['reason'])} rows are set aside")
    for name, values in fine.items():
        if name.startswith("latents/") and np.abs(values - found[name]).max() > CLOSE:
            raise FaultError(f"{name!r} differs by {np.abs(values - found[name]).max():.3g}")


def second(trial: Trial) -> None:
    """Other runs on the same store."""
    trial.trials.tell(pause_s=PAUSE_S)
    first = trial.start()
    trial.amid(first)
    refused = trial.end(trial.start())
    late = first.poll() is not None
    waiting = trial.start("--wait", str(int(LIMIT_S)))
    trial.finished(first)
    trial.finished(waiting)
    if refused != LOCKED and not (late and refused in FINISHED):
        raise FaultError(f"a second run ended with code {refused}, not {LOCKED}")
    trial.check_bytes()


FAULTS: dict[str, Callable[[Trial], None]] = {
    **{kind: kill(kind) for kind in KILLED},
    "disk": disk,
    "nan": nan,
    "memory": memory,
    "second": second,
}

if __name__ == "__main__":
    sys.exit(main())
