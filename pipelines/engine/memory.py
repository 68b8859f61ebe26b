"""Memory of processes: how much a tree of them takes, and what a worker keeps."""

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import psutil

#: From `malloc.h`: what is freed above this at the heap's end goes back to the system, and what is
#: larger than that has pages of its own, which always do.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Keep what this process frees for its next batch, up to 1 GiB, in arrays of up to 256 MiB.

    By default glibc returns an array of some megabytes at once, and the next one of that size costs
    a page fault for each 4 KiB: a third of the time in which a small network draws. Does nothing
    with another C library.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_TRIM_THRESHOLD, 1 << 30)
        set_option(_M_MMAP_THRESHOLD, 1 << 28)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for circles of references: among millions of rows there are none,
    and to go through them again and again takes a fifth of the time that making them does."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def tree_pss(pid: int | None = None) -> int:
    """Bytes of PSS summed over a process (default: this one) and all its descendants.

    Shared pages count once in total. Processes that end meanwhile, or may not be read, count 0.
    """
    root = psutil.Process(pid)
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, AttributeError):
            continue
    return total


class PeakMemory:
    """Samples bytes (`tree_pss`) in a thread every `interval` seconds; `peak` is the largest."""

    def __init__(self, interval: float = 1.0, measure: Callable[[], int] = tree_pss) -> None:
        self.interval = interval
        self._measure = measure
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(self.interval):
            self.peak = max(self.peak, self._measure())

    def __enter__(self) -> Self:
        self.peak = self._measure()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, self._measure())
