"""Progress of long work: bars on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Callback = Callable[[int, int], None]
LINE_SECONDS = 10.0


@contextmanager
def stage_progress(console: Console, title: str) -> Iterator[Callback]:
    """A callback ``(done, total)`` that shows how far a stage is.

    On a terminal a bar with rate and time left; elsewhere a line at most every ten seconds.
    """
    if console.is_terminal:
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        ) as bars:
            task = bars.add_task(title, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
        return
    last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_SECONDS and total:
            last = now
            console.print(f"{title}: {done} of {total} ({100 * done // total} %)", markup=False)

    yield line
