"""Random SIGKILLs over a whole run, against the undisturbed run.

``python -m benchmarks.kills`` kills 50 times, ``--smoke`` once. The run is ``latentflow run``
on tiny models and a small folder of pictures: index, invert (hybrid) and annotate on a local Ray
with two actors, analyse on Beam with worker processes, evaluate, report. At random moments its
driver, one of its Ray actors or one of its Beam workers is killed, up to four times in a trial; a
driver that was killed, or that ended for it, is started again, until a run ends by itself. Then
index, store and directions must equal, byte for byte, those of the undisturbed run. For the next
trial a part of what was made is taken away again, so that there is something to do.

``survived`` of ``tried`` kills belong to trials that ended so; a run that hangs until it is killed
for it is counted under ``hung`` and its trial's kills did not survive. ``error`` is the number of
files that differ. ``ours_s`` is the disturbed runs' time and ``peer_s`` the undisturbed run's
times the number of trials, so that ``ratio`` shows what the kills cost.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

#: Part of the command lines of the processes that are killed.
VICTIMS = {"actor": "WorkActor", "beam": "sdk_worker_main", "raylet": "/raylet/raylet"}
FINISHED = (0, 3)
EARLY_S = 5.0


@dataclass
class Tally:
    """What has been killed, and what became of it."""

    kills: dict[str, int]
    during: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    ended_early: int = 0
    hung: int = 0
    survived: int = 0
    differing: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """All kills."""
        return sum(self.kills.values())


def main() -> int:
    """Parse the arguments and run; the exit code is 1 when a kill was not survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="1 kill, up to the analyses")
    parser.add_argument("--kills", type=int, default=None, help="number of kills (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and victims")
    parser.add_argument("--rows", type=int, default=None, help="pictures (default 300)")
    options = parser.parse_args()
    kills = options.kills if options.kills is not None else (1 if options.smoke else 50)
    rows = options.rows if options.rows is not None else (130 if options.smoke else 300)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        whole = not options.smoke
        result = compare(Path(folder), rows, kills, options.seed, whole)
    print(f"{'':14}{'seconds':>10}{'runs':>7}")
    print(f"{'undisturbed':14}{result['peer_s']:>10.1f}{result['trials']:>7}")
    print(f"{'killed':14}{result['ours_s']:>10.1f}{result['runs']:>7}")
    killed = ", ".join(f"{n} {kind}" for kind, n in result["kills"].items())
    print(
        f"{result['survived']} of {result['tried']} kills survived ({killed}); "
        f"{result['files']} files, {result['error']} differ"
    )
    print(json.dumps(result))
    return int(result["survived"] != result["tried"])


def compare(folder: Path, rows: int, kills: int, seed: int, whole: bool) -> dict[str, Any]:
    """Make the data, run undisturbed and disturbed, compare what is left.

    whole : the whole path, with Beam workers; else up to the analyses, which the driver makes.
    """
    command = "run" if whole else "analyse"
    spec = prepare(folder / "data", rows, whole)
    started = time.monotonic()
    undisturbed = start(spec, "undisturbed", command)
    peak = watch(undisturbed)
    alone_s = time.monotonic() - started
    expected = results(folder / "data/undisturbed")

    kinds = ["driver", "actor", "beam"] if whole else ["driver", "actor"]
    tally, rng = Tally(dict.fromkeys(kinds, 0)), random.Random(seed)
    trials, share = 0, 1.0
    out = folder / "data/killed"
    started = time.monotonic()
    while tally.tried < kills:
        before, hung = tally.tried, tally.hung
        if trials:
            share = take_away(out, rng)
        todo_s = alone_s * (0.3 + 0.7 * share)
        disturb(spec, out, min(rng.randint(1, 4), kills - before), todo_s, rng, tally, command)
        trials += 1
        print(f"trial {trials}: {tally.tried} of {kills} kills", flush=True)
        found = results(out)
        wrong = sorted(n for n in expected | found if expected.get(n) != found.get(n))
        if not wrong and tally.hung == hung:
            tally.survived += tally.tried - before
        for name in wrong[:10]:
            print(f"trial {trials} differs: {name}", flush=True)
        tally.differing += wrong
    ours_s = time.monotonic() - started
    return {
        "name": "kills",
        "ours_s": round(ours_s, 2),
        "peer_s": round(alone_s * trials, 2),
        "ratio": round(alone_s * trials / ours_s, 3),
        "peak_mb": round(peak / 1e6),
        "error": len(tally.differing),
        "files": len(expected),
        "tried": tally.tried,
        "survived": tally.survived,
        "kills": tally.kills,
        "during": tally.during,
        "trials": trials,
        "runs": tally.runs,
        "ended_early": tally.ended_early,
        "hung": tally.hung,
        "rows": [{"images": rows, "seed": seed, "beam_processes": whole}],
        "cores": os.cpu_count(),
        "threads": 1,
    }


INVERT = {"method": "hybrid", "steps": 30, "batch_size": 16, "block_rows": 64}


def prepare(data: Path, rows: int, beam: bool, invert: dict[str, Any] | None = None) -> Path:
    """Pictures, models and the specification; its output folder is put in by ``start``."""
    from tiny_run import make_tiny, spec_of, write_spec

    make_tiny(data, rows)
    analyse = spec_of(data)["analyse"]
    changes: dict[str, Any] = {
        "invert": invert or INVERT,
        "ray": {"actors": 2, "object_store_mb": 80},
        "analyse": {name: analyse[name] for name in ("pca", "mean_difference", "hosvd")},
    }
    if beam:
        changes["beam"] = {
            "options": ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
        }
    return write_spec(data, spec_of(data, **changes))


