"""Where images come from: a folder of files, Parquet tables with image bytes, WebDataset tars.

A source lists its images and reads one by its uri. It is a small picklable value, so that every
worker can have its own. uris are relative to the dataset's root:

========== ================================== =========================================
folder     ``train/0001.png``
parquet    ``part-0.parquet#17``              row 17 of that file
webdataset ``shard-0.tar#0001.png``           member of that tar (``#0001.png#2``: its 2nd)
========== ================================== =========================================
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pipelines.paths import IMAGE_ENDINGS, inside, natural_key, selector, suffix
from schemas.errors import InputError, SpecError
from schemas.reasons import Reason
from schemas.spec import DatasetSpec
from transforms.quarantine import Quarantine


@dataclass(frozen=True)
class Item:
    """One image of a source.

    uri : see the module text
    key : the path by which a factor table names the image
    container : file that holds the image, where one file holds many; relative to the root
    factors : values that the dataset itself gives (`DatasetSpec.columns`)
    """

    uri: str
    key: str
    container: str | None = None
    factors: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Listing:
    """What a source holds.

    items : in natural order of their uris' paths
    skipped : files that are not images by name or pattern, counted by ending
    refused : (path, why) of what looks like an image but is not taken
    """

    items: list[Item] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str]] = field(default_factory=list)


class Source(Protocol):
    """What `pipelines.index` and the workers need of a dataset."""

    @property
    def root(self) -> str:
        """Absolute folder that all uris are relative to."""
        ...

    def list(self) -> Listing:
        """All images. Raises InputError where the dataset itself cannot be read."""
        ...

    def read(self, uri: str) -> bytes:
        """The encoded image.

        Raises `Quarantine` MISSING, IO_ERROR, OUT_OF_MEMORY or EMPTY for this one image;
        InputError for a uri that no dataset of this kind gives or that leaves the root.
        """
        ...

    def local_path(self, uri: str) -> Path | None:
        """The file that is exactly this image, or None where it is part of a larger file."""
        ...


def open_source(dataset: DatasetSpec) -> Source:
    """The source that a specification describes. Raises SpecError when 'path' does not fit."""
    from pipelines.parquet_source import ParquetSource
    from pipelines.webdataset_source import WebDatasetSource

    path = Path(dataset.path)
    if not path.exists():
        raise SpecError(
            f"'dataset.path' is {dataset.path!r}, which does not exist: paths are relative to "
            "the specification's file"
        )
    path = path.resolve()
    pattern = None if dataset.pattern is None else tuple(dataset.pattern)
    exclude, columns = tuple(dataset.exclude), tuple(dataset.columns)
    if dataset.kind == "folder":
        if not path.is_dir():
            raise SpecError(
                f"'dataset.path' is {dataset.path!r}, which is a file: name a folder, or set "
                "'dataset.kind' to 'parquet' or 'webdataset'"
            )
        factors = None if dataset.factors is None else os.path.realpath(dataset.factors)
        return FolderSource(str(path), pattern, exclude, factors)
    if dataset.kind == "parquet":
        root, only = _container_root(path)
        return ParquetSource(root, only, pattern, exclude, dataset.image_column, columns)
    root, only = _container_root(path)
    return WebDatasetSource(root, only, pattern, exclude, columns)


def _container_root(path: Path) -> tuple[str, str | None]:
    return (str(path), None) if path.is_dir() else (str(path.parent), path.name)


@dataclass(frozen=True)
class FolderSource:
    """Image files below ``root``. ``without`` is a file (the factor table) that is no image."""

    root: str
    pattern: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    without: str | None = None

    def list(self) -> Listing:
        """All files that the pattern (or their ending) selects, in natural order."""
        listing, taken = Listing(), selector(self.pattern, self.exclude, IMAGE_ENDINGS)
        for relative in walk_files(self.root, listing):
            path = os.path.join(self.root, relative)
            linked = os.path.islink(path)
            if not taken(relative) or (os.path.realpath(path) if linked else path) == self.without:
                listing.skipped[suffix(relative)] += 1
                continue
            if linked:
                try:
                    inside(self.root, relative)
                except InputError as e:
                    listing.refused.append((relative, str(e)))
                    continue
            listing.items.append(Item(utf8(relative), relative))
        return listing

    def read(self, uri: str) -> bytes:
        """The file's bytes."""
        with file_errors(uri), open(inside(self.root, uri), "rb") as file:
            return file.read()

    def local_path(self, uri: str) -> Path | None:
        """The file."""
        return inside(self.root, uri)


def walk_files(root: str, listing: Listing) -> list[str]:
    """Relative POSIX paths of all files below ``root``, in natural order.

    Linked folders are not entered (they can form circles) and are noted in ``listing.refused``,
    as are folders that cannot be read.
    """
    found: list[str] = []

    def unreadable(error: OSError) -> None:
        where = os.path.relpath(error.filename or root, root)
        listing.refused.append((where, f"the folder cannot be read: {error.strerror}"))

    for folder, folders, files in os.walk(root, onerror=unreadable):
        below = os.path.relpath(folder, root)
        prefix = "" if below == "." else below.replace(os.sep, "/") + "/"
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                text = "a linked folder is not entered: copy it, or set the root to its target"
                listing.refused.append((prefix + name, text))
        found.extend(prefix + name for name in files)
    found.sort(key=natural_key)
    listing.refused.sort()
    return found


def read_checked(source: Source, uri: str, image_id: str) -> bytes:
    """`Source.read`, and the certainty that these are the bytes that were indexed.

    Raises `Quarantine` CHANGED when the bytes' sha256 is not ``image_id``, besides what ``read``
    raises.
    """
    data = source.read(uri)
    if hashlib.sha256(data).hexdigest() != image_id:
        raise Quarantine(
            Reason.CHANGED,
            f"the bytes of {uri!r} are not those that were indexed: update the index",
        )
    return data


def open_item(source: Source, uri: str, path: Path | None) -> BinaryIO:
    """A seekable binary file over one image, without reading a whole file into memory.

    path : ``source.local_path(uri)``
    Raises what `Source.read` raises.
    """
    if path is None:
        return io.BytesIO(source.read(uri))
    with file_errors(uri):
        return open(path, "rb")


@contextmanager
def file_errors(uri: str) -> Iterator[None]:
    """Operating-system errors become the `Quarantine` of one image."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as e:
        raise Quarantine(Reason.MISSING, f"{uri!r} is gone") from e
    except OSError as e:
        raise Quarantine(Reason.IO_ERROR, f"{uri!r} cannot be read: {e.strerror or e}") from e
    except MemoryError as e:
        raise Quarantine(Reason.OUT_OF_MEMORY, f"{uri!r} does not fit into memory") from e


def split_uri(uri: str, marker: str) -> tuple[str, str]:
    """("part.parquet", "17") of "part.parquet#17" with marker ".parquet". Raises InputError."""
    position = uri.lower().find(marker + "#")
    if position < 0:
        raise InputError(
            f"uri {uri!r} is not of the form '<file>{marker}#<item>': the index belongs to a "
            "dataset of another kind; index again"
        )
    end = position + len(marker)
    return uri[:end], uri[end + 1 :]


def utf8(relative: str) -> str:
    """``relative`` itself. Raises InputError for a name that Parquet could not store."""
    try:
        relative.encode("utf-8")
    except UnicodeEncodeError as e:
        raise InputError(
            f"file name {relative!r} is not UTF-8: rename the file, or leave it out with "
            "'dataset.exclude'"
        ) from e
    return relative
