"""Byte identity of whole directories, for tests of "the same bytes"."""

from __future__ import annotations

import hashlib
from pathlib import Path


def tree_digest(path: Path) -> str:
    """sha256 over the sorted relative paths and bytes of all files below ``path``."""
    hasher = hashlib.sha256()
    for file in sorted(p for p in Path(path).rglob("*") if p.is_file()):
        name = file.relative_to(path).as_posix().encode()
        data = file.read_bytes()
        for part in (name, data):
            hasher.update(len(part).to_bytes(8, "little"))
            hasher.update(part)
    return hasher.hexdigest()


def tree_files(path: Path) -> dict[str, bytes]:
    """Relative path -> bytes of all files below ``path``; for readable differences."""
    files = (p for p in Path(path).rglob("*") if p.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
