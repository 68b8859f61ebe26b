"""One writer per store: a lock file beside it.

DESIGN section 2, "Commit". The file is created exclusively and holds owner, host, boot, pid and
heartbeat. It is stale when its process is dead on this host (same boot, same process namespace,
so that a container's pid 7 is not taken for ours) or when its heartbeat is five minutes old.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from schemas.errors import LockedError, StoreError

HEARTBEAT_S = 30.0
STALE_S = 300.0
_POLL_S = 0.2
RUNNING, STOPPING = "running ", "stopping"  # of one length: the file is overwritten in place


def _host() -> dict[str, str]:
    """Where a pid means the same process: host, boot and process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot, namespace = "", ""
    return {"host": socket.gethostname(), "boot": boot, "pid_namespace": namespace}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class StoreLock:
    """The lock of the store at ``path``: the file ``<path>.lock``.

    Use it with ``with``, or by ``acquire`` and ``release``. While it is held a thread renews its
    heartbeat. Ask ``owned()`` (or ``check()``) before each batch of commits: a process that was
    suspended for long may find that another one has taken over.

    owner : what the file names while this lock is held, different for every lock
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        heartbeat_s: float = HEARTBEAT_S,
        stale_s: float = STALE_S,
    ) -> None:
        if "://" in os.fspath(path):
            raise StoreError(f"store {path!r} is not on a local path, where locks live")
        if not 0 < heartbeat_s < stale_s:
            raise StoreError(
                f"heartbeat_s is {heartbeat_s!r} and stale_s {stale_s!r}; a lock must be renewed "
                "before it goes stale"
            )
        store = Path(os.path.abspath(os.fspath(path)))
        self.path = store.with_name(f"{store.name}.lock")
        self.heartbeat_s = heartbeat_s
        self.stale_s = stale_s
        self.owner = uuid.uuid4().hex
        self._fd: int | None = None
        self._state = RUNNING
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # ---- taking and giving ------------------------------------------------------------------

    def acquire(
        self, wait_s: float = 0.0, waiting: Callable[[str], None] | None = None
    ) -> StoreLock:
        """Take the lock, waiting up to ``wait_s`` seconds for its holder.

        waiting : called again and again meanwhile with who holds it; what it raises ends the wait.
        Raises LockedError (exit code 75), naming the holder, when it cannot be had.
        """
        if self._fd is not None:
            raise LockedError(f"this process already holds {str(self.path)!r}; release it first")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + wait_s
        while not self._create():
            holder = self._read()
            if holder is not None and self._stale(holder) and self._remove(holder):
                continue
            if time.monotonic() >= deadline:
                raise LockedError(self._complaint(holder))
            if waiting is not None and holder is not None:
                waiting(self._who(holder))
            time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))
        self._state = RUNNING
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="store-lock", daemon=True)
        self._thread.start()
        return self

    def release(self) -> None:
        """Give the lock back. Does nothing when it is not held, or was taken over."""
        if self._fd is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        holder = self._read()
        if holder is not None and holder.get("owner") == self.owner:
            self._remove(holder)
        os.close(self._fd)
        self._fd = None

    def owned(self) -> bool:
        """Whether this object holds the lock now, by the file and not by memory."""
        if self._fd is None:
            return False
        holder = self._read()
        return holder is not None and holder.get("owner") == self.owner

    def check(self) -> None:
        """Raise LockedError unless the lock is still held."""
        if not self.owned():
            holder = self._complaint(self._read())
            raise LockedError(f"this run no longer holds its lock: {holder}")

    def ask_to_stop(self) -> None:
        """Say in the lock file that its holder is stopping, for workers in other processes (see
        ``stopping``). Does nothing when the lock is not held. Safe in a signal handler."""
        self._state = STOPPING
        if self._fd is not None:
            os.pwrite(self._fd, self._content(), 0)

    @property
    def stopping(self) -> bool:
        """Whether this holder was asked to stop."""
        return self._fd is not None and self._state == STOPPING

    def holder(self) -> str | None:
        """Who holds the lock now, in words; None when nobody alive does."""
        holder = self._read()
        return None if holder is None or self._stale(holder) else self._who(holder)

    def __enter__(self) -> StoreLock:
        return self if self._fd is not None else self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    # ---- the file ---------------------------------------------------------------------------

    def _content(self) -> bytes:
        """Of constant length, so that a heartbeat overwrites it in place."""
        facts = {
            "owner": self.owner,
            **_host(),
            "pid": os.getpid(),
            "state": self._state,
            "heartbeat": f"{time.time():017.3f}",
        }
        return json.dumps(facts).encode()

    def _create(self) -> bool:
        """Create the lock file with its content in one step; False when there is one."""
        temporary = self.path.with_name(f"{self.path.name}.{self.owner}.partial")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.pwrite(fd, self._content(), 0)
            os.fsync(fd)
            os.link(temporary, self.path)  # unlike rename, fails when the name is taken
        except FileExistsError:
            os.close(fd)
            return False
        except OSError as e:
            os.close(fd)
            if e.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                e.filename, e.filename2 = str(self.path), None
                raise
            raise StoreError(
                f"cannot create the lock {str(self.path)!r}: {e.strerror}; the file system has no "
                "hard links: give another folder for 'output'"
            ) from e
        finally:
            temporary.unlink(missing_ok=True)
        self._fd = fd
        return True

    def _beat(self) -> None:
        # Through the descriptor: if another run has taken over, this touches our old file only.
        while not self._stop.wait(self.heartbeat_s):
            state = self._state
            if self._fd is None:
                continue
            with contextlib.suppress(OSError):  # a full disk; the next beat may be written
                os.pwrite(self._fd, self._content(), 0)
                if self._state != state:  # asked to stop while this was being written
                    os.pwrite(self._fd, self._content(), 0)

    def _read(self) -> dict[str, Any] | None:
        """What the lock file says; None when there is none."""
        try:
            data = self.path.read_bytes()
            changed = self.path.stat().st_mtime
        except FileNotFoundError:
            return None
        return _parsed(data, changed)

    def _age(self, holder: dict[str, Any]) -> float:
        return time.time() - float(holder["heartbeat"])

    def _stale(self, holder: dict[str, Any]) -> bool:
        here = _host()
        same_place = here["boot"] != "" and all(holder.get(key) == here[key] for key in here)
        if same_place and isinstance(holder["pid"], int) and not _alive(holder["pid"]):
            return True
        return self._age(holder) > self.stale_s

    def _remove(self, holder: dict[str, Any]) -> bool:
        """Remove the lock that ``holder`` describes; False when it has become another run's."""
        aside = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}.partial")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return True
        fresh = _parsed(aside.read_bytes(), 0.0)["owner"] != holder["owner"]
        if fresh:
            try:
                os.link(aside, self.path)
            except FileExistsError:
                pass  # a third run was faster; the one put aside notices by owned()
        aside.unlink()
        return not fresh

    def _complaint(self, holder: dict[str, Any] | None) -> str:
        if holder is None:
            return f"the lock {str(self.path)!r} is gone; start the run again"
        return (
            f"{self._who(holder)}; wait for that run to end; a lock without heartbeat for "
            f"{self.stale_s:.0f} s is taken over"
        )

    def _who(self, holder: dict[str, Any]) -> str:
        return (
            f"the store is locked by process {holder['pid']!r} on host {holder.get('host')!r} "
            f"(heartbeat {self._age(holder):.0f} s ago, {str(self.path)!r})"
        )


def _parsed(data: bytes, changed: float) -> dict[str, Any]:
    """What a lock file says; damaged ones go by their bytes and the time they were changed."""
    try:
        facts = json.loads(data)
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or not {"owner", "pid", "heartbeat"} <= facts.keys():
        return {"owner": data.hex(), "pid": None, "heartbeat": str(changed)}
    return facts


def run_lock(folder: str | os.PathLike[str]) -> StoreLock:
    """The lock of a whole run: ``run.lock`` in its folder."""
    return StoreLock(Path(folder, "run"))
