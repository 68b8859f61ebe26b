"""Where rows come from: a folder of files, zips, Parquet tables, WebDataset tars, a generator.

A source lists its images and reads one by its uri. It is a small picklable value, so that every
worker can have its own. uris are relative to the dataset's root:

========== ================================== =========================================
folder     ``train/0001.png``
zip        ``faces.zip#00/0001.png``          member of that zip (``...png#2``: its 2nd)
parquet    ``part-0.parquet#17``              row 17 of that file
webdataset ``shard-0.tar#0001.png``           member of that tar (``#0001.png#2``: its 2nd)
sampled    ``seed/17``                        drawn from that seed
========== ================================== =========================================
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Generic, NamedTuple, Protocol, TypeVar

from pipelines.sources.paths import natural_key
from schemas.errors import InputError, SpecError
from schemas.sections.dataset import LABEL, DatasetSpec
from schemas.store.reasons import Reason
from transforms.images.quarantine import Quarantine

GIT_LFS = b"version https://git-lfs"
DATASET_JSON = "dataset.json"
LINKED_FOLDER = "a linked folder is not entered: copy it, or set the root to its target"
RUN_FOLDER = "what a run has written holds no images of the dataset"
RUN_FILES = {"run.lock", "hashes.sqlite"}
"""One of them lies in the folder of every run, from its first moment on."""


class Item(NamedTuple):
    """One image of a source.

    uri : see the module text
    key : the path by which a factor table names the image
    container : file that holds the image, where one file holds many; relative to the root
    factors : values that the dataset itself gives (`DatasetSpec.columns`)
    image_id : of rows that no file holds, see `pipelines.sources.sampled`
    """

    uri: str
    key: str
    container: str | None = None
    factors: Mapping[str, Any] = MappingProxyType({})
    image_id: str | None = None


@dataclass
class Listing:
    """What a source holds.

    items : in natural order of their uris' paths
    skipped : files that are not images by name or pattern, counted by ending; "hidden" counts those
        whose names begin with a dot
    refused : (path, why) of what looks like an image but is not taken
    damaged : (path, why) of shards and folders whose images could not all be listed
    columns : names of the factors that the items carry
    notes : what people should know about the dataset, in whole sentences
    """

    items: list[Item] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str]] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


class Source(Protocol):
    """What `pipelines.stages.index` and the workers need of a dataset."""

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


def place_of(dataset: DatasetSpec) -> Path:
    """Where a dataset lies, an absolute path. Raises SpecError where there is nothing."""
    path = Path(str(dataset.path))
    if not path.exists():
        cure = "paths are relative to the specification's file"
        if any(mark in path.name for mark in "*?[{"):
            cure = "give the folder that holds these files"
        raise SpecError(f"'dataset.path' is {dataset.path!r}, which does not exist: {cure}")
    return path.resolve()


def container_root(dataset: DatasetSpec) -> tuple[str, str | None]:
    """(root, the only file of the dataset, or None for all below the root): a file that holds many
    images, or a folder of them. Raises SpecError where there is nothing."""
    path = place_of(dataset)
    return (str(path), None) if path.is_dir() else (str(path.parent), path.name)


def is_table(relative: str) -> bool:
    """Whether the file is named as the tables that come with image folders are."""
    name = relative.rsplit("/", 1)[-1].lower()
    stem, ending = os.path.splitext(name)
    if ending in (".csv", ".tsv", ".jsonl", ".parquet"):
        return stem in ("metadata", "labels", "attributes", "factors") or stem.startswith("list_")
    return name == DATASET_JSON or (ending == ".txt" and stem.startswith(("list_", "identity_")))


def add_labels(listing: Listing, items: list[Item], raw: bytes, name: str) -> None:
    """The labels of a StyleGAN dataset's ``dataset.json`` as factors of ``items``, in place.

    One number an image becomes `LABEL`, a list of k numbers ``label_0`` to ``label_<k-1>``.
    """
    try:
        labels = json.loads(raw).get("labels")
        found = {str(key): value for key, value in labels or ()}
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        listing.notes.append(f"the labels of {name!r} cannot be read: {e}")
        return
    values = {key: value for key, value in found.items() if value is not None}
    n_labels = {len(value) if isinstance(value, list) else 0 for value in values.values()}
    if len(n_labels) != 1 or not all(map(_is_label, values.values())):
        if values:
            listing.notes.append(
                f"the labels of {name!r} are not read: they must be one number an image, or "
                "lists of numbers of one length"
            )
        return
    (n,) = n_labels
    if any(isinstance(cell, float) for value in values.values() if n for cell in value):
        values = {key: [float(cell) for cell in value] for key, value in values.items()}
    columns = tuple(f"{LABEL}_{i}" for i in range(n)) if n else (LABEL,)
    known = 0
    for i, item in enumerate(items):
        value = values.get(item.key)
        if value is not None:
            known += 1
            cells = value if isinstance(value, list) else [value]
            items[i] = item._replace(factors=dict(zip(columns, cells, strict=True)))
    if known:
        listing.columns = tuple(dict.fromkeys([*listing.columns, *columns]))
        missing = f", {len(items) - known} images have none" if known < len(items) else ""
        factors = " to ".join(map(repr, dict.fromkeys([columns[0], columns[-1]])))
        listing.notes.append(f"the labels of {name!r} become {factors}{missing}")
    else:
        listing.notes.append(f"the labels of {name!r} name none of the images")


def _is_label(value: Any) -> bool:
    cells = value if isinstance(value, list) else [value]
    return bool(cells) and all(isinstance(c, int | float) for c in cells)


def walk_files(root: str, listing: Listing) -> list[str]:
    """Relative POSIX paths of all files below ``root``, in natural order.

    Linked folders (they can form circles) and folders of runs are not entered and are noted in
    ``listing.refused``; folders that cannot be read are noted in ``listing.damaged``.
    """
    found: list[str] = []

    def unreadable(error: OSError) -> None:
        where = os.path.relpath(error.filename or root, root)
        listing.damaged.append((where, f"the folder cannot be read: {error.strerror}"))

    for folder, folders, files in os.walk(root, onerror=unreadable):
        below = os.path.relpath(folder, root)
        prefix = "" if below == "." else below.replace(os.sep, "/") + "/"
        if prefix and not RUN_FILES.isdisjoint(files):
            listing.refused.append((prefix.rstrip("/"), RUN_FOLDER))
            folders.clear()
            continue
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                listing.refused.append((prefix + name, LINKED_FOLDER))
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


@contextlib.contextmanager
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


def unreadable(path: Path, error: Exception) -> str:
    """Why a shard cannot be read: what the error says, or that it is only a pointer to one."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if file.read(len(GIT_LFS)) == GIT_LFS:
            return "is a pointer of Git LFS, not the file itself: run 'git lfs pull'"
    return f"cannot be read: {error}"


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


Held = TypeVar("Held")


class OpenedFiles(Generic[Held]):
    """What was made of the files opened so far, by file version. Pickled without them.

    opened : called once with the path of each version of a file; raises what it will
    """

    def __init__(self, opened: Callable[[Path], Held]) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._known: dict[str, Held] = {}

    def __reduce__(self) -> tuple[type[OpenedFiles[Held]], tuple[Callable[[Path], Held]]]:
        return OpenedFiles, (self._opened,)

    def of(self, path: Path) -> Held:
        """Of the file as it is now. Raises OSError, and what ``opened`` raises."""
        stat = path.stat()
        version = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}"
        with self._lock:
            if version not in self._known:
                self._known[version] = self._opened(path)
            return self._known[version]
