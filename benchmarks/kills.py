"""Random SIGKILLs of driver and actors over a run, against the undisturbed run.

``python -m benchmarks.kills`` kills 20 times, ``--smoke`` 2 times. A run inverts (hybrid) and (not
for the smoke test) annotates a small folder of images on a local Ray with two actors, in a driver
process of its own.
While it goes on, at random moments, either the driver or one of its actors is killed; a killed
driver is started again, until a run ends by itself. Then the store must equal, byte for byte, the
one that an undisturbed run wrote.

``error`` is the number of files that differ. ``ours_s`` is the disturbed runs' time and
``peer_s`` the undisturbed run's, so that ``ratio`` shows what the kills cost.
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
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["smile", "glasses", "beard"]


def main() -> int:
    """Parse the arguments and run; the exit code is 1 when a file differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="2 kills on a few blocks")
    parser.add_argument("--kills", type=int, default=None, help="number of kills (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and victims")
    parser.add_argument("--drive", nargs=2, metavar=("DATA", "STORES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(Path(options.drive[0]), Path(options.drive[1]))
        return 0
    kills = options.kills if options.kills is not None else (2 if options.smoke else 20)
    rows, steps = (400, 30) if options.smoke else (2000, 30)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        plan = {"steps": steps, "annotate": not options.smoke}
        result = compare(Path(folder), rows, plan, kills, options.seed)
    print(f"{'':14}{'seconds':>10}{'runs':>7}")
    print(f"{'undisturbed':14}{result['peer_s']:>10.1f}{1:>7}")
    print(f"{'killed':14}{result['ours_s']:>10.1f}{result['driver_kills'] + 1:>7}")
    print(
        f"{result['driver_kills']} kills of the driver, {result['actor_kills']} of actors; "
        f"{result['files']} files, {result['error']} differ"
    )
    print(json.dumps(result))
    return int(result["error"] != 0)


def compare(
    folder: Path, rows: int, plan: dict[str, object], kills: int, seed: int
) -> dict[str, object]:
    """Make the data, run undisturbed and disturbed, compare the stores."""
    sys.path.insert(0, str(ROOT / "tests"))
    from inversion_fixture import annotator, make, tree

    data = folder / "data"
    setting = make(data, rows)
    annotator(data, "attributes", "scores", NAMES)
    annotator(data, "points", "landmarks", NAMES)
    setting.index.save(data / "index.parquet")
    (data / "plan.json").write_text(json.dumps(plan))

    started = time.monotonic()
    undisturbed = start_driver(data, folder / "undisturbed")
    peak = watch(undisturbed)
    peer_s = time.monotonic() - started

    started = time.monotonic()
    counts = disturb(data, folder / "killed", kills, peer_s, random.Random(seed))
    ours_s = time.monotonic() - started

    expected, found = tree(folder / "undisturbed"), tree(folder / "killed")
    differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    for name in differing[:20]:
        print(f"differs: {name}")
    return {
        "name": "kills",
        "ours_s": round(ours_s, 2),
        "peer_s": round(peer_s, 2),
        "ratio": round(peer_s / ours_s, 3),
        "peak_mb": round(peak / 1e6),
        "error": len(differing),
        "files": len(expected),
        "rows": [{"images": rows, **plan, "kills": kills, "seed": seed}],
        **counts,
        "cores": os.cpu_count(),
        "threads": 1,
    }


def disturb(
    data: Path, stores: Path, kills: int, alone_s: float, rng: random.Random
) -> dict[str, int]:
    """Run until a driver ends by itself, killing ``kills`` times on the way.

    Kills come after a random share of the undisturbed run's time, counted from the driver's start
    or the kill before, so that they fall into starting, loading, working and committing alike.
    The last driver is left alone. Victims that happen to be gone are not counted.
    """
    done = {"driver_kills": 0, "actor_kills": 0}
    planned = ["driver" if rng.random() < 0.4 else "actor" for _ in range(kills)]
    if kills >= 2 and len(set(planned)) == 1:
        planned[0] = "driver" if planned[0] == "actor" else "actor"
    driver = start_driver(data, stores)
    while True:
        pending = done["driver_kills"] + done["actor_kills"] < kills
        wait = rng.uniform(0.2, 0.8) * alone_s if pending else None
        try:
            code = driver.wait(wait)
        except subprocess.TimeoutExpired:
            kind = planned[done["driver_kills"] + done["actor_kills"]]
            if kind == "driver":
                driver.kill()
                driver.wait()
                done["driver_kills"] += 1
                driver = start_driver(data, stores)
            elif kill_actor(driver, rng):
                done["actor_kills"] += 1
            continue
        if code != 0:
            raise SystemExit(f"a driver ended with code {code}")
        if not pending:
            return done
        remove_some(stores, rng)  # all done before all kills: give it something to do
        driver = start_driver(data, stores)


def kill_actor(driver: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """SIGKILL one of the driver's actors; waits a little for one to be there."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline and driver.poll() is None:
        actors = []
        for process in psutil.Process(driver.pid).children(recursive=True):
            try:
                if "MapWorker" in " ".join(process.cmdline()):
                    actors.append(process)
            except psutil.Error:
                continue
        if actors:
            try:
                rng.choice(actors).send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
            return True
        time.sleep(0.05)
    return False


def remove_some(stores: Path, rng: random.Random) -> None:
    """Take the commits of half the blocks of every stage away, as if they had never been made."""
    from schemas.store import LatentStore

    for path in stores.iterdir():
        if path.is_dir():
            store = LatentStore.open(path)
            for stage in store.stages():
                for block in range(store.n_blocks):
                    if rng.random() < 0.5:
                        (path / f"commit/{stage}/c/{block}/0").unlink(missing_ok=True)


def start_driver(data: Path, stores: Path) -> subprocess.Popen[bytes]:
    """A driver process of its own, so that it can be killed."""
    command = [sys.executable, "-m", "benchmarks.kills", "--drive", str(data), str(stores)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def watch(driver: subprocess.Popen[bytes]) -> int:
    """Wait for a driver; its process tree's largest sum of PSS, in bytes."""
    from pipelines.memory import tree_pss

    peak = 0
    while driver.poll() is None:
        try:
            peak = max(peak, tree_pss(driver.pid))
        except psutil.NoSuchProcess:
            break
        time.sleep(1.0)
    if driver.wait() != 0:
        raise SystemExit(f"the undisturbed driver ended with code {driver.returncode}")
    return peak


def drive(data: Path, stores: Path) -> None:
    """What the killed process does: invert, then annotate, to the end."""
    from pipelines.annotate import annotate
    from pipelines.invert import invert
    from pipelines.ray_engine import RayEngine
    from pipelines.sources import FolderSource
    from schemas.index import DatasetIndex
    from schemas.spec_models import AnnotateSpec, InvertSpec

    index = DatasetIndex.load(data / "index.parquet")
    source = FolderSource(str((data / "images").resolve()))
    generator = str(data / "generator.safetensors")
    plan = json.loads((data / "plan.json").read_text())
    spec = InvertSpec(method="hybrid", steps=plan["steps"], block_rows=64, batch_size=16)
    models = [
        AnnotateSpec(name=name, model=str(data / f"{name}.onnx"))
        for name in ("attributes", "points")
    ]
    with RayEngine(actors=2) as engine:
        result = invert(
            index,
            source,
            stores,
            spec,
            name="kills",
            seed=0,
            generator_uri=generator,
            encoder_uri=str(data / "encoder.safetensors"),
            engine=engine,
        )
        if plan["annotate"]:
            path = result.store_path
            annotate(index, source, path, models, generator_uri=generator, engine=engine)


if __name__ == "__main__":
    sys.exit(main())
