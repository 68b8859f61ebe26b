"""Images in WebDataset shards: uncompressed tar files, samples grouped by member name."""

from __future__ import annotations

import difflib
import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generators.protocols import ModelFacts
from pipelines.sources.base import (
    Item,
    Listing,
    OpenedFiles,
    container_root,
    file_errors,
    split_uri,
    unreadable,
    utf8,
    walk_files,
)
from pipelines.sources.paths import HIDDEN, IMAGE_ENDINGS, inside, kind_of, selector, suffix
from schemas.errors import InputError, SpecError
from schemas.sections.dataset import DatasetSpec
from schemas.store.reasons import Reason
from transforms.images.quarantine import Quarantine

_ENDINGS = frozenset({".tar"})
_COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")
_MAX_FIELD_BYTES = 1 << 20
_MAX_LINKS = 8
_TAR_BLOCK = 512


@dataclass(frozen=True)
class Member:
    """A tar member: its name in the tar, and where its data lie in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Contents:
    """What a shard holds.

    members : by unique name (``name``, ``name#2``, ...), in tar order
    refused : (member, why) of links that lead nowhere and of sparse files
    problem : what is wrong with the shard as a whole, or None
    """

    members: dict[str, Member]
    refused: list[tuple[str, str]]
    problem: str | None


def open_dataset(dataset: DatasetSpec, facts: ModelFacts | None) -> WebDatasetSource:
    """See `pipelines.sources.open`."""
    chosen = (*container_root(dataset), dataset.patterns, tuple(dataset.exclude))
    return WebDatasetSource(*chosen, tuple(dataset.columns))


@dataclass(frozen=True)
class WebDatasetSource:
    """Members of the tar files below ``root`` (or of ``only`` one of them).

    pattern, exclude : globs of member names (default: known image endings)
    columns : fields of the sample to deliver as factors: of its ``.json`` ("attributes.age" is
        "age" within the object "attributes"), or a text member of that ending ("cls")
    An image's key is its member name. Nothing is ever unpacked, so member names reach no file.
    """

    root: str
    only: str | None = None
    pattern: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    _members: OpenedFiles[Contents] = field(
        default_factory=lambda: OpenedFiles(_table_of_contents),
        init=False,
        repr=False,
        compare=False,
    )

    def list(self) -> Listing:
        """All image members of all shards, shards in natural order, members in tar order.

        Raises InputError for a compressed shard, and SpecError for a column that no sample has.
        """
        listing = Listing(columns=self.columns)
        fields = _Fields(self.root, self.columns, listing)
        shards = [self.only] if self.only else walk_files(self.root, listing)
        taken = selector(self.pattern, self.exclude, IMAGE_ENDINGS)
        for shard in shards:
            if kind_of(shard) == HIDDEN:
                listing.skipped[HIDDEN] += 1
                continue
            if shard.lower().endswith(_COMPRESSED):
                raise InputError(
                    f"shard {shard!r} is compressed, so its images cannot be read one by one: "
                    "unpack it to a plain .tar"
                )
            if suffix(shard) not in _ENDINGS:
                listing.skipped[suffix(shard)] += 1
                continue
            path = inside(self.root, shard)
            try:
                contents = self._members.of(path)
            except OSError as e:
                if self.only:
                    raise
                listing.damaged.append((shard, unreadable(path, e)))
                continue
            if contents.problem:
                listing.damaged.append((shard, contents.problem))
            listing.refused += [(f"{shard}#{name}", why) for name, why in contents.refused]
            for name, member in contents.members.items():
                if taken(member.name):
                    values = fields.of(shard, member.name, contents.members)
                    listing.items.append(Item(utf8(f"{shard}#{name}"), member.name, shard, values))
                else:
                    listing.skipped[kind_of(member.name)] += 1
        if listing.items:
            fields.check()
        return listing

    def read(self, uri: str) -> bytes:
        """The member's bytes."""
        shard, name = split_uri(uri, ".tar")
        with file_errors(uri):
            path = inside(self.root, shard)
            member = self._members.of(path).members.get(name)
            if member is None:
                raise FileNotFoundError(f"no member {name!r} in {shard!r}")
            data = _read(path, member)
        if len(data) < member.size:
            raise Quarantine(Reason.TRUNCATED, f"{uri!r} ends after {len(data)} bytes")
        return data

    def local_path(self, uri: str) -> Path | None:
        """None: an image is part of a shard."""
        split_uri(uri, ".tar")
        return None


class _Fields:
    """Reads the samples' fields, and remembers which there are."""

    def __init__(self, root: str, columns: tuple[str, ...], listing: Listing) -> None:
        self.root, self.columns, self.listing = root, columns, listing
        self.seen: set[str] = set()
        self._last: tuple[str, dict[str, Any]] = ("", {})

    def of(self, shard: str, name: str, members: Mapping[str, Member]) -> dict[str, Any]:
        """Values of the columns of one image, None where its sample has none."""
        if not self.columns:
            return {}
        stems = list(_stems(name))
        json_of = next((s + ".json" for s in stems if s + ".json" in members), None)
        values = {} if json_of is None else self._json(shard, json_of, members)
        found = {}
        for column in self.columns:
            text = next((s for s in stems if f"{s}.{column}" in members), None)
            if text is None or column == "json":
                found[column] = self._within(values, column, column)
            else:
                found[column] = self._text(shard, members[f"{text}.{column}"], column)
        return found

    def check(self) -> None:
        """Raise SpecError when no sample has a column."""
        absent = [column for column in self.columns if column not in self.seen]
        if absent:
            known = sorted(self.seen)
            close = difflib.get_close_matches(absent[0], known, n=1)
            cure = f"did you mean {close[0]!r}? " if close else ""
            raise SpecError(
                f"'dataset.columns' names {absent[0]!r}, which no sample has: {cure}"
                f"the samples have {known[:40]!r}"
            )

    def _json(self, shard: str, name: str, members: Mapping[str, Member]) -> dict[str, Any]:
        place = f"{shard}#{name}"
        if self._last[0] == place:  # several images of one sample follow one another
            return self._last[1]
        values: dict[str, Any] = {}
        member = members[name]
        if member.size > _MAX_FIELD_BYTES:
            why = f"its fields are not read: larger than {_MAX_FIELD_BYTES} bytes"
            self.listing.refused.append((place, why))
        else:
            try:
                decoded = json.loads(_read(inside(self.root, shard), member))
                if not isinstance(decoded, dict):
                    raise ValueError(f"it holds a {type(decoded).__name__!r}, not an object")
                values = decoded
            except (ValueError, RecursionError) as e:
                self.listing.refused.append((place, f"its fields cannot be read: {e}"))
        self.seen.update(values)
        for key, value in values.items():
            if isinstance(value, dict):
                self.seen.update(f"{key}.{inner}" for inner in value)
        self._last = (place, values)
        return values

    def _within(self, values: Mapping[str, Any], path: str, column: str) -> Any:
        """The value of "attributes.age": of that key, or of "age" in the object "attributes"."""
        if path not in values:
            first, _, rest = path.partition(".")
            inner = values.get(first)
            return self._within(inner, rest, column) if isinstance(inner, dict) and rest else None
        value = values[path]
        if isinstance(value, dict):
            fields = [f"{column}.{key}" for key in value]
            raise SpecError(
                f"'dataset.columns' names {column!r}, which is an object: name its fields, "
                f"of {fields[:20]!r}"
            )
        if isinstance(value, list):
            raise SpecError(
                f"'dataset.columns' names {column!r}, which is a list: a factor has one value an "
                "image; remove it, or write the values as fields of their own"
            )
        self.seen.add(column)
        return value

    def _text(self, shard: str, member: Member, column: str) -> str | None:
        self.seen.add(column)
        try:
            if member.size > _MAX_FIELD_BYTES:
                raise ValueError(f"larger than {_MAX_FIELD_BYTES} bytes")
            return _read(inside(self.root, shard), member).decode().strip()
        except ValueError as e:
            why = f"it gives no value of {column!r}: {e}"
            self.listing.refused.append((f"{shard}#{member.name}", why))
            return None


def _stems(name: str) -> Iterator[str]:
    """The names that fields of the image ``name`` may have before their ending, longest first:
    "a.b.png" may go with "a.b.json", and WebDataset itself puts it to "a.json"."""
    folder, slash, base = name.rpartition("/")
    while "." in base.strip("."):
        base = base.rpartition(".")[0]
        yield folder + slash + base


def _table_of_contents(path: Path) -> Contents:
    members: dict[str, Member] = {}
    links: dict[str, tuple[str, str]] = {}
    refused: list[tuple[str, str]] = []
    problem = None

    def unique(wanted: str) -> str:
        name, count = wanted, 2
        while name in members:
            name, count = f"{wanted}#{count}", count + 1
        return name

    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if info.issym() or info.islnk():
                    folder = posixpath.dirname(info.name) if info.issym() else ""
                    target = posixpath.normpath(posixpath.join(folder, info.linkname))
                    name = unique(info.name)
                    links[name] = (info.name, target)
                    members[name] = Member(info.name, 0, 0)  # keeps its place; resolved below
                elif info.issparse():
                    refused.append((info.name, "a sparse file is not read: pack it again"))
                elif info.isreg():
                    members[unique(info.name)] = Member(info.name, info.offset_data, info.size)
            problem = _rest(path, tar.offset)
    except tarfile.TarError as e:
        n = len(members)
        problem = f"the shard is damaged after {n} members, the rest of it is lost: {e}"
        problem = problem if n else unreadable(path, e)
    whole = {posixpath.normpath(n): m for n, m in members.items() if n not in links}
    for name, (own, target) in links.items():
        for _ in range(_MAX_LINKS):  # links to links
            if target in whole or target not in links:
                break
            target = links[target][1]
        if target in whole:
            members[name] = Member(own, whole[target].offset, whole[target].size)
        else:
            del members[name]
            refused.append((own, "a link to what the shard does not hold: pack the file itself"))
    return Contents(members, refused, problem)


def _rest(path: Path, end: int) -> str | None:
    """What is wrong behind a shard's last member: no end mark, or members behind it."""
    with open(path, "rb") as file:
        file.seek(end)
        first = file.read(_TAR_BLOCK)
        if len(first) < _TAR_BLOCK:
            return "the shard has no end mark: members behind the last one may have been cut off"
        while chunk := file.read(1 << 20):
            if chunk.strip(b"\0"):
                return (
                    "the shard goes on behind its end mark, and that part is not read: tars that "
                    "were put together with 'cat' must be packed again, or given one by one"
                )
    return None


def _read(path: Path, member: Member) -> bytes:
    with open(path, "rb") as file:
        file.seek(member.offset)
        return file.read(member.size)
