"""Ctrl-C, SIGTERM, two runs at a time: with real processes and real signals."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from digests import tree_digest
from inversion_fixture import make
from places import ROOT
from rich.console import Console
from tiny_run import run_tiny, spec_of, write_spec

from pipelines.engine.blocks import InProcess
from pipelines.engine.interruption import Interruption
from pipelines.stages.invert import invert
from schemas.errors import LockedError, RunInterruptedError
from schemas.store.latent_store import LatentStore
from schemas.store.lock import StoreLock, run_lock

SCRIPT = """
import sys
sys.path[:0] = ["tests", "."]
from tiny_run import in_process
from pipelines.cli import main
with in_process():
    main(sys.argv[1:])
"""


STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def no_process_stays():
    """A test that fails leaves none at work."""
    yield
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stderr.close()
    STARTED.clear()


@pytest.fixture
def world(tiny: Path, tmp_path: Path) -> Path:
    """The tiny run's inputs, nothing run yet, an inversion that takes its time."""
    root = tmp_path / "world"
    shutil.copytree(tiny, root, ignore=shutil.ignore_patterns("out"))
    return root


def slow(root: Path, steps: int) -> Path:
    given = {"method": "optimise", "steps": steps, "batch_size": 16, "block_rows": 64}
    return write_spec(root, spec_of(root, invert=given))


