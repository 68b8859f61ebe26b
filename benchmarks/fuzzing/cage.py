"""One case in a process of its own, with limits of time and memory, and a watch over what it does.

The watch is an audit hook: files opened for writing, renamed, linked or removed outside the case's
folder are an escape, and so is reading the file that lies beside it; commands, sockets, foreign
libraries, unpickling and code that carries the mark of the changed files are execution.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.codecs import MARK

CPU_SECONDS = 10
WALL_SECONDS = 20.0
MEMORY_BYTES = 3 << 30
FILE_BYTES = 1 << 28
OURS = ("schemas", "generators", "transforms", "pipelines")
ROOT = Path(__file__).resolve().parents[2]
CANARY = "outside.png"
"""Lies beside the case's folder, where a path like ``../outside.png`` leads."""

_PATHS = {
    "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.link": 2, "os.symlink": 2,
    "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1, "shutil.rmtree": 1,
    "sqlite3.connect": 1,
}  # fmt: skip
_RUNS = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.fork",
    "pty.spawn", "socket.connect", "socket.bind", "ctypes.dlopen", "pickle.find_class",
    "webbrowser.open", "urllib.Request",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """What a process did that it should not, from `start` on."""

    def __init__(self, box: Path) -> None:
        self.escapes: list[str] = []
        self.executed: list[str] = []
        self._home = os.path.realpath(box / "case") + os.sep
        self._outside = os.path.realpath(box / CANARY)
        self._on = False
        sys.addaudithook(self._seen)

    def start(self) -> None:
        """Begin."""
        self._on = True

    def stop(self) -> None:
        """End; hooks cannot be taken away."""
        self._on = False

    def _seen(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on:
            return
        self._on = False  # what is done here is not the case's doing
        try:
            self._note(event, args)
        finally:
            self._on = True

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            if isinstance(path, int) or path is None:
                return
            writing = bool(flags & _WRITING) or any(c in (mode or "") for c in "wax+")
            where = self._place(path)
            if (writing and self._is_outside(where)) or where == self._outside:
                self.escapes.append(f"open {where} {mode or flags}")
        elif event in _PATHS:
            for path in args[: _PATHS[event]]:
                folder = args[-1] if event != "sqlite3.connect" else None
                where = self._place(path, folder)
                if self._is_outside(where):
                    self.escapes.append(f"{event} {where}")
        elif event in _RUNS:
            self.executed.append(f"{event} {args!r:.200}")
        elif event in ("compile", "import") and MARK in str(args[0]):
            self.executed.append(f"{event} {args[0]!r:.200}")

    def _is_outside(self, where: str) -> bool:
        return where != os.devnull and not (where + os.sep).startswith(self._home)

    def _place(self, path: Any, folder: Any = None) -> str:
        """Where a path leads; the last part of a link that is made or removed stays."""
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)
        text = text.removeprefix("file:").partition("?")[0]
        if isinstance(folder, int) and folder >= 0 and not os.path.isabs(text):
            with contextlib.suppress(OSError):
                text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
        try:
            return os.path.join(
                os.path.realpath(os.path.dirname(text) or "."), os.path.basename(text)
            )
        except (OSError, ValueError):
            return text


def limit(box: Path) -> None:
    """Limits of this process, which has just been forked: its stderr gets what a signal finds."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, descriptor in ((os.devnull, 0), (str(box / "stdout"), 1), (str(box / "stderr"), 2)):
        opened = os.open(name, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    faulthandler.enable(2)
    faulthandler.register(signal.SIGXCPU, file=2, all_threads=True, chain=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(box / "case")
    sys.dont_write_bytecode = True
    os.chdir(box / "case")


def told(error: BaseException) -> dict[str, Any]:
    """An error as the report shows it: its type, text and the last line of ours that it left."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if _is_ours(f.filename)]
    last = ours[-1] if ours else frames[-1] if frames else None
    place = "" if last is None else f"{_short(last.filename)}:{last.lineno}"
    return {
        "error": type(error).__name__, "text": str(error)[:500], "place": place,
        "trace": "".join(traceback.format_exception(error))[-4000:],
    }  # fmt: skip


def place_in(stderr: str) -> str:
    """The innermost line that faulthandler found, and the innermost of ours."""
    lines = [
        (part[1], part[2].split(",")[0].removeprefix(" line "))
        for part in (line.split('"') for line in stderr.splitlines())
        if len(part) > 2 and part[0].strip() == "File"
    ]
    ours = [f"{_short(name)}:{line}" for name, line in lines if _is_ours(name)]
    inner = [f"{_short(name)}:{line}" for name, line in lines]
    return " of ".join(dict.fromkeys([*inner[:1], *ours[:1]]))


def _is_ours(name: str) -> bool:
    return any(name.startswith(str(ROOT / room) + os.sep) for room in OURS)


def _short(name: str) -> str:
    for root in (str(ROOT), *(p for p in sys.path if p.endswith("-packages"))):
        name = name.removeprefix(root + os.sep)
    return name


Tell = Callable[[dict[str, Any]], None]


def run_forked(work: Callable[[Tell], dict[str, Any]], answer: int) -> None:
    """In the child: write what `work` tells and returns, a line of JSON each, into a pipe, and end
    without cleaning up."""

    def tell(facts: dict[str, Any]) -> None:
        data = json.dumps(facts).encode() + b"\n"
        while data:
            data = data[os.write(answer, data) :]

    try:
        tell(work(tell))
    except BaseException as e:  # the cage itself must not fail quietly
        tell({"outcome": "broken", **told(e)})
    os._exit(0)
