"""A local Ray, or a cluster that is already there, and actors that work through blocks.

The only module that starts Ray. A local one listens on the loopback interface alone, asks every
caller for a token (an open Ray port runs code for whoever finds it), sends no usage statistics,
has no dashboard, keeps its files in a private folder and dies with this process.

Ray is imported and started by the first block that needs work, so that a run with nothing to do
pays for none of it.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import psutil

from schemas.errors import LatentflowError, UsageError
from schemas.expected_errors import expected

if TYPE_CHECKING:
    from schemas.spec import RunSpec

MIN_OBJECT_STORE_MB = 80
#: Deaths of actors in a row, each while it starts, before a run gives up.
INIT_DEATHS = 5
CHECKED_EVERY_S = 5.0
"""How soon it is noticed that a local Ray has died."""

_PREFIX = "latentflow"
_ROOT = Path(__file__).resolve().parents[2]


class RayEngine:
    """Where block actors run.

    address : of a Ray cluster ("auto", "host:port", "ray://..."), whose own authentication and
        settings then hold; None starts a local one.
    actors : actors of a local Ray that may run at a time. gpus_per_actor : 0 is CPU, below 1
        several share a GPU.
    object_store_mb : memory that a local Ray reserves for objects; blocks never pass through it.

    ``start`` is called by the first `map_blocks`; call ``stop``, or use ``with``.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        actors: int = 1,
        gpus_per_actor: float = 0.0,
        object_store_mb: int = MIN_OBJECT_STORE_MB,
    ) -> None:
        if actors < 1 or gpus_per_actor < 0:
            raise UsageError(
                f"'actors' is {actors!r} and 'gpus_per_actor' {gpus_per_actor!r}: give at least "
                "one actor and no negative share of a GPU"
            )
        if object_store_mb < MIN_OBJECT_STORE_MB:
            raise UsageError(
                f"'object_store_mb' is {object_store_mb!r}, Ray needs {MIN_OBJECT_STORE_MB!r}: "
                "raise it"
            )
        self.address = address
        self.actors = actors
        self.gpus_per_actor = gpus_per_actor
        self.object_store_mb = object_store_mb
        self.started = False
        self._owns = False
        self._folder: Path | None = None
        self._raylet: psutil.Process | None = None

    @classmethod
    def of(cls, spec: RunSpec, address: str | None = None) -> Self:
        """As a specification says; ``address`` : of another cluster than its own."""
        wanted = spec.ray
        return cls(
            address or wanted.address,
            actors=max(wanted.actors, spec.invert_actors),
            gpus_per_actor=wanted.gpus_per_actor,
            object_store_mb=wanted.object_store_mb,
        )

    # ---- starting and stopping --------------------------------------------------------------

    def start(self) -> None:
        """Start or join Ray. Does nothing when it runs already.

        Raises UsageError when a cluster cannot be reached, LatentflowError when a local Ray does
        not start.
        """
        if self.started:
            return
        local = self.address is None
        if local:
            self._folder = _private_folder()
            _prepare_local(self._folder)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if ray.is_initialized():
            self.started = True  # the caller's Ray: used, and left running
            return
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if local:
                with _own_signals():
                    ray.init(
                        address="local",
                        num_cpus=self.actors,
                        include_dashboard=False,
                        object_store_memory=self.object_store_mb * 1024**2,
                        _temp_dir=str(self._folder),
                        **common,
                    )
            else:
                with _own_signals():
                    ray.init(address=self.address, runtime_env=_shipped_code(), **common)
        except SystemExit as e:  # what Ray's own handler of SIGTERM raises while it starts
            self._shut_down()
            signal.raise_signal(signal.SIGTERM)
            raise LatentflowError("Ray was asked to stop while it started: run again") from e
        except Exception as e:  # Ray raises bare Exceptions too, for a start that takes too long
            self._shut_down()
            if not local:
                raise UsageError(
                    f"the Ray cluster at {self.address!r} could not be reached: {e}; check "
                    "'ray.address'"
                ) from e
            raise LatentflowError(
                f"a local Ray did not start: {e}; is the machine out of memory or processors?"
            ) from e
        self.started = self._owns = True
        if local:
            own = psutil.Process().children()
            self._raylet = next((child for child in own if child.name() == "raylet"), None)

    def stop(self) -> None:
        """Stop what `start` started (or leave the cluster); its files are removed."""
        if not self.started:
            return
        if self._owns:
            self._shut_down()
        self.started = self._owns = False

    def _shut_down(self) -> None:
        import ray

        with _own_signals():
            ray.shutdown()
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _check_raylet(self) -> None:
        """Raise LatentflowError when the process that starts a local Ray's actors has died: what
        they were asked would be waited for for ever."""
        if self._raylet is None:
            return
        with suppress(psutil.NoSuchProcess):
            if self._raylet.status() != psutil.STATUS_ZOMBIE:
                return
        raise LatentflowError(
            f"the local Ray's process {self._raylet.pid!r} (raylet) died, killed or for want of "
            "memory: run again to finish the remaining blocks"
        )

    # ---- work -------------------------------------------------------------------------------

    def map_blocks(
        self,
        actor: type,
        arguments: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]],
        actors: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Send each item to one of a pool of actors; yields what they return, as it comes.

        actor : a plain class in an importable module; ``__call__`` takes a batch, column -> array
            of one element, and returns one of the same kind.
        arguments : small picklable keyword arguments of its constructor.
        items : flat rows of numbers, strings and bytes.
        actors : size of the pool, by default the engine's.

        Items come back in any order, each exactly once. An actor that dies is replaced, and its
        item worked on again, as often as it takes, for processes are killed. What an actor raises
        ends the run with a LatentflowError.
        """
        if not items:
            return
        self.start()
        import ray
        from ray.exceptions import RayError

        count = max(1, min(actors if actors is not None else self.actors, len(items)))
        remote: Any = ray.remote(
            num_cpus=0 if self.gpus_per_actor else 1, num_gpus=self.gpus_per_actor
        )(actor)
        pool = _Pool(lambda: remote.remote(**arguments), items, self._check_raylet)
        try:
            for _ in range(count):
                pool.add()
            while pool.working():
                batch = pool.next()
                if batch is not None:
                    yield {name: column[0] for name, column in batch.items()}
        except RayError as e:
            raise _failure(e) from e
        finally:
            pool.close()


class _Pool:
    """Actors that work through items, one at a time each.

    start : makes an actor's handle. check : called while nothing comes; ends the wait by raising
    """

    def __init__(
        self,
        start: Callable[[], Any],
        items: Sequence[Mapping[str, Any]],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._start, self._check = start, check
        self._left = list(reversed(items))
        self._busy: dict[Any, tuple[Any, Mapping[str, Any] | None]] = {}
        """Of what an actor is asked: the actor, and its item; None while it starts."""
        self._deaths = 0

    def add(self) -> None:
        """Start one more actor."""
        handle = self._start()
        self._busy[handle.__ray_ready__.remote()] = handle, None

    def working(self) -> bool:
        """Whether an item is left, or in hand."""
        return bool(self._left) or any(item is not None for _, item in self._busy.values())

    def next(self) -> dict[str, Any] | None:
        """What the next actor that has done something returns; None of one that has started, or
        died. Raises RayError for what an actor raises, or when actors die as they start."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError

        ready: list[Any] = []
        while not ready:
            ready, _ = ray.wait(list(self._busy), timeout=CHECKED_EVERY_S)
            if not ready:
                self._check()
        (asked,) = ready
        handle, item = self._busy.pop(asked)
        try:
            found = ray.get(asked)
        except (RayActorError, OutOfMemoryError):
            ray.kill(handle)
            self._deaths += item is None
            if self._deaths == INIT_DEATHS:
                raise
            if item is not None:
                self._left.append(item)
            self.add()
            return None
        self._deaths = 0
        if self._left:
            item_now = self._left.pop()
            batch = {name: np.array([value]) for name, value in item_now.items()}
            self._busy[handle.__call__.remote(batch)] = handle, item_now
        else:
            ray.kill(handle)
        return None if item is None else found

    def close(self) -> None:
        """End the actors, whatever they do."""
        import ray

        for handle, _ in self._busy.values():
            ray.kill(handle)
        self._busy.clear()


