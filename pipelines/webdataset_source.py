"""Images in WebDataset shards: uncompressed tar files, samples grouped by member name."""

from __future__ import annotations

import json
import tarfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.paths import IMAGE_ENDINGS, inside, selector, suffix
from pipelines.sources import Item, Listing, file_errors, split_uri, utf8, walk_files
from schemas.errors import InputError
from schemas.reasons import Reason
from transforms.quarantine import Quarantine

_ENDINGS = frozenset({".tar"})
_COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")
_MAX_FIELD_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """A tar member: its name in the tar, and where its data lie in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class WebDatasetSource:
    """Members of the tar files below ``root`` (or of ``only`` one of them).

    pattern, exclude : globs of member names (default: known image endings)
    columns : fields of the sample's ``.json`` to deliver as factors; "cls" is its ``.cls``
    An image's key is its member name. Nothing is ever unpacked, so member names reach no file.
    """

    root: str
    only: str | None = None
    pattern: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    _members: _Members = field(
        default_factory=lambda: _Members(), init=False, repr=False, compare=False
    )

    def list(self) -> Listing:
        """All image members of all shards, shards in natural order, members in tar order."""
        listing = Listing()
        shards = [self.only] if self.only else walk_files(self.root, listing)
        taken = selector(self.pattern, self.exclude, IMAGE_ENDINGS)
        for shard in shards:
            if shard.lower().endswith(_COMPRESSED):
                raise InputError(
                    f"shard {shard!r} is compressed, so its images cannot be read one by one: "
                    "unpack it to a plain .tar"
                )
            if suffix(shard) not in _ENDINGS:
                listing.skipped[suffix(shard)] += 1
                continue
            members, problem = self._members.of(inside(self.root, shard))
            if problem:
                listing.refused.append((shard, problem))
            for name, member in members.items():
                if taken(member.name):
                    fields = self._fields(shard, member.name, members)
                    listing.items.append(Item(utf8(f"{shard}#{name}"), member.name, shard, fields))
                else:
                    listing.skipped[suffix(member.name)] += 1
        return listing

    def _fields(self, shard: str, name: str, members: dict[str, Member]) -> dict[str, Any]:
        if not self.columns:
            return {}
        folder, _, base = name.rpartition("/")
        stem = (folder + "/" if folder else "") + base.split(".", 1)[0]
        values: dict[str, Any] = {}
        for ending in (".json", ".cls"):
            member = members.get(stem + ending)
            if member is None or member.size > _MAX_FIELD_BYTES:
                continue
            raw = _read(inside(self.root, shard), member)
            try:
                decoded = json.loads(raw) if ending == ".json" else {"cls": raw.decode().strip()}
            except ValueError as e:
                raise InputError(f"{stem + ending!r} in {shard!r} cannot be read: {e}") from e
            if isinstance(decoded, dict):
                values.update(decoded)
        return {column: values.get(column) for column in self.columns}

    def read(self, uri: str) -> bytes:
        """The member's bytes."""
        shard, name = split_uri(uri, ".tar")
        with file_errors(uri):
            path = inside(self.root, shard)
            member = self._members.of(path)[0].get(name)
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


class _Members:
    """Tables of contents of the shards opened so far, by file version. Not pickled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[dict[str, Member], str | None]] = {}

    def __reduce__(self) -> tuple[type[_Members], tuple[()]]:
        return _Members, ()

    def of(self, path: Path) -> tuple[dict[str, Member], str | None]:
        """Members by unique name, and what is wrong with the shard, if anything."""
        stat = path.stat()
        version = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}"
        with self._lock:
            if version not in self._known:
                self._known[version] = _table_of_contents(path)
            return self._known[version]


def _table_of_contents(path: Path) -> tuple[dict[str, Member], str | None]:
    members: dict[str, Member] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if info.isreg() and not info.issparse():
                    name, count = info.name, 2
                    while name in members:
                        name, count = f"{info.name}#{count}", count + 1
                    members[name] = Member(info.name, info.offset_data, info.size)
    except tarfile.TarError as e:
        return members, f"the shard is damaged after {len(members)} members: {e}"
    return members, None


def _read(path: Path, member: Member) -> bytes:
    with open(path, "rb") as file:
        file.seek(member.offset)
        return file.read(member.size)
