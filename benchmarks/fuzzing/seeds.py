"""Valid files of every recognised format, and changed ones made of them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.changes import TEXT, changed_bytes, changed_value
from benchmarks.fuzzing.codecs import CODECS

Files = Mapping[str, bytes]
RAW = 0.15
"""Share of cases whose bytes are changed without regard to the format."""


@dataclass(frozen=True)
class Seed:
    """A valid file, with the files that it needs beside it.

    files : name -> contents. main : the one that is read.
    targets : file -> codec of those that are changed; one named twice is changed twice as often.
    """

    format: str
    files: Files
    main: str
    targets: Sequence[tuple[str, str]]


def seed_of(format: str, folder: Path, main: str, targets: Mapping[str, str] | str) -> Seed:
    """The files of a folder. targets : file -> codec, or the codec of the main one."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    chosen = {main: targets} if isinstance(targets, str) else dict(targets)
    return Seed(format, files, main, [(name, codec) for name, codec in chosen.items()])


def changed(rng: random.Random, seed: Seed, seeds: Sequence[Seed]) -> tuple[Files, str, str]:
    """Files, the name of the main one, and what was done, in words."""
    files, main = dict(seed.files), seed.main
    name, codec = rng.choice(list(seed.targets))
    kind = rng.random()
    if kind < RAW:
        for _ in range(rng.choice((1, 1, 2, 4))):
            files[name] = changed_bytes(rng, files[name])
        return files, main, f"bytes of {name!r}"
    if kind < RAW + 0.03:
        other = rng.choice(list(seeds))
        files[name] = rng.choice((b"", other.files[other.main], files[main] + files[name]))
        return files, main, f"another file as {name!r}"
    if kind < RAW + 0.06 and len(files) > 1:
        del files[name]
        return files, main, f"without {name!r}"
    if kind < RAW + 0.09 and "/" not in main and len(files) == 1:
        ending = main[main.rindex(".") :] if "." in main else ""
        stem = rng.choice([t for t in TEXT if _is_file_name(t)])
        return {stem + ending: files[main]}, stem + ending, f"named {stem + ending!r}"
    for _ in range(20):
        with contextlib.suppress(Exception):  # a value that the format cannot hold: another one
            value = CODECS[codec].parse(seed.files[name])
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                value = changed_value(rng, value)
            if CODECS[codec].extras and rng.random() < 0.3:
                value = _with_extra(rng, value, rng.choice(CODECS[codec].extras))
            files[name] = CODECS[codec].build(value)
            if files[name] != seed.files[name]:
                return files, main, f"{codec} of {name!r}"
    files[name] = changed_bytes(rng, seed.files[name])
    return files, main, f"bytes of {name!r}"


def _is_file_name(text: str) -> bool:
    plain = "/" not in text and "\0" not in text and text not in ("", ".", "..")
    return plain and len(text.encode("utf-8", "surrogatepass")) < 200 and "\ud800" not in text


def _with_extra(rng: random.Random, value: Any, extra: Any) -> Any:
    """An extra piece put into one of the lists that hold pieces of its type."""
    lists: list[list[Any]] = []

    def walk(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: walk(inner) for key, inner in part.items()}
        if isinstance(part, list):
            copy = [walk(inner) for inner in part]
            if sum(isinstance(inner, type(extra)) for inner in copy) > 2:
                lists.append(copy)
            return copy
        return part

    result = walk(value)
    if lists:
        chosen = rng.choice(lists)
        chosen.insert(rng.randrange(len(chosen)), extra)
    return result
