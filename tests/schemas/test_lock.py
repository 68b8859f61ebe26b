"""One writer per store: exclusive creation, staleness, takeover, and noticing a loss."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from places import ROOT

from schemas.errors import LockedError, StoreError
from schemas.store.lock import StoreLock, _host


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def write_lock(path: Path, **facts) -> None:
    defaults = {"owner": "other", **_host(), "pid": dead_pid(), "heartbeat": f"{time.time():.3f}"}
    path.write_text(json.dumps({**defaults, **facts}))


def test_lock_lies_beside_the_store_and_goes_away(tmp_path):
    store = tmp_path / "faces-0123"
    store.mkdir()
    with StoreLock(store) as lock:
        assert lock.path == tmp_path / "faces-0123.lock"
        facts = json.loads(lock.path.read_text())
        assert {"owner", "host", "boot", "pid", "heartbeat"} <= facts.keys()
        assert lock.owned()
        lock.check()
    assert not lock.owned()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["faces-0123"]


def test_second_lock_is_refused_with_the_holder(tmp_path):
    with StoreLock(tmp_path / "s") as first:
        with pytest.raises(LockedError, match=r"process \d+ on host .*wait for that run") as caught:
            StoreLock(tmp_path / "s").acquire()
        assert caught.value.exit_code == 75
        assert first.owned()
        with pytest.raises(LockedError, match="already holds"):
            first.acquire()
    with StoreLock(tmp_path / "s") as again:
        assert again.owned()


def test_waiting_takes_the_lock_when_it_is_given_back(tmp_path):
    first = StoreLock(tmp_path / "s").acquire()
    timer = threading.Timer(0.3, first.release)
    timer.start()
    with StoreLock(tmp_path / "s").acquire(wait_s=10) as second:
        assert second.owned()
    timer.join()


def test_lock_of_a_killed_process_is_taken_over(tmp_path):
    script = (
        "import os, signal, sys; from schemas.store.lock import StoreLock; "
        "StoreLock(sys.argv[1]).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "s")]
    result = subprocess.run(command, cwd=ROOT, check=False)
    assert result.returncode == -9
    assert (tmp_path / "s.lock").exists()
    with StoreLock(tmp_path / "s") as lock:
        assert lock.owned()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "facts", [{"host": "elsewhere"}, {"boot": "another"}, {"pid_namespace": ""}]
)
def test_a_pid_of_another_place_says_nothing(tmp_path, facts):
    write_lock(tmp_path / "s.lock", **facts)
    with pytest.raises(LockedError):
        StoreLock(tmp_path / "s").acquire()
    write_lock(tmp_path / "s.lock", **facts, heartbeat=f"{time.time() - 301:.3f}")
    with StoreLock(tmp_path / "s") as lock:
        assert lock.owned()


@pytest.mark.parametrize("content", [b"\xff{", b"{}", b"[1]", b""])
def test_a_damaged_lock_counts_until_it_is_old(tmp_path, content):
    (tmp_path / "s.lock").write_bytes(content)
    with pytest.raises(LockedError):
        StoreLock(tmp_path / "s").acquire()
    with StoreLock(tmp_path / "s", heartbeat_s=0.01, stale_s=0.02).acquire(wait_s=5) as lock:
        assert lock.owned()


def test_heartbeat_keeps_the_lock_alive(tmp_path):
    with StoreLock(tmp_path / "s", heartbeat_s=0.05, stale_s=1.0) as lock:
        first = json.loads(lock.path.read_text())["heartbeat"]
        deadline = time.monotonic() + 10
        while json.loads(lock.path.read_text())["heartbeat"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(LockedError):
            StoreLock(tmp_path / "s", heartbeat_s=0.05, stale_s=1.0).acquire()


def test_a_run_notices_that_it_lost_its_lock(tmp_path):
    suspended = StoreLock(tmp_path / "s", heartbeat_s=100, stale_s=101).acquire()
    time.sleep(0.05)
    with StoreLock(tmp_path / "s", heartbeat_s=0.01, stale_s=0.02) as other:
        assert not suspended.owned()
        with pytest.raises(LockedError, match="no longer holds"):
            suspended.check()
        suspended.release()  # must not remove the other's lock
        assert other.owned()


def test_taking_over_gives_back_a_lock_that_turned_out_fresh(tmp_path):
    write_lock(tmp_path / "s.lock", owner="stale")
    late = StoreLock(tmp_path / "s")
    judged = late._read()
    with StoreLock(tmp_path / "s") as fast:  # takes over between judging and removing
        assert not late._remove(judged)
        assert fast.owned()
    assert list(tmp_path.iterdir()) == []


def test_only_one_of_many_wins_a_stale_lock(tmp_path):
    write_lock(tmp_path / "s.lock")
    barrier = threading.Barrier(8)
    locks = [StoreLock(tmp_path / "s") for _ in range(8)]
    won: list[StoreLock] = []

    def compete(lock: StoreLock) -> None:
        barrier.wait()
        try:
            won.append(lock.acquire())
        except LockedError:
            pass

    threads = [threading.Thread(target=compete, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lock.owned() for lock in won) <= 1
    for lock in won:
        lock.release()
    assert not list(tmp_path.glob("*.partial"))


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(StoreError, match="local path"):
        StoreLock("s3://bucket/store")
    with pytest.raises(StoreError, match="before it goes stale"):
        StoreLock(tmp_path / "s", heartbeat_s=10, stale_s=5)
