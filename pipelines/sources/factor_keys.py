"""Which column of a factor table names the images, and which row is whose.

A key names an image by its path below the dataset's root, by its uri, or by the sha256 of its
bytes. Where not one key does so, further readings are tried in turn, each told about: paths that
continue the root's own name, paths without the folders above, paths without their endings.
"""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from pipelines.sources.factor_tables import Cell, FactorTable
from pipelines.sources.paths import IMAGE_ENDINGS, below_root, suffix
from schemas.errors import InputError, SpecError

IMAGE_ID = "image_id"
KEY_COLUMNS = ("path", "file", "file_name", "filename", "uri")

T = TypeVar("T")

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Images:
    """The index rows as a table may name them. keys : "" for removed rows. root : see `join`."""

    uris: list[str]
    keys: list[str]
    image_ids: list[str]
    active: list[bool]
    root: str

    @cached_property
    def paths(self) -> list[list[str]]:
        """Names of every row: its uri, then its key unless several images share that."""
        shared = Counter(itertools.compress(self.keys, self.active))
        return [
            [] if not a else [_plain(uri), _plain(key)] if shared[key] == 1 else [_plain(uri)]
            for uri, key, a in zip(self.uris, self.keys, self.active, strict=True)
        ]

    @cached_property
    def ids(self) -> list[list[str]]:
        """The one name of every row that is its sha256."""
        return [[i] if a else [] for i, a in zip(self.image_ids, self.active, strict=True)]

    def shortened(self, shorten: Callable[[str], Iterable[str]]) -> list[list[str]]:
        """Other names made of the paths, without those that several rows would have."""
        names = [list(dict.fromkeys(s for p in ps for s in shorten(p))) for ps in self.paths]
        shared = Counter(name for row in names for name in row)
        return [[name for name in row if shared[name] == 1] for row in names]


@dataclass
class Match:
    """Which row of a table belongs to which image.

    column : that names the images
    row_of : for every index row the table's row, or None
    unused : keys that name no active row (a missing key as "row <number>")
    doubled : (key, first row, another row) of images that the table names several times
    """

    column: str
    row_of: list[int | None]
    unused: list[str]
    doubled: list[tuple[str, int, int]]
    notes: list[str] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Images that were found."""
        return sum(row is not None for row in self.row_of)


def find_key(table: FactorTable, images: Images, wanted: str | None) -> Match:
    """The column that names images, and the match by it.

    wanted : 'dataset.key', which alone is then tried; else ``image_id`` and `KEY_COLUMNS`, those
        that the table has, and of other columns the one that names most images

    Raises InputError when no column names any image, with what is in the way.
    """
    names = [wanted] if wanted else [n for n in (IMAGE_ID, *KEY_COLUMNS) if n in table.columns]
    sure = list(names)
    if not sure:
        names = [n for n in table.columns if any(isinstance(c, str) for c in table.columns[n])]
    elif wanted is None:
        names += [n for n in table.own_texts if n not in names]
    keys = {name: _keys(table.columns[name], images.root) for name in names}
    none = not any(images.active) or not any(k is not None for ks in keys.values() for k in ks)
    for reading in _READINGS:
        tried = [
            found
            for name in names
            if (found := reading(images, name, keys[name], name in sure)) is not None
            if found.n or (none and sure)
        ]
        if tried:
            best = tried[0] if tried[0].column in sure else max(tried, key=lambda m: m.n)
            if best.column != wanted and best.column not in (IMAGE_ID, *KEY_COLUMNS):
                best.notes.append(f"the factor table's column {best.column!r} names the images")
            left = [own for own, row in zip(images.paths, best.row_of, strict=True) if row is None]
            if best.n and (difference := how_they_differ(best.unused, left)):
                best.notes.append(f"of those that match nothing, {difference}")
            return best
    if not sure:
        raise SpecError(
            f"the factor table {table.path!r} has no column {IMAGE_ID!r} or any of {KEY_COLUMNS!r} "
            f"that names the image, only {list(table.columns)!r}: name the right one under "
            "'dataset.key'"
        )
    raise InputError(_no_match(table, images, sure[0], keys[sure[0]]))


def _keys(cells: Sequence[Cell], root: str) -> list[str | None]:
    """The keys of a column, None where missing; absolute paths below the root become relative."""
    return [None if c is None or c == "" or c != c else _key(str(c), root) for c in cells]


def _key(text: str, root: str) -> str:
    if text.isdecimal():  # a seed, of which there may be millions
        return text
    return _plain(below_root(root, text.replace("\\", "/")))


def _plain(key: str) -> str:
    while key.startswith("./"):
        key = key[2:]
    return key


# ---------------------------------------------------------------------------------------------
# Readings


def _exact(images: Images, name: str, keys: Sequence[str | None], sure: bool) -> Match | None:
    present = [key for key in keys if key is not None]
    if present and all(_SHA256.fullmatch(key) for key in present):
        match = _matched(name, images.ids, [None if k is None else k.lower() for k in keys])
        if match.n or name == IMAGE_ID:
            return match
    return _matched(name, images.paths, keys)


def _behind_root(images: Images, name: str, keys: Sequence[str | None], sure: bool) -> Match | None:
    """ "/elsewhere/faces/a.png" and "data/faces/a.png" for "a.png" in a root named "faces"."""
    folder = os.path.basename(images.root)
    mark = f"/{folder}/"
    behind = [k if k is None or mark not in f"/{k}" else f"/{k}".rsplit(mark, 1)[1] for k in keys]
    match = _matched(name, images.paths, behind)
    match.notes.append(f"paths in column {name!r} are read from behind their folder {folder!r}")
    return match


def _without_folders(
    images: Images, name: str, keys: Sequence[str | None], sure: bool
) -> Match | None:
    """ "a.png" and "b/a.png" for "faces/b/a.png", where no other image has that name."""
    match = _matched(name, images.shortened(_tails), keys)
    match.notes.append(f"column {name!r} names the images without the folders that they lie in")
    return match


def _without_endings(
    images: Images, name: str, keys: Sequence[str | None], sure: bool
) -> Match | None:
    """ "0001" for "faces/0001.png", where no other image has that name."""
    if not sure or any(suffix(key) in IMAGE_ENDINGS for key in keys if key is not None):
        return None

    def shorten(path: str) -> Iterator[str]:
        stem = os.path.splitext(path)[0]
        yield stem
        yield from _tails(stem)

    match = _matched(name, images.shortened(shorten), keys)
    match.notes.append(f"column {name!r} names the images without their endings")
    return match


_READINGS = (_exact, _behind_root, _without_folders, _without_endings)


def _tails(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.split("/", 1)[1]
        yield path


def _matched(column: str, names: Sequence[Sequence[str]], keys: Sequence[str | None]) -> Match:
    """Rows by exact names; what is left, by names in Unicode's composed form (NFC)."""
    rows: dict[str, int] = {}
    doubled = []
    for i, key in enumerate(keys):
        if key is not None and (first := rows.setdefault(key, i)) != i:
            doubled.append((key, first, i))
    row_of: list[int | None] = []
    used: set[str] = set()
    for own in names:
        row = None
        for name in own:
            row = rows.get(name)
            if row is not None:
                used.add(name)
                break
        row_of.append(row)
    match = Match(column, row_of, [], doubled)
    _match_composed(match, names, rows, used)
    match.unused = [key for key in rows if key not in used]
    match.unused += [f"row {i}" for i, key in enumerate(keys) if key is None]
    return match