def _failure(error: BaseException) -> LatentflowError:
    """An error of ours with the line of Ray's long text that says what went wrong.

    What the actors raise while they work comes back as data; what is left are processes that died,
    which another run may get past, and code that did not even get that far, which none will.
    """
    from ray.exceptions import RayTaskError

    if (told := expected(error)) is not None:
        return told
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    cure = "run again to finish the remaining blocks"
    if isinstance(error, RayTaskError):
        cure = "the actors' environment must be that of this process"
    return LatentflowError(f"the Ray actors failed: {(said or lines)[0].strip()}; {cure}")


# ---------------------------------------------------------------------------------------------
# A local Ray


def _prepare_local(folder: Path) -> None:
    """Settings that Ray and its processes read from the environment.

    The cluster switch, named after the systems where it is off by default, is what makes every
    Ray process take 127.0.0.1 as the node's address, on which they then listen exclusively.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray lowers its workers by 15; beside anything else on the machine they would hardly run.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ["RAY_AUTH_MODE"] = "token"
    if not os.environ.get("RAY_AUTH_TOKEN") and not _token_file_exists():
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(
            _write_token(folder.parent / f"{folder.name}.token")
        )
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(_ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *(p for p in paths if p)])
    if "ray" in sys.modules:  # imported before these settings were made
        from ray._private import ray_constants
        from ray._raylet import Config  # type: ignore[attr-defined]  # its stub leaves it out

        ray_constants.ENABLE_RAY_CLUSTER = False
        Config.initialize("")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps this process's signal handlers: Ray sets its own when it starts, and the system's when
    it stops (which `signal.getsignal` does not show); both end the process on SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)


def _token_file_exists() -> bool:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "")).is_file()


def _write_token(path: Path) -> Path:
    """A fresh secret in a file that only this user can read; one a process, as Ray caches it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, secrets.token_hex(32).encode())
    finally:
        os.close(fd)
    atexit.register(path.unlink, missing_ok=True)
    return path


def _base() -> Path:
    """Short (sockets in it are limited to 107 characters), and this user's alone."""
    short = Path("/tmp")
    root = short if os.access(short, os.W_OK) else Path(tempfile.gettempdir())
    base = root / f"{_PREFIX}-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.stat().st_uid != os.getuid() or base.is_symlink():
        raise UsageError(f"folder {str(base)!r} belongs to someone else: remove it")
    base.chmod(0o700)
    return base


def _private_folder() -> Path:
    """A new folder for one Ray; those of processes that are gone are removed first."""
    base = _base()
    for entry in base.iterdir():
        pid = entry.name.split("-")[0].split(".")[0]
        if pid.isdecimal() and not _exists(int(pid)):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
    folder = base / f"{os.getpid()}-{secrets.token_hex(2)}"
    folder.mkdir(mode=0o700)
    return folder


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _shipped_code() -> dict[str, Any] | None:
    """Our packages, for a cluster's workers, when they run from a source folder."""
    if "site-packages" in _ROOT.parts:
        return None
    return {
        "working_dir": str(_ROOT),
        "excludes": [".git", ".venv", "runs", "docs", "tests/golden", ".*_cache", "*.egg-info"],
    }
