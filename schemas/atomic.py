"""Small files by temporary file, fsync and rename: a reader sees the old bytes or the new ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from schemas.fingerprint import pretty_json

#: Ending of files that are still being written; leftovers of a killed run carry it.
PARTIAL_SUFFIX = ".partial"
_PARTIAL = re.compile(r".*\.[0-9a-f]{32}\.partial", re.DOTALL)


def is_partial(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is, by its name, one that we or Zarr had not finished writing."""
    return _PARTIAL.fullmatch(Path(path).name) is not None


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
    with replacing(path) as file:
        file.write(data)


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in ``path``; empty where there is none that can be read."""
    try:
        found = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def replacing(path: str | os.PathLike[str], durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` when the block ends without an error.

    The parent directory is created. After an error, ``path`` is unchanged.
    durable : the bytes are on the disk at the end. False for what nobody reads after a power cut
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _partial(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as e:
        temporary.unlink(missing_ok=True)
        if isinstance(e, OSError) and e.errno and not e.filename:
            e.filename = str(path)  # a full disk refuses bytes, and does not say of which file
        raise
    if durable:
        sync_directory(path.parent)


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``path`` when the block ends without an error.

    A folder at ``path`` is moved aside before and deleted afterwards: a reader sees the old one,
    none for a moment, or the new one, never a part of it. The files' bytes are made durable first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, former = _partial(path), _partial(path)
    temporary.mkdir()
    try:
        yield temporary
        for found in temporary.rglob("*"):
            sync_directory(found)
        if path.exists():
            os.rename(path, former)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if former.exists() and not path.exists():
            os.rename(former, path)
        raise
    sync_directory(path.parent)
    shutil.rmtree(former, ignore_errors=True)


def delete_partials_of(path: str | os.PathLike[str]) -> None:
    """Delete what a killed process left of `replacing` ``path``. Only its one writer may."""
    path = Path(path)
    for found in path.parent.glob(f"*{PARTIAL_SUFFIX}"):
        if not is_partial(found) or found.stem.rpartition(".")[0] != path.name:
            continue
        if found.is_dir():
            shutil.rmtree(found, ignore_errors=True)
        else:
            found.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write ``obj`` as indented JSON with sorted keys; the same value gives the same bytes.

    Takes what ``schemas.fingerprint.pretty_json`` takes and raises the same errors: numbers that
    are not finite are written as null.
    """
    write_bytes(path, pretty_json(obj))
