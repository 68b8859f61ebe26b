"""Checksums of the files that a run writes into its folder itself: ``checksums.json``.

Stores, direction sets and saved sums carry their own. A file is not in the list while it is being
written, so that after a kill its checksum is missing, not wrong; the next run adds it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.atomic import read_json, write_json
from schemas.fingerprint import file_sha256, pretty_json

FILE = "checksums.json"


@contextmanager
def noted(out: Path, *names: str) -> Iterator[None]:
    """Note the checksums of files of the run folder that are written meanwhile.

    A file that is as it was before keeps the checksum that it had.
    """
    known = _known(out)
    before = {name: _state(out / name) for name in names}
    held = {name: known.pop(name) for name in names if name in known}
    if held:
        write_json(out / FILE, known)
    yield
    for name in names:
        after = _state(out / name)
        if after is not None:
            same = name in held and after == before[name]
            known[name] = held[name] if same else file_sha256(out / name)
    write_json(out / FILE, known)


def intact(out: Path, name: str) -> bool:
    """Whether a file is what was noted; True where nothing was."""
    wanted = _known(out).get(name)
    return wanted is None or wanted == _sha256(out / name)


def write_noted(out: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Write a JSON file and note its checksum, unless it holds just this and that is noted."""
    wanted = hashlib.sha256(pretty_json(facts)).hexdigest()
    if not _known(out).get(name) == wanted == _sha256(out / name):
        with noted(out, name):
            write_json(out / name, facts)


def changed_files(out: Path) -> dict[str, str]:
    """Noted files that are not what was written, and what is wrong with each."""
    if not (out / FILE).exists():
        return {}
    known = _known(out)
    wrong = {}
    if (out / FILE).read_bytes() != pretty_json(known):
        wrong[FILE] = "it is not what a run writes"
    for name, wanted in known.items():
        held = _sha256(out / name)
        if held is None:
            wrong[name] = "it is missing"
        elif held != wanted:
            wrong[name] = f"its checksum is {held[:12]!r}, that of what was written {wanted[:12]!r}"
    return wrong


def _known(out: Path) -> dict[str, str]:
    found = read_json(out / FILE)
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _sha256(path: Path) -> str | None:
    try:
        return file_sha256(path)
    except OSError:
        return None


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is replaced."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
