"""Values of command line options: paths and lists."""

from __future__ import annotations

import math
from pathlib import Path

from schemas.errors import UsageError

#: Rows or layers that one option may name.
MAX_ROWS = 4096


def path_of(text: str | Path) -> Path:
    """A file or folder to write. Raises UsageError for what is none of this machine's: an object
    store's URL would become a folder here."""
    from schemas.sections.types import local_path

    try:
        return local_path(str(text))
    except ValueError as e:
        raise UsageError(f"{str(text)!r} is no path to write to: {e}") from e


def numbers_of(text: str, option: str) -> list[float]:
    """Finite numbers with commas between them. Raises UsageError for anything else."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as e:
        raise UsageError(f"{option} is {text!r}: give numbers with commas between") from e
    if not all(map(math.isfinite, numbers)):
        raise UsageError(f"{option} is {text!r}: give finite numbers")
    return numbers


def rows_of(text: str, option: str) -> list[int]:
    """Row or layer numbers, as in '0,5,9' or '0-3'. Raises UsageError for anything else, for spans
    that end before they begin, and for more than `MAX_ROWS`."""
    rows: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            span = range(int(first), int(last if dash else first) + 1)
            if not span:
                raise UsageError(f"{option} is {text!r}: {part!r} ends before it begins")
            if len(rows) + len(span) > MAX_ROWS:
                raise UsageError(f"{option} is {text!r}: give at most {MAX_ROWS} at a time")
            rows += span
    except ValueError as e:
        raise UsageError(f"{option} is {text!r}: give numbers like '0,5,9' or '0-3'") from e
    return rows
