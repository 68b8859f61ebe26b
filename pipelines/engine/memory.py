"""Peak memory of a process tree, as the sum of proportional set sizes."""

import threading
from types import TracebackType

import psutil


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
    """Samples `tree_pss` in a thread every `interval` seconds; `peak` is the largest, in bytes."""

    def __init__(self, interval: float = 1.0) -> None:
        self.interval = interval
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(self.interval):
            self.peak = max(self.peak, tree_pss())

    def __enter__(self) -> "PeakMemory":
        self.peak = tree_pss()
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
        self.peak = max(self.peak, tree_pss())