def start(spec: Path, output: str, command: str, *options: str) -> subprocess.Popen[bytes]:
    """``latentflow run`` (or another command) in a process of its own."""
    given = spec.read_text().replace("output: out", f"output: {output}")
    own = spec.with_name(f"{output}.yaml")
    own.write_text(given)
    line = [sys.executable, "-m", "pipelines", command, str(own), *options]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def results(out: Path) -> dict[str, str]:
    """sha256 of every file of the index, the store and the directions of a run."""
    from inversion_fixture import tree

    facts = json.loads((out / "run.json").read_text())
    found = {}
    for part in ("store", "directions"):
        found |= {f"{part}/{n}": digest for n, digest in tree(out / facts[part]).items()}
    found |= {n: digest for n, digest in tree(out).items() if n == "index.parquet"}
    return found


# ---------------------------------------------------------------------------------------------
# Killing


def disturb(
    spec: Path,
    out: Path,
    kills: int,
    todo_s: float,
    rng: random.Random,
    tally: Tally,
    command: str,
) -> None:
    """Run until a driver ends well by itself, killing up to ``kills`` times on the way.

    todo_s : about the time that an undisturbed run would take. The last driver is left alone.
    """
    limit_s = max(120.0, 6 * todo_s)
    for _ in range(kills):
        driver = start(spec, out.name, command)
        tally.runs += 1
        kill_one(driver, out, todo_s, rng, tally)
        if finish(driver, limit_s, tally) in FINISHED:
            return
    driver = start(spec, out.name, command)
    tally.runs += 1
    code = finish(driver, limit_s, tally)
    if code not in FINISHED:
        tally.differing.append(f"the last run ended with code {code}")


def finish(driver: subprocess.Popen[bytes], limit_s: float, tally: Tally) -> int:
    """Wait for a driver; one that hangs is killed, with everything below it."""
    try:
        code = driver.wait(limit_s)
    except subprocess.TimeoutExpired:
        tally.hung += 1
        children = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        for child in children:
            if child.is_running():
                child.kill()
        return driver.wait()
    if code not in (*FINISHED, -signal.SIGKILL):
        tally.ended_early += 1
    return code


def kill_one(
    driver: subprocess.Popen[bytes], out: Path, todo_s: float, rng: random.Random, tally: Tally
) -> None:
    """SIGKILL driver, actor or Beam worker, each as likely; nothing when the run ends before.

    The driver at a random moment of the run, the others, which come and go, at one of the first
    `EARLY_S` seconds after there is one.
    """
    kind, latest = rng.choice(sorted(tally.kills)), time.monotonic() + 6 * todo_s
    while kind != "driver" and driver.poll() is None and not victims_of(driver.pid, kind):
        if time.monotonic() > latest:  # it hangs, as `finish` will tell
            return
        time.sleep(0.05)
    try:
        driver.wait(rng.uniform(0.05, 0.95) * (todo_s if kind == "driver" else EARLY_S))
        return
    except subprocess.TimeoutExpired:
        victims = victims_of(driver.pid, kind)
    if not victims:
        return
    try:
        rng.choice(victims).kill()
    except psutil.NoSuchProcess:
        return
    tally.kills[kind] += 1
    stage = progress_of(out)
    tally.during[stage] = tally.during.get(stage, 0) + 1


def victims_of(driver: int, kind: str) -> list[psutil.Process]:
    """Processes of one kind that belong to a driver."""
    found = []
    try:
        top = psutil.Process(driver)
        if kind == "driver":
            return [top]
        for process in top.children(recursive=True):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if VICTIMS[kind] in line:
                found.append(process)
    except psutil.NoSuchProcess:
        return []
    return found


def progress_of(out: Path) -> str:
    """How far the killed run had come, by what lies in its folder."""
    from schemas.errors import LatentflowError
    from schemas.store.latent_store import LatentStore

    stores = [p for p in out.glob("stores/*") if (p / "zarr.json").exists()]
    if not stores:
        return "before the store"
    try:
        store = LatentStore.open(stores[0])
        waiting = [s for s in store.stages() if not store.committed(s).any(axis=1).all()]
    except (LatentflowError, OSError, ValueError, KeyError):
        return "while the store was laid out"
    if "invert" in waiting or store.stages() == ["invert"]:
        return "invert"
    if waiting:
        return "annotate"
    return "evaluate and report" if (out / "evaluation.json").exists() else "analyse and behind"


def take_away(out: Path, rng: random.Random) -> float:
    """Commits of some blocks, some models, the evaluation, the report, as if never made.

    Returns the share of the blocks.
    """
    facts = json.loads((out / "run.json").read_text())
    share = rng.choice([0.25, 0.5, 1.0])
    for commit in sorted((out / facts["store"] / "commit").glob("*/c/*/0")):
        if rng.random() < share:
            commit.unlink()
    for model in sorted((out / facts["directions"] / "models").glob("*/zarr.json")):
        if rng.random() < 0.7:
            model.unlink()
    for name in ("evaluation.json", "report.html"):
        (out / name).unlink(missing_ok=True)
    return share


def watch(driver: subprocess.Popen[bytes]) -> int:
    """Wait for the undisturbed driver; its process tree's largest sum of PSS, in bytes."""
    from pipelines.engine.memory import tree_pss

    peak = 0
    while driver.poll() is None:
        try:
            peak = max(peak, tree_pss(driver.pid))
        except psutil.NoSuchProcess:
            break
        time.sleep(2.0)
    if driver.wait() not in FINISHED:
        raise SystemExit(f"the undisturbed driver ended with code {driver.returncode}")
    return peak


if __name__ == "__main__":
    sys.exit(main())
