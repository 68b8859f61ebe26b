"""Paths inside a dataset: containment in its root, glob patterns, natural order."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from schemas.errors import InputError

IMAGE_ENDINGS = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .gif .webp .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm "
    ".jp2 .j2k .jpx .avif .avifs .mpo .ico".split()
)

_DIGITS = re.compile(r"[0-9]+")


def inside(root: str | Path, relative: str) -> Path:
    """The file ``relative`` below ``root``, after following links.

    root : absolute folder without links
    Raises InputError for anything that is not a plain relative path below the root: absolute,
    with a drive, a URL, "..", a NUL, or a link that leads outside.
    """
    unsafe = (
        not relative
        or "\0" in relative
        or "://" in relative
        or relative.startswith(("/", "\\", "~"))
        or relative[1:2] == ":"
        or relative[:5].lower() == "file:"
        or ".." in relative.replace("\\", "/").split("/")
    )
    if unsafe:
        raise InputError(
            f"path {relative!r} reaches outside the dataset's root {str(root)!r}: "
            "use paths relative to the root, without '..'"
        )
    path = below = os.path.join(root, relative)
    while len(below) > len(str(root)) and not os.path.islink(below):
        below = os.path.dirname(below)
    if len(below) > len(str(root)):
        real = os.path.realpath(path)
        if not real.startswith(os.path.join(root, "")):
            raise InputError(
                f"path {relative!r} is a link to {real!r}, outside the dataset's root "
                f"{str(root)!r}: copy the file, or set the root higher"
            )
    return Path(path)


def natural_key(text: str) -> tuple[str, str]:
    """Sort key under which "a2" comes before "a10"; equal only for equal strings.

    A number becomes "0", its count of digits as one character, and its digits: fewer digits sort
    first, and numbers keep their place among other characters.
    """

    def number(match: re.Match[str]) -> str:
        digits = match.group().lstrip("0") or "0"
        return f"0{chr(len(digits))}{digits}"

    return _DIGITS.sub(number, text), text


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Does a relative path match any of the globs?

    ``*`` and ``?`` stay within one folder, ``**`` crosses folders, ``[abc]`` and ``[!abc]`` are
    character classes. A pattern without a slash is matched against the file name at any depth.
    """
    whole: list[re.Pattern[str]] = []
    names: list[re.Pattern[str]] = []
    for pattern in patterns:
        (whole if "/" in pattern else names).append(re.compile(_regex(pattern.removeprefix("./"))))

    def matches(relative: str) -> bool:
        name = relative.rsplit("/", 1)[-1]
        return any(p.fullmatch(relative) for p in whole) or any(p.fullmatch(name) for p in names)

    return matches


def selector(
    patterns: Sequence[str] | None, exclude: Sequence[str], endings: frozenset[str]
) -> Callable[[str], bool]:
    """Is a relative path taken: by ``patterns``, or without them by its ending (and not hidden)?"""
    left_out = matcher(exclude)
    if patterns is None:

        def by_ending(relative: str) -> bool:
            name = relative.rsplit("/", 1)[-1]
            return not name.startswith(".") and suffix(name) in endings

        chosen: Callable[[str], bool] = by_ending
    else:
        chosen = matcher(patterns)
    return lambda relative: chosen(relative) and not left_out(relative)


def suffix(relative: str) -> str:
    """Lower-case ending with its dot, "" where there is none."""
    return os.path.splitext(relative)[1].lower()


def _regex(pattern: str) -> str:
    out, i = "", 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
            out, i = out + "(?:.*/)?", i + 3
        elif pattern.startswith("**", i):
            out, i = out + ".*", i + 2
        elif pattern[i] == "*":
            out, i = out + "[^/]*", i + 1
        elif pattern[i] == "?":
            out, i = out + "[^/]", i + 1
        elif pattern[i] == "[" and (end := pattern.find("]", i + 2)) > 0:
            inner = pattern[i + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            inner = "^" + inner[1:] if inner[0] in "!^" else inner
            out, i = f"{out}(?!/)[{inner}]", end + 1
        else:
            out, i = out + re.escape(pattern[i]), i + 1
    return out
