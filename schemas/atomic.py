"""Small files by temporary file, fsync and rename: a reader sees the old bytes or the new ones."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from schemas.fingerprint import pretty_json

#: Ending of files that are still being written; leftovers of a killed run carry it.
PARTIAL_SUFFIX = ".partial"


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make renames in the directory ``path`` durable. Does nothing where this is unsupported."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except (PermissionError, IsADirectoryError):  # directories cannot be opened on this platform
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` so that no reader ever sees a part of it.

    The parent directory is created. Raises OSError as the file system gives it; the file at
    ``path`` is then unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write ``obj`` as indented JSON with sorted keys; the same value gives the same bytes.

    Takes what ``schemas.fingerprint.canonical_json`` takes and raises the same errors.
    """
    write_bytes(path, pretty_json(obj))
