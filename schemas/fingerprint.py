"""Content fingerprints: canonical JSON, tensors, files, and a cache of file hashes.

DESIGN section 2. A fingerprint never depends on paths, times, hosts or library versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from schemas.errors import DataError

#: A file changed this recently may change again within one tick of its clock: do not cache it.
RACY_NS = 2_000_000_000


#: Types whose values JSON has just so; long lists of these are not looked through one by one.
_AS_THEY_ARE = frozenset({str, int, bool, type(None)})


def _as_it_is(obj: Any) -> bool:
    """Whether JSON has a value just so: one of `_AS_THEY_ARE`, or a list of these."""
    kind = type(obj)
    return kind in _AS_THEY_ARE or (
        (kind is tuple or kind is list) and _AS_THEY_ARE.issuperset(map(type, obj))
    )


def _plain(obj: Any, where: str) -> Any:
    """``obj`` in the types that JSON has. Only lossless, unambiguous conversions."""
    if isinstance(obj, np.generic):
        obj = obj.item()
    if obj is None or isinstance(obj, bool | str):
        return str(obj) if isinstance(obj, str) else obj
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        if not np.isfinite(obj):
            raise DataError(
                f"value {obj!r} at {where!r} has no canonical JSON; use None or a string"
            )
        return float(obj)
    if isinstance(obj, bytes | bytearray):
        return bytes(obj).hex()
    if isinstance(obj, np.ndarray):
        return _plain(obj.tolist(), where)
    if isinstance(obj, list | tuple):
        if _as_it_is(obj):
            return obj
        return [
            item if _as_it_is(item) else _plain(item, f"{where}[{i}]") for i, item in enumerate(obj)
        ]
    if isinstance(obj, Mapping):
        for key in obj:
            if not isinstance(key, str):
                raise DataError(f"key {key!r} at {where!r} is not a string; JSON keys must be str")
        return {str(key): _plain(obj[key], f"{where}.{key}") for key in obj}
    raise DataError(
        f"value {obj!r} at {where!r} has type {type(obj).__name__!r}, which has no canonical JSON; "
        "convert it to numbers, strings, lists or dicts"
    )


def canonical_json(obj: Any) -> bytes:
    """``obj`` as UTF-8 JSON: keys sorted, no spaces, floats in shortest round-trip form.

    Takes None, bool, int, finite float, str, bytes (as hex), list, tuple, str-keyed mappings,
    and numpy scalars and arrays of those. Note that 1 and 1.0 differ.

    Raises DataError for anything else, naming the place, and for text that UTF-8 cannot hold.
    """
    text = json.dumps(
        _plain(obj, "$"),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as e:
        around = text[max(e.start - 20, 0) : e.end + 20]
        raise DataError(
            f"text {around!r} holds half a character (a lone surrogate), which no file can keep: "
            "correct it where it is written"
        ) from e


def with_nulls(obj: Any) -> Any:
    """``obj`` with None for every number in it that is not finite: what was not measured is null,
    and never a NaN, which is no JSON."""
    if isinstance(obj, np.ndarray):
        obj = obj.tolist()
    if isinstance(obj, Mapping):
        return {key: with_nulls(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        if _AS_THEY_ARE.issuperset(map(type, obj)):
            return obj
        return [with_nulls(value) for value in obj]
    return None if isinstance(obj, float | np.floating) and not np.isfinite(obj) else obj


def pretty_json(obj: Any) -> bytes:
    """Like ``canonical_json``, but indented and with a final newline, for files people read.

    Numbers that are not finite become null, see `with_nulls`.
    """
    plain = _plain(with_nulls(obj), "$")
    text = json.dumps(plain, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def digest(obj: Any) -> str:
    """sha256 of ``canonical_json(obj)``, 64 lower-case hex digits."""
    return hashlib.sha256(canonical_json(obj)).hexdigest()


def tensors_fingerprint(architecture: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """Identity of a model: sha256 over its architecture and its tensors (``generator_fp``).

    architecture : canonical-JSON mapping, hashed first.
    tensors : name -> real array of any shape; hashed in order of name as length-prefixed name,
        shape, and little-endian float32 bytes. The storage dtype of a file therefore does not
        enter (a half-precision copy has other values, hence another fingerprint).

    Returns 64 lower-case hex digits. Raises DataError for a complex or non-numeric tensor.
    """
    hasher = hashlib.sha256()
    header = canonical_json(architecture)
    hasher.update(len(header).to_bytes(8, "little"))
    hasher.update(header)
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        if array.dtype.kind not in "fiub":
            raise DataError(
                f"tensor {name!r} has dtype {array.dtype!s}; expected a real number type"
            )
        head = canonical_json([name, list(array.shape)])
        hasher.update(len(head).to_bytes(8, "little"))
        hasher.update(head)
        hasher.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return hasher.hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's bytes, 64 lower-case hex digits. Raises OSError as the system gives it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_Key = tuple[int, int, int, str]  # of a file's state: size, mtime_ns, ctime_ns, inode
_Unusable = (sqlite3.Error, UnicodeError)  # a text of a damaged file need not be text
_TABLE = "checked_content"


def _check(name: str, key: _Key, sha256: str) -> str:
    """Digest of one entry of the cache: an entry of which a byte has changed answers nothing."""
    entry = "\0".join([name, *map(str, key), sha256])
    return hashlib.sha256(entry.encode("utf-8", "surrogateescape")).hexdigest()


def _parts(row: Sequence[Any]) -> tuple[str, _Key, str]:
    name, *key, sha256, _ = row
    return name, tuple(key), sha256


class ContentHashCache:
    """Remembers the sha256 of files, keyed by (path, size, mtime_ns, ctime_ns, inode).

    A hit costs one ``stat``. A stale answer is what must never happen, so: the file is looked at
    before and after hashing and cached only when nothing moved; a file changed within the last
    two seconds is hashed but not cached (it may change again within one clock tick); and ctime,
    which a program cannot set back, is part of the key; and every entry has a checksum. A cache
    file that is damaged or cannot be written is started anew, in memory if need be.

    Safe to use from several threads; ``close`` (or ``with``) writes what is still in memory.

    read_only : use what is there, write nothing; a file that is missing or cannot be read remembers
        nothing
    """

    def __init__(self, path: str | os.PathLike[str], read_only: bool = False) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self.hits = 0
        self.misses = 0
        self._lock = threading.Lock()
        self._unsaved = 0
        if read_only:
            self._db = self._connect_read_only()
            return
        try:
            self._db = self._connect(self.path)
        except _Unusable:
            self._db = self._anew()

    def _anew(self) -> sqlite3.Connection:
        """An empty cache in place of one that cannot be used; in memory where that fails, too: a
        run can do without it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
            return self._connect(self.path)
        except (OSError, *_Unusable):
            return self._connect(":memory:")

    def _connect_read_only(self) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode=ro"
        try:
            db = sqlite3.connect(uri, uri=True, timeout=30.0, check_same_thread=False)
            db.execute(f"SELECT count(*), min(sha256) FROM {_TABLE}").fetchone()
        except _Unusable:
            return self._connect(":memory:")
        return db

    def _connect(self, path: str | os.PathLike[str]) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=30.0, check_same_thread=False)
        try:
            db.execute(
                f"CREATE TABLE IF NOT EXISTS {_TABLE} (path TEXT PRIMARY KEY, size INTEGER, "
                "mtime_ns INTEGER, ctime_ns INTEGER, inode TEXT, sha256 TEXT NOT NULL, "
                "entry_check TEXT NOT NULL)"
            )
            db.execute(f"SELECT count(*), min(sha256) FROM {_TABLE}").fetchone()
            db.commit()
        except _Unusable:
            db.close()
            raise
        return db

    @staticmethod
    def _key(path: str) -> _Key:
        stat = os.stat(path)
        return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, str(stat.st_ino)

    def sha256(self, path: str | os.PathLike[str]) -> str:
        """sha256 of the file at ``path``, from memory when the file did not change.

        Raises OSError when the file cannot be read.
        """
        name = os.path.abspath(os.fspath(path))
        before = self._key(name)
        (found,) = self._find([name], [before])
        if found is not None:
            return found
        with self._lock:
            self.misses += 1
        value = file_sha256(name)
        after = self._key(name)
        settled = time.time_ns() - max(after[1], after[2]) > RACY_NS
        if before == after and settled and not self.read_only:
            with self._lock:
                self._execute(
                    f"INSERT OR REPLACE INTO {_TABLE} VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (name, *after, value, _check(name, after, value)),
                )
                self._unsaved += 1
            if self._unsaved >= 1000:
                self.save()
        return value

    def known(self, paths: Sequence[str | os.PathLike[str]]) -> list[str | None]:
        """sha256 of the files, a few hundred at a time, that are remembered and did not change."""
        names = [os.path.abspath(os.fspath(path)) for path in paths]
        return self._find(names, [self._key_or_none(name) for name in names])

    def _key_or_none(self, name: str) -> _Key | None:
        try:
            return self._key(name)
        except OSError:
            return None

    def _find(self, names: Sequence[str], keys: Sequence[_Key | None]) -> list[str | None]:
        marks = ", ".join("?" * len(names))
        with self._lock:
            rows = self._execute(f"SELECT * FROM {_TABLE} WHERE path IN ({marks})", names)
            held = {row[0]: (row[1:5], row[5]) for row in rows if row[6] == _check(*_parts(row))}
            found = [
                held[name][1] if key is not None and name in held and held[name][0] == key else None
                for name, key in zip(names, keys, strict=True)
            ]
            self.hits += len(found) - found.count(None)
        return found

    def save(self) -> None:
        """Write what is in memory to the cache file."""
        with self._lock:
            try:
                self._db.commit()
            except _Unusable:  # a full disk, say
                self._replace()
            self._unsaved = 0

    def _execute(self, statement: str, values: Sequence[Any]) -> list[Any]:
        """What a statement gives; nothing from a cache that turns out to be unusable."""
        try:
            return self._db.execute(statement, values).fetchall()
        except _Unusable:
            self._replace()
            return []

    def _replace(self) -> None:
        self._db.close()
        self._db = self._connect(":memory:") if self.read_only else self._anew()

    def close(self) -> None:
        """Save and close. The cache cannot be used afterwards."""
        self.save()
        self._db.close()

    def __enter__(self) -> ContentHashCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
