"""Expected failures in words: what a disk, a folder or a worker process refused, and what helps.

Errors of the operating system carry a number; those of databases and of worker processes only a
text, in which the number, or one of our own errors, can be found again.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Iterator

from schemas import errors
from schemas.errors import FileSystemError, LatentflowError, UsageError

AGAIN = "then run the same command again: what is finished is kept"
_CURES = {
    errno.ENOSPC: f"free space on this disk, {AGAIN}",
    errno.EDQUOT: f"free space within your quota on this disk, {AGAIN}",
    errno.EROFS: "nothing can be written there: work on a copy, or have the disk made writable",
    errno.EACCES: "ask its owner for the right to do this, or use another folder",
    errno.EPERM: "ask its owner for the right to do this, or use another folder",
    errno.EIO: f"the disk or network below it fails: have it looked at, {AGAIN}",
    errno.ESTALE: f"its network disk was mounted anew, {AGAIN}",
    errno.EMFILE: f"allow more open files ('ulimit -n'), {AGAIN}",
    errno.ENFILE: f"end other programs that hold many files open, {AGAIN}",
    errno.EFBIG: "files of this size are not allowed there: use another disk",
    errno.EBUSY: f"another program uses it: end that, {AGAIN}",
    errno.ENOTEMPTY: f"another program writes into it: end that, {AGAIN}",
}
_PATH_CURES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file, not a folder: check the path",
    errno.EISDIR: "it is a folder where a file is wanted: name a file",
    errno.EEXIST: "something of this name is there already: use another name",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "its symbolic links lead in a circle: remove one, or give another path",
}
_KNOWN = _CURES.keys() | _PATH_CURES.keys()
_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial(?=$|/)")
_IN_TEXT = re.compile(
    r"^(?:schemas\.errors\.(?P<ours>\w+): (?P<said>.*)"
    r"|(?:[\w.]+\.)?\w+Error: \[Errno (?P<number>\d+)\] [^'\n]*(?:'(?P<path>.*)')?)",
    re.MULTILINE,
)
_WHILE = re.compile(r" \[while running '.*?'\]")
_SQLITE = {
    "disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO,
    "readonly database": errno.EROFS,
    "unable to open": errno.EACCES,
}


def expected(error: BaseException) -> LatentflowError | None:
    """The error of ours that says what was behind another one; None for what nobody expects.

    Looks at the error, at what caused it (also in Ray's workers), and last at their texts, in
    which Beam hands on what its workers raised.
    """
    chain = list(_chain(error))
    for found in chain:
        if isinstance(found, LatentflowError):
            said = _WHILE.sub("", str(found))
            return found if said == str(found) else type(found)(said)
        if isinstance(found, OSError) and found.errno in _KNOWN:
            return _refused(found.errno, found.filename)
        if isinstance(found, sqlite3.Error):
            for text, number in _SQLITE.items():
                if text in str(found):
                    return _refused(number, None)
    return next(filter(None, (in_text(str(found)) for found in chain)), None)


def in_text(text: str) -> LatentflowError | None:
    """The last error of ours, or of the operating system, in the text of a traceback."""
    for match in reversed(list(_IN_TEXT.finditer(_WHILE.sub("", text)))):
        if match["number"]:
            if int(match["number"]) in _KNOWN:
                return _refused(int(match["number"]), match["path"])
            continue
        kind = getattr(errors, match["ours"], None)
        if isinstance(kind, type) and issubclass(kind, LatentflowError):
            found: LatentflowError = kind(match["said"].strip())
            return found
    return None


def _refused(number: int, path: str | bytes | int | None) -> LatentflowError:
    """What the operating system refused, where, and what helps."""
    what = os.strerror(number).lower()
    if path is None or isinstance(path, int):
        where = "a file"
    else:
        where = repr(_PARTIAL.sub("", os.fsdecode(path)))
    if number in _PATH_CURES:
        return UsageError(f"{where} cannot be used: {what}; {_PATH_CURES[number]}")
    return FileSystemError(f"{where} cannot be used: {what}; {_CURES[number]}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, also in another process (Ray's errors have a ``cause``)."""
    seen: list[BaseException] = []
    waiting: list[BaseException] = [error]
    while waiting:
        found = waiting.pop(0)
        if not any(found is other for other in seen):
            seen.append(found)
            yield found
            causes = (getattr(found, "cause", None), found.__cause__)
            waiting += [cause for cause in causes if isinstance(cause, BaseException)]