def start(*arguments: str | Path, ray: bool = False) -> subprocess.Popen[bytes]:
    """The command line in a process and process group of its own."""
    command = ["-m", "pipelines"] if ray else ["-c", SCRIPT]
    process = subprocess.Popen(
        [sys.executable, *command, *map(str, arguments)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    STARTED.append(process)
    return process


def until(condition, process: subprocess.Popen[bytes], seconds: float = 300.0) -> None:
    """Wait for a condition while the process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def store_path(root: Path) -> Path | None:
    found = [p for p in (root / "out/stores").glob("tiny-*") if p.is_dir()]
    return found[0] if found else None


def begun(root: Path):
    """Whether the store has been laid out, just before the first block."""
    return lambda: (path := store_path(root)) and (path / "commit/invert/zarr.json").exists()


def committed(root: Path) -> int:
    store = LatentStore.open(store_path(root))
    return int(store.committed("invert").any(axis=1).sum())


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, text = process.communicate(timeout=280)
    return process.returncode, text.decode()


# ---- the parts ----------------------------------------------------------------------------------


def test_the_first_signal_asks_and_the_handlers_come_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StoreLock(tmp_path / "s") as lock, Interruption() as stop:
        stop.check()
        stop.watch(lock)
        assert json.loads(lock.path.read_text())["state"] == "running "
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested and lock.stopping and lock.owned()
        assert json.loads(lock.path.read_text())["state"] == "stopping"
        with pytest.raises(RunInterruptedError) as caught:
            stop.check()
        assert caught.value.exit_code == 130
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize("asked", [64, 128])
def test_blocks_in_hand_are_finished_and_no_other_is_begun(tmp_path, asked):
    setting = make(tmp_path / "data", 200)

    def run(root: Path, lock: StoreLock | None = None, progress=None):
        return invert(
            setting.index, setting.source, setting.identity(root),
            engine=InProcess(), lock=lock, progress=progress,
        )  # fmt: skip

    whole = run(tmp_path / "whole")
    path = str(tmp_path / "stopped" / Path(whole.store_path).name)

    def progress(done: int, total: int) -> None:
        if done == asked:
            lock.ask_to_stop()

    with StoreLock(path) as lock:
        with pytest.raises(RunInterruptedError, match=f"{asked // 64} of 4 blocks"):
            run(tmp_path / "stopped", lock, progress)
    done = LatentStore.open(path).committed("invert").any(axis=1)
    assert done.tolist() == [i < asked // 64 for i in range(4)]
    assert run(tmp_path / "stopped").blocks_done == 4 - asked // 64
    assert tree_digest(tmp_path / "stopped") == tree_digest(tmp_path / "whole")


class StopAfter(Interruption):
    """Asked to stop at the n-th look."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def check(self) -> None:
        self.looks -= 1
        self.requested = self.looks < 0
        super().check()


def test_a_run_that_is_stopped_again_and_again_ends_as_an_undisturbed_one(world, tiny):
    (world / "out").mkdir()
    shutil.copy(tiny / "out/index.parquet", world / "out")
    looks, stopped = 2, 0
    while True:
        try:
            assert run_tiny(world / "spec.yaml", stop=StopAfter(looks)).exit_code == 3
            break
        except RunInterruptedError:
            assert json.loads((world / "out/run.json").read_text())["exit_code"] == 130
            looks, stopped = looks * 3, stopped + 1
    assert stopped >= 3
    for part in ("stores", "directions"):
        assert tree_digest(world / "out" / part) == tree_digest(tiny / "out" / part)


# ---- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_behind_the_block_in_hand(world, number):
    spec = slow(world, 40)
    process = start("invert", spec)
    until(begun(world), process)
    process.send_signal(number)
    code, text = ended(process)
    assert code == 130 and "stopping" in text and "Traceback" not in text, text
    facts = json.loads((world / "out/run.json").read_text())
    assert facts["exit_code"] == 130 and [s["name"] for s in facts["stages"]] == ["index"]
    assert committed(world) <= 1  # the one in hand, if there was one already
    left = [p for name in ("*.lock", "*.partial") for p in (world / "out").rglob(name)]
    assert not [p for p in left if p.is_file()]  # a folder may hold the block's finished parts
    assert run_tiny(spec, "invert").exit_code == 3
    assert committed(world) == 2


def test_a_second_signal_ends_it_at_once(world):
    process = start("invert", slow(world, 100_000))
    until(begun(world), process)
    process.send_signal(signal.SIGINT)
    assert any(b"stopping" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and committed(world) == 0
    with run_lock(world / "out") as lock, StoreLock(store_path(world)) as other:
        assert lock.owned() and other.owned()  # those of the dead process were taken over


def test_ctrl_c_in_a_terminal_stops_ray_as_well(world):
    """The terminal signals the whole process group, Ray's processes too."""
    spec = write_spec(
        world,
        spec_of(
            world,
            invert={"method": "hybrid", "steps": 150, "batch_size": 16, "block_rows": 64},
            ray={"actors": 1, "object_store_mb": 80},
        ),
    )
    process = start("invert", spec, ray=True)
    until(begun(world), process)

    def at_work() -> bool:
        children = psutil.Process(process.pid).children(recursive=True)
        return any("WorkActor" in " ".join(_cmdline(child)) for child in children)

    until(at_work, process)
    children = psutil.Process(process.pid).children(recursive=True)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    code, text = ended(process)
    assert code == 130 and "stopping" in text and "Traceback" not in text, text
    assert json.loads((world / "out/run.json").read_text())["exit_code"] == 130
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert committed(world) < 2 and not list((world / "out").rglob("*.lock"))
    assert run_tiny(spec, "invert").exit_code == 3


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# ---- two runs -----------------------------------------------------------------------------------


def age_heartbeat(path: Path) -> None:
    """As if the holder had not been seen for an hour."""
    old = f"{time.time() - 3600:017.3f}"
    text = path.read_text()
    with open(path, "r+") as file:
        file.write(re.sub(r'"heartbeat": "[0-9.]+"', f'"heartbeat": "{old}"', text))


def test_a_second_run_says_who_is_at_work_waits_or_takes_over(world):
    spec = slow(world, 60)
    first = start("invert", spec)
    until(begun(world), first)
    first.send_signal(signal.SIGSTOP)  # it would be done too soon
    with pytest.raises(LockedError, match=f"process {first.pid} on host"):
        run_tiny(spec, "invert")
    for path in ((world / "out/run.lock"), store_path(world).with_suffix(".lock")):
        age_heartbeat(path)
    assert run_tiny(spec, "invert").exit_code == 3  # suspended for an hour: taken over
    facts, clean = (world / "out/run.json").read_bytes(), tree_digest(store_path(world))
    first.send_signal(signal.SIGCONT)
    code, text = ended(first)
    assert code == 75 and ("no longer holds" in text or "has taken the store over" in text), text
    assert (world / "out/run.json").read_bytes() == facts
    assert tree_digest(store_path(world)) == clean


def test_a_waiting_run_goes_on_when_the_other_one_ends(world):
    spec = slow(world, 30)
    first = start("invert", spec)
    until(begun(world), first)
    said = io.StringIO()
    result = run_tiny(spec, "invert", wait_s=280, console=Console(file=said))
    assert first.wait(5) == 3 and result.exit_code == 3
    assert "waiting" in said.getvalue() and f"process {first.pid}" in said.getvalue()
    stages = json.loads((world / "out/run.json").read_text())["stages"]
    assert all(stage["skipped"] for stage in stages)  # there was nothing left to do


def test_an_error_behind_a_takeover_is_told_as_the_takeover(world, monkeypatch):
    def gone(*_, **__):
        (world / "out" / "run.lock").unlink()  # as a takeover removes it
        raise FileNotFoundError(2, "No such file or directory", "zarr.json")

    monkeypatch.setattr("pipelines.runs.run.build_index", gone)
    with pytest.raises(LockedError, match="no longer holds its lock") as told:
        run_tiny(slow(world, 1), "index")
    assert isinstance(told.value.__cause__, FileNotFoundError)
