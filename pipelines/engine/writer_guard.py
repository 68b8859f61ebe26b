"""One writer: workers check that the driver which sent them runs and holds the store's lock."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass

import psutil

from schemas.atomic import read_json
from schemas.errors import LockedError
from schemas.store.lock import STOPPING, StoreLock

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Guard:
    """Who may write: the driver that holds the store's lock. Travels to its workers.

    lock_path, owner : the lock file and the owner that it must name.
    place, pid, mark : the driver's process, where its number is good, and what tells it from a
        later one of the same number.
    """

    lock_path: str
    owner: str
    place: str
    pid: int
    mark: str

    @classmethod
    def of(cls, lock: StoreLock) -> Guard:
        """For the holder of ``lock``, in this process. Raises LockedError when it is not held."""
        lock.check()
        pid = os.getpid()
        return cls(str(lock.path), lock.owner, _place(), pid, _mark(pid) or "")

    def check(self) -> None:
        """Raise LockedError unless the driver still holds the lock; call it before each commit."""
        holder = read_json(self.lock_path).get("owner")
        if holder != self.owner:
            raise LockedError(
                f"the lock {self.lock_path!r} names {holder!r}, not this run's {self.owner!r}; "
                "another run has taken the store over"
            )

    def stopping(self) -> bool:
        """Whether the driver was asked to stop: begin no further block."""
        facts = read_json(self.lock_path)
        return facts.get("owner") == self.owner and facts.get("state") == STOPPING

    def driver_alive(self) -> bool:
        """Whether the driver runs. True on another host, where Ray alone can tell."""
        return _place() != self.place or _mark(self.pid) == self.mark

    def watch(self, interval_s: float = 0.5) -> None:
        """Kill this process as soon as the driver is gone: a worker that goes on would meet those
        of the next run.

        Ray ends a dead driver's workers as well, but later, and not while one is busy outside
        Python. So the kernel is asked to kill this process with its parent (a local Ray dies with
        its driver), and a thread looks for the driver itself. Does nothing in the driver.
        """
        if os.getpid() == self.pid and _place() == self.place:
            return
        _die_with_parent()

        def loop() -> None:
            while self.driver_alive():
                time.sleep(interval_s)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=loop, name="driver-watch", daemon=True).start()


def _place() -> str:
    """Where a process number means the same process: host and process namespace."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}"


def _mark(pid: int) -> str | None:
    """What stays the same while process ``pid`` runs; None when it does not (or is a zombie).

    On Linux its start in clock ticks since boot, which no change of the clock can move.
    """
    if not os.path.exists("/proc/self/stat"):
        return "" if psutil.pid_exists(pid) else None
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _die_with_parent() -> None:
    """Linux: SIGKILL for this process when its parent dies. Elsewhere nothing."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
