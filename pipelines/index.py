"""Build and update a dataset index: list, hash and probe in threads, match to the rows there are.

Every file becomes a row, also one that cannot be decoded: inversion quarantines it with a reason.
Rows are only ever appended. After the first build, whose order is the natural order of the
relative paths, an update

- keeps a file that is still there with the same bytes,
- gives a moved file's row its new uri (same bytes, other path),
- removes the row of a file that is gone, and
- treats a changed file as a removed row and a new one.

The result does not depend on the number of threads or their timing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pipelines.factors import JoinReport, join, read_factor_table, with_inline_factors
from pipelines.paths import inside
from pipelines.sources import Item, Source, file_errors, open_item, open_source
from schemas.errors import InputError
from schemas.fingerprint import ContentHashCache, file_sha256
from schemas.index import ACTIVE, DatasetIndex, NewRow, duplicates
from schemas.spec import DatasetSpec
from transforms.preprocess import DEFAULT_MAX_PIXELS, Quarantine, probe

Progress = Callable[[int, int], None]
_BATCH = 32  # items a thread takes at once
_KNOWN_BATCH = 500  # items that the cache is asked for at once


@dataclass
class Unreadable:
    """A row whose header says already that it will be quarantined."""

    uri: str
    reason: str
    text: str


@dataclass
class IndexReport:
    """What an index build found. Lists are complete; `to_dict` can shorten them.

    n_files : images that the source listed
    n_rows, n_active : rows of the index now, and those not removed
    unchanged, added, moved, removed : rows; a changed file counts as removed and as added
    changed : uris of files whose bytes changed
    duplicates : active rows that share their bytes with another, grouped as lists of uris
    unreadable : rows whose header cannot be read
    skipped : files that are not images by name or pattern, counted by ending
    refused : (path, why) of what looks like an image but is not taken
    factors : the join with the factor table, None without one
    """

    n_files: int = 0
    n_rows: int = 0
    n_active: int = 0
    unchanged: int = 0
    added: int = 0
    moved: int = 0
    removed: int = 0
    changed: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)
    factors: JoinReport | None = None

    @property
    def n_duplicates(self) -> int:
        """Active rows beyond the first of each group with the same bytes."""
        return sum(len(group) - 1 for group in self.duplicates)

    def to_dict(self, limit: int | None = None) -> dict[str, Any]:
        """As JSON values. limit : longest list to keep; a shortened one is followed by its full
        length under ``n_<name>``, which every list has."""
        result: dict[str, Any] = {}
        _flatten_lists(dataclasses.asdict(self), limit, result)
        result["n_duplicate_rows"] = self.n_duplicates
        return result


def build_index(
    dataset: DatasetSpec,
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    cache: ContentHashCache | None = None,
    progress: Progress | None = None,
) -> tuple[DatasetIndex, IndexReport]:
    """Index a dataset into the Parquet file ``path``, or bring the one that is there up to date.

    threads : readers; default: twice the processors, at most 16
    max_pixels : images with more pixels are reported as too large
    cache : remembered content hashes of files
    progress : called with (images done, images in all)

    Returns the index and what was found. The file is only written when something changed.
    Raises SpecError, InputError (nothing to index, a foreign path, a table that does not fit) or
    StoreError (the file at ``path`` is no index).
    """
    source = open_source(dataset)
    existing = DatasetIndex.load(path) if Path(path).exists() else DatasetIndex.empty()
    index, report = update_index(
        existing,
        source,
        dataset,
        threads=threads,
        max_pixels=max_pixels,
        cache=cache,
        progress=progress,
    )
    if not Path(path).exists() or not index.equals(existing):
        index.save(path)
    return index, report


def update_index(
    existing: DatasetIndex,
    source: Source,
    dataset: DatasetSpec,
    *,
    threads: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    cache: ContentHashCache | None = None,
    progress: Progress | None = None,
) -> tuple[DatasetIndex, IndexReport]:
    """`build_index` without files: ``existing`` (perhaps empty) brought up to date with a source.

    ``existing`` is not changed. See the module text for what happens to each row.
    """
    listing = source.list()
    if not listing.items and not existing.n_rows:
        raise InputError(_nothing(source, dataset, listing.skipped, listing.refused))
    report = IndexReport(
        n_files=len(listing.items),
        skipped=dict(sorted(listing.skipped.items())),
        refused=list(listing.refused),
    )
    containers = _container_hashes(source, listing.items, cache)
    look = _Look(existing, source, containers, cache, max_pixels)
    seen = _look_at_all(look, listing.items, threads, progress or (lambda done, total: None))
    index, row_of = _matched(existing, listing.items, seen, report)
    index = index.with_containers(containers)
    if dataset.columns:
        inline = {row: listing.items[i].factors for i, row in enumerate(row_of)}
        index = with_inline_factors(index, inline, dataset)
    if dataset.factors is not None:
        keys = [""] * index.n_rows
        for i, row in enumerate(row_of):
            keys[row] = listing.items[i].key
        table = read_factor_table(dataset)
        index, report.factors = join(index, keys, table, dataset, source.root)
    report.n_rows, report.n_active = index.n_rows, int(index.active.sum())
    uris, image_ids = index.uris, index.image_ids
    active_rows = [row for row, state in enumerate(index.states) if state == ACTIVE]
    report.duplicates = [
        [uris[row] for row in rows] for rows in duplicates(image_ids, active_rows).values()
    ]
    return index, report


# ---------------------------------------------------------------------------------------------
# Hash and probe


@dataclass(frozen=True)
class _Seen:
    """One image as it is now. image_id : None where the bytes cannot be read at this time."""

    image_id: str | None
    width: int = -1
    height: int = -1
    problem: Unreadable | None = None


class _Look:
    """Hash and probe one image, or take over what the index knows about unchanged bytes."""

    def __init__(
        self,
        existing: DatasetIndex,
        source: Source,
        containers: Mapping[str, str],
        cache: ContentHashCache | None,
        max_pixels: int,
    ) -> None:
        self._source, self._cache, self._max_pixels = source, cache, max_pixels
        sizes = existing.sizes.tolist()
        rows = zip(existing.uris, existing.image_ids, existing.states, sizes, strict=True)
        self._size_of: dict[str, tuple[int, int]] = {}
        self._id_of: dict[str, str] = {}
        for uri, image_id, state, (width, height) in rows:
            if width > 0:
                self._size_of[image_id] = (width, height)
            if state == ACTIVE:
                self._id_of[uri] = image_id
        self._same_containers = {
            name for name, sha in containers.items() if existing.containers.get(name) == sha
        }

    def known(self, items: Sequence[Item]) -> list[_Seen | None]:
        """What the images are now, where nothing need be read to tell."""
        ids = [
            self._id_of.get(item.uri) if item.container in self._same_containers else None
            for item in items
        ]
        if self._cache is not None:
            plain = [i for i, item in enumerate(items) if item.container is None]
            paths = [str(self._source.local_path(items[i].uri)) for i in plain]
            for i, image_id in zip(plain, self._cache.known(paths), strict=True):
                ids[i] = image_id
        return [_Seen(i, *self._size_of[i]) if i in self._size_of else None for i in ids]

    def __call__(self, item: Item) -> _Seen:
        """What the image is now; never raises for a bad image."""
        image_id = None
        try:
            path = self._source.local_path(item.uri)
            image_id = self._hash(item.uri, path)
            if image_id in self._size_of:
                return _Seen(image_id, *self._size_of[image_id])
            with open_item(self._source, item.uri, path) as file:
                return _Seen(image_id, *probe(file, self._max_pixels))
        except Quarantine as e:
            problem = Unreadable(item.uri, e.reason.name, e.text)
            return _Seen(image_id, problem=problem)

    def _hash(self, uri: str, path: Path | None) -> str:
        with file_errors(uri):
            if path is not None:
                return file_sha256(path) if self._cache is None else self._cache.sha256(path)
        return hashlib.sha256(self._source.read(uri)).hexdigest()


def _container_hashes(
    source: Source, items: Sequence[Item], cache: ContentHashCache | None
) -> dict[str, str]:
    """sha256 of the files that hold many images each, so that unchanged ones are not read."""
    names = sorted({item.container for item in items if item.container is not None})
    hash_of = cache.sha256 if cache is not None else file_sha256
    try:
        return {name: hash_of(inside(source.root, name)) for name in names}
    except OSError as e:
        raise InputError(f"{e.filename or source.root!r} cannot be read: {e.strerror}") from e


def _look_at_all(
    look: _Look, items: Sequence[Item], threads: int | None, progress: Progress
) -> list[_Seen]:
    """Results in the order of ``items``, whatever the threads do.

    What is known without reading is looked up here: threads would only wait for one another.
    """
    seen: list[_Seen | None] = []
    done = 0
    progress(done, len(items))
    for start in range(0, len(items), _KNOWN_BATCH):
        found = look.known(items[start : start + _KNOWN_BATCH])
        seen += found
        done += len(found) - found.count(None)
        progress(done, len(items))
    rest = [i for i, found in enumerate(seen) if found is None]
    workers = threads or min(16, 2 * (os.cpu_count() or 1))
    batches = [rest[start : start + _BATCH] for start in range(0, len(rest), _BATCH)]
    pool = ThreadPoolExecutor(workers, thread_name_prefix="latentflow-index")
    try:
        read = pool.map(lambda batch: [look(items[i]) for i in batch], batches)
        for batch, looked in zip(batches, read, strict=True):
            for i, now in zip(batch, looked, strict=True):
                seen[i] = now
            done += len(batch)
            progress(done, len(items))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return cast(list[_Seen], seen)


# ---------------------------------------------------------------------------------------------
# Match


def _matched(
    existing: DatasetIndex, items: Sequence[Item], seen: Sequence[_Seen], report: IndexReport
) -> tuple[DatasetIndex, list[int]]:
    """The index after the update, and the row of every item. Fills in the report's counts."""
    image_ids, uris, states = existing.image_ids, existing.uris, existing.states
    row_at = {uri: row for row, uri in enumerate(uris) if states[row] == ACTIVE}
    row_of = [-1] * len(items)
    claimed: set[int] = set()
    for i, item in enumerate(items):  # same place, same bytes (or not readable at this time)
        row = row_at.get(item.uri)
        if row is not None and seen[i].image_id in (image_ids[row], None):
            row_of[i] = row
            claimed.add(row)
    report.unchanged = len(claimed)

    homeless: dict[str, list[int]] = {}
    for row in sorted(row_at.values(), reverse=True):
        if row not in claimed:
            homeless.setdefault(image_ids[row], []).append(row)
    moves: dict[int, str] = {}
    for i, item in enumerate(items):  # same bytes elsewhere; the lowest free row first
        rows = homeless.get(seen[i].image_id or "")
        if row_of[i] < 0 and rows:
            row_of[i] = rows.pop()
            moves[row_of[i]] = item.uri
    removed = sorted(row for rows in homeless.values() for row in rows)

    new_rows: list[NewRow] = []
    for i, item in enumerate(items):
        if row_of[i] < 0:
            row_of[i] = existing.n_rows + len(new_rows)
            image_id = seen[i].image_id or _unreadable_id(item.uri)
            new_rows.append(NewRow(image_id, item.uri, seen[i].width, seen[i].height))
    added = {row.uri for row in new_rows}
    report.added, report.moved, report.removed = len(new_rows), len(moves), len(removed)
    report.changed = [uris[row] for row in removed if uris[row] in added]
    report.unreadable = [s.problem for s in seen if s.problem is not None]
    return existing.move(moves).remove(removed).append(new_rows), row_of


def _unreadable_id(uri: str) -> str:
    """Stands in for the content hash of a file that cannot be read: the row is kept, and replaced
    as a changed file once the bytes can be read."""
    return hashlib.sha256(b"unreadable\0" + uri.encode()).hexdigest()


def _nothing(
    source: Source, dataset: DatasetSpec, skipped: Mapping[str, int], refused: Sequence[Any]
) -> str:
    others = ", ".join(f"{n} {ending or 'without ending'}" for ending, n in skipped.items())
    text = f"no images in {dataset.path!r} as a {dataset.kind!r} dataset"
    if others:
        text += f" (other files: {others})"
    if refused:
        text += f"; refused {refused[0][0]!r}: {refused[0][1]}"
    return text + ": check 'dataset.path', 'dataset.kind' and 'dataset.pattern'"


def _flatten_lists(value: dict[str, Any], limit: int | None, out: dict[str, Any]) -> None:
    for name, entry in value.items():
        if isinstance(entry, list):
            out[name] = entry if limit is None else entry[:limit]
            out[f"n_{name}"] = len(entry)
        elif isinstance(entry, dict):
            out[name] = {}
            _flatten_lists(entry, limit, out[name])
        else:
            out[name] = entry
