"""Ctrl-C and SIGTERM: finish what is in hand, leave a state that the next run goes on from.

The first signal asks the run to stop: workers finish and commit the blocks they are at and begin
no other, an analysis ends with its current pass. The second one ends the process at once, with
everything it started; that is safe too, since a block counts only once it is committed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import psutil

from schemas.errors import RunInterruptedError
from schemas.store.lock import StoreLock

if TYPE_CHECKING:
    from transforms.accumulate.blocks import BlockSource
    from transforms.accumulate.passes import Engine, PassRequest, S, Seen

EXIT_CODE = RunInterruptedError.exit_code
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FIRST = (
    b"\nstopping: what is in hand is finished first; once more (Ctrl-C) stops at once\n"
)  # fmt: skip
_SECOND = b"\nstopped: run the same command again to go on\n"


class Interruption:
    """Whether the run was asked to stop. Use it with ``with``, in the main thread.

    Outside ``with`` it never asks, so that library callers and threads keep their own handlers.
    """

    def __init__(self) -> None:
        self.requested = False
        self._locks: list[StoreLock] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            for number in SIGNALS:
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def watch(self, lock: StoreLock) -> None:
        """Tell the holders of blocks of this lock's store when the run is asked to stop."""
        self._locks.append(lock)
        if self.requested:
            lock.ask_to_stop()

    def check(self) -> None:
        """Raise RunInterruptedError when the run was asked to stop."""
        if self.requested:
            raise RunInterruptedError(
                "the run was asked to stop; what is finished is kept: run the same command again "
                "to go on"
            )

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            _write(_SECOND)
            _end_at_once()
        self.requested = True
        _write(_FIRST)
        for lock in self._locks:
            lock.ask_to_stop()


@dataclass(frozen=True)
class CheckedEngine:
    """An engine of analyses that asks before every pass whether the run may go on."""

    engine: Engine
    check: Callable[[], None]

    def sum(self, source: BlockSource, request: PassRequest) -> Any:
        """See `transforms.accumulate.passes.Engine`."""
        self.check()
        return self.engine.sum(source, request)

    def run(self, solver: S, source: BlockSource, *, seen: Seen | None = None) -> S:
        """See `transforms.accumulate.passes.Engine`."""
        self.check()
        return self.engine.run(solver, source, seen=seen)


def _write(text: bytes) -> None:
    """To standard error, past Python's buffers, which the interrupted code may be in."""
    try:
        os.write(2, text)
    except OSError:
        return  # the terminal is gone


def _end_at_once() -> None:
    """Kill every process below this one, and end it."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.Error:
            continue
    os._exit(EXIT_CODE)
