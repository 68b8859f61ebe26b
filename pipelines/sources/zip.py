"""Images in zip files, as the StyleGAN family packs its datasets: members, and dataset.json."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from generators.protocols import ModelFacts
from pipelines.sources.base import (
    DATASET_JSON,
    Item,
    Listing,
    OpenedFiles,
    add_labels,
    container_root,
    file_errors,
    split_uri,
    unreadable,
    utf8,
    walk_files,
)
from pipelines.sources.paths import (
    HIDDEN,
    IMAGE_ENDINGS,
    inside,
    kind_of,
    natural_key,
    selector,
    suffix,
)
from schemas.errors import InputError
from schemas.sections.dataset import LABEL, DatasetSpec
from schemas.store.reasons import Reason
from transforms.images.quarantine import Quarantine

MAX_MEMBER_BYTES = 1 << 28
"""Members that unpack to more are refused as decompression bombs."""

_ENCRYPTED = 1


def open_dataset(dataset: DatasetSpec, facts: ModelFacts | None) -> ZipSource:
    """See `pipelines.sources.open`."""
    root, only = container_root(dataset)
    labels = LABEL not in dataset.ignore
    return ZipSource(root, only, dataset.patterns, tuple(dataset.exclude), labels)


@dataclass(frozen=True)
class ZipSource:
    """Members of the zip files below ``root`` (or of ``only`` one of them).

    pattern, exclude : globs of member names (default: known image endings)
    labels : a zip's ``dataset.json`` gives its images' factor "label"
    An image's key is its member name. Nothing is ever unpacked to disk, so member names reach no
    file; a member is read whole, up to `MAX_MEMBER_BYTES`.
    """

    root: str
    only: str | None = None
    pattern: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    labels: bool = True
    _open: OpenedFiles[_Opened] = field(
        default_factory=lambda: OpenedFiles(_opened), init=False, repr=False, compare=False
    )

    def list(self) -> Listing:
        """All image members of all zips, zips and members in natural order.

        Raises InputError when the one zip of the dataset cannot be opened; of several, those that
        cannot be opened are noted as damaged.
        """
        listing = Listing()
        names = [self.only] if self.only else walk_files(self.root, listing)
        taken = selector(self.pattern, self.exclude, IMAGE_ENDINGS)
        for name in names:
            if not self.only and (suffix(name) != ".zip" or kind_of(name) == HIDDEN):
                listing.skipped[kind_of(name)] += 1
                continue
            path = inside(self.root, name)
            try:
                members = self._open.of(path).members
            except (zipfile.BadZipFile, OSError) as e:
                why = unreadable(path, e)
                if self.only:
                    raise InputError(f"zip {name!r} {why}") from e
                listing.damaged.append((name, why))
                continue
            items = []
            for unique in sorted(members, key=natural_key):
                member = members[unique].filename
                if taken(member):
                    items.append(Item(utf8(f"{name}#{unique}"), member, name))
                elif member != DATASET_JSON:
                    listing.skipped[kind_of(member)] += 1
            if self.labels and DATASET_JSON in members:
                raw = self.read(f"{name}#{DATASET_JSON}")
                add_labels(listing, items, raw, f"{name}#{DATASET_JSON}")
            listing.items += items
        return listing

    def read(self, uri: str) -> bytes:
        """The member's bytes. Its length and checksum are checked."""
        name, unique = split_uri(uri, ".zip")
        with file_errors(uri):
            path = inside(self.root, name)
            try:
                opened = self._open.of(path)
                member = opened.members.get(unique)
                if member is None:
                    raise FileNotFoundError(f"no member {unique!r} in {name!r}")
                _check(member, uri)
                with opened.file.open(member) as file:
                    return file.read()
            except EOFError as e:
                raise Quarantine(Reason.TRUNCATED, f"{uri!r} ends too early in its zip") from e
            except NotImplementedError as e:
                raise Quarantine(Reason.UNSUPPORTED, f"{uri!r} cannot be unpacked: {e}") from e
            except (zipfile.BadZipFile, zlib.error) as e:
                raise Quarantine(Reason.CORRUPT, f"{uri!r} is damaged in its zip: {e}") from e

    def local_path(self, uri: str) -> Path | None:
        """None: an image is part of a zip."""
        split_uri(uri, ".zip")
        return None


def _check(member: zipfile.ZipInfo, uri: str) -> None:
    """What a member's entry says before anything is unpacked."""
    if member.flag_bits & _ENCRYPTED:
        raise Quarantine(Reason.UNSUPPORTED, f"{uri!r} is encrypted: pack it without a password")
    if member.file_size > MAX_MEMBER_BYTES:
        raise Quarantine(
            Reason.TOO_LARGE,
            f"{uri!r} unpacks to {member.file_size} bytes, over the limit of {MAX_MEMBER_BYTES}",
        )


@dataclass(frozen=True)
class _Opened:
    """file : open for reading by several threads; members : by unique name, folders left out."""

    file: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]


def _opened(path: Path) -> _Opened:
    file = zipfile.ZipFile(path)
    members: dict[str, zipfile.ZipInfo] = {}
    for info in file.infolist():
        if info.is_dir():
            continue
        name, count = info.filename, 2
        while name in members:
            name, count = f"{info.filename}#{count}", count + 1
        members[name] = info
    return _Opened(file, members)