def _match_composed(
    match: Match, names: Sequence[Sequence[str]], rows: Mapping[str, int], used: set[str]
) -> None:
    """macOS writes decomposed names, tables hold composed ones. Each must be the only one."""
    keys = _once((_nfc(key), key) for key in rows if key not in used and not key.isascii())
    if not keys:
        return
    left = [i for i, row in enumerate(match.row_of) if row is None]
    images = _once((c, i) for i in left for c in {_nfc(n) for n in names[i] if not n.isascii()})
    n = 0
    for composed, i in images.items():
        key = keys.get(composed)
        if key is not None and match.row_of[i] is None and key not in used:
            match.row_of[i] = rows[key]
            used.add(key)
            n += 1
    if n:
        match.notes.append(
            f"{n} names of column {match.column!r} differ from the images' in how accents are "
            "coded (composed or decomposed Unicode), and are taken as the same"
        )


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _once(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """The pairs whose first part stands only once."""
    found: dict[str, T] = {}
    twice: set[str] = set()
    for name, value in pairs:
        if name in found:
            twice.add(name)
        found[name] = value
    return {name: value for name, value in found.items() if name not in twice}


# ---------------------------------------------------------------------------------------------
# Why nothing matches


def _no_match(table: FactorTable, images: Images, column: str, keys: Sequence[str | None]) -> str:
    first = next((key for key in keys if key is not None), "")
    image = next((own[0] for own in images.paths if own), "")
    cause = f"column {column!r} holds {first!r}, images have {image!r}"
    cure = "make the paths relative to 'dataset.path', or name another column under 'dataset.key'"
    present = [key for key in keys if key is not None]
    if all(_SHA256.fullmatch(key) for key in present):
        image = next((own[0] for own in images.ids if own), "")
        cause = f"column {column!r} holds the sha256 {first!r}, the first image has {image!r}"
        cure = "is it of the same files? Name a column of paths under 'dataset.key'"
        return f"the factor table {table.path!r} matches none of the images: {cause}: {cure}"
    why = how_they_differ(present, images.paths) or f"{cause}: {cure}"
    return f"the factor table {table.path!r} matches none of the images: {why}"


def how_they_differ(keys: Sequence[str], names: Sequence[Sequence[str]]) -> str | None:
    """How keys differ from the images' names, with an example, and the cure."""
    for alike, text, cure in (
        (str.casefold, "in upper and lower case only", "write them as the files are named"),
        (_file, "in their folders", "make the paths relative to 'dataset.path'"),
        (_stem, "in their endings only", "write the endings of the files"),
        (_number, "in leading zeros", "write them as text, as the files are named"),
    ):
        of_images = {alike(name): name for own in names for name in own if alike(name)}
        pair = next(((k, of_images[alike(k)]) for k in keys if alike(k) in of_images), None)
        if pair is not None:
            return f"names differ {text}, such as {pair[0]!r} and {pair[1]!r}: {cure}"
    return None


def _stem(path: str) -> str:
    return os.path.splitext(_file(path))[0].casefold()


def _number(path: str) -> str:
    """The number that a file is named by, without leading zeros; "" for other names."""
    stem = os.path.splitext(_file(path))[0]
    return (stem.lstrip("0") or "0") if stem.isascii() and stem.isdecimal() else ""


def _file(path: str) -> str:
    return path.rsplit("/", 1)[-1].casefold()
