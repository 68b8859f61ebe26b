"""Columns of all rows that lie in files while a source of them travels.

A source is sent to the workers once a pass. The rows' labels of a large dataset are tens of
megabytes, so that sending them would take longer than the passes; as files, only paths travel.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from schemas.atomic import write_bytes
from transforms.accumulate.sources import SelectBlocks

SENT_BYTES = 1 << 22
"""Columns up to this size are sent as they are."""

T = TypeVar("T")


def rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value of frozen dataclasses and tuples, of any make, whose dataclasses are changed, the
    innermost first; the same object where nothing is."""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        parts = tuple(rebuilt(part, change) for part in value)
        return parts if any(a is not b for a, b in zip(parts, value, strict=True)) else value
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = [f.name for f in dataclasses.fields(value) if f.init]
    now = {name: rebuilt(getattr(value, name), change) for name in fields}
    if any(now[name] is not getattr(value, name) for name in fields):
        value = dataclasses.replace(value, **now)
    return change(value)


@dataclass(frozen=True)
class StoredColumn:
    """A column (n_rows, ...) in an .npy file: what of a NumPy array a source needs of it."""

    path: str
    n_rows: int

    @cached_property
    def _array(self) -> np.ndarray:
        return np.asarray(np.load(self.path, mmap_mode="r", allow_pickle=False))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "n_rows": self.n_rows}

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._array[rows]


def with_columns_in(source: T, folder: str | os.PathLike[str]) -> T:
    """A source of any make whose large columns lie in a folder, which all workers see."""

    def spilled(value: Any) -> Any:
        if not isinstance(value, SelectBlocks):
            return value
        columns = {name: _spilled(column, Path(folder)) for name, column in value.columns.items()}
        if all(columns[name] is column for name, column in value.columns.items()):
            return value
        return dataclasses.replace(value, columns=columns)

    found: T = rebuilt(source, spilled)
    return found


def _spilled(column: Any, folder: Path) -> Any:
    if not isinstance(column, np.ndarray) or column.nbytes <= SENT_BYTES:
        return column
    buffer = io.BytesIO()
    np.save(buffer, column, allow_pickle=False)
    data = buffer.getvalue()
    path = folder / f"{hashlib.sha256(data).hexdigest()[:32]}.npy"
    if not path.exists():
        write_bytes(path, data)
    return StoredColumn(str(path), len(column))
