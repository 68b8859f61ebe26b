"""Build and update a dataset index: list, hash and probe in threads, match to the rows there are.

Every file becomes a row, also one that cannot be decoded: inversion quarantines it with a reason.
Rows are only ever appended. After the first build, whose order is the natural order of the
relative paths, an update

- keeps a file that is still there with the same bytes,
- gives a moved file's row its new uri (same bytes, other path),
- removes the row of a file that is gone,
- treats a changed file as a removed row and a new one, and
- keeps the rows of a shard or folder that cannot be read now.

A removed row never comes back, so a dataset in which nothing is left is refused: it may lie on a
disk that is not mounted.

The result does not depend on the number of threads or their timing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, cast

from pipelines.engine.memory import uncollected
from pipelines.folder.checksums import intact, noted
from pipelines.sources.base import Item, Listing, Source, file_errors, open_item
from pipelines.sources.factor_tables import read_factor_table
from pipelines.sources.factors import check_columns, join, with_inline_factors, without_ignored
from pipelines.sources.open import open_source
from pipelines.sources.paths import inside
from pipelines.stages.index_report import IndexReport, Unreadable
from schemas.errors import InputError
from schemas.fingerprint import ContentHashCache, file_sha256
from schemas.index import ACTIVE, REMOVED, DatasetIndex, NewRow, duplicates
from schemas.sections.dataset import KIND_OF_ENDING, DatasetSpec
from schemas.store.reasons import Reason
from transforms.images.preprocess import DEFAULT_MAX_PIXELS, Quarantine, probe

Progress = Callable[[int, int], None]
_BATCH = 32  # items a thread takes at once
_KNOWN_BATCH = 500  # items that the cache is asked for at once


def build_index(
    dataset: DatasetSpec,
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    cache: ContentHashCache | None = None,
    progress: Progress | None = None,
    source: Source | None = None,
) -> tuple[DatasetIndex, IndexReport]:
    """Index a dataset into the Parquet file ``path``, or bring the one that is there up to date.

    threads : readers; default: twice the processors, at most 16
    max_pixels : images with more pixels are reported as too large
    cache : remembered content hashes of files
    progress : called with (images done, images in all)
    source : of the dataset, by default as `open_source` opens it

    Returns the index and what was found. The file is only written when something changed.
    Raises SpecError, InputError (nothing to index, a foreign path, a table that does not fit) or
    StoreError (the file at ``path`` is no index).
    """
    source = source or open_source(dataset)
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
    path = Path(path)
    if not path.exists() or not index.equals(existing) or not intact(path.parent, path.name):
        with noted(path.parent, path.name):
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
    with uncollected():
        listing = source.list()
    n_before = int(existing.active.sum())
    if not listing.items and (n_before or not existing.n_rows):
        raise InputError(_nothing(dataset, listing, n_before))
    report = IndexReport(
        n_files=len(listing.items),
        skipped=dict(sorted(listing.skipped.items())),
        refused=list(listing.refused),
        damaged=list(listing.damaged),
        notes=list(listing.notes),
        drawn=dataset.sampled,
    )
    containers = _container_hashes(source, listing.items, cache)
    look = _Look(existing, source, containers, cache, max_pixels)
    seen = _look_at_all(look, listing.items, threads, progress or (lambda done, total: None))
    refused = [now.bad for now in seen if now.bad is not None]
    if refused and len(refused) == len(seen):  # not a bad row, the wrong root or column
        raise refused[0]
    with uncollected():
        return _updated(existing, source, dataset, listing, seen, containers, report)


def _updated(
    existing: DatasetIndex,
    source: Source,
    dataset: DatasetSpec,
    listing: Listing,
    seen: Sequence[_Seen],
    containers: Mapping[str, str],
    report: IndexReport,
) -> tuple[DatasetIndex, IndexReport]:
    """The index with what was seen of every item, its factors, and the report filled in."""
    index, row_of = _matched(existing, listing, seen, report)
    index = index.with_containers(containers)
    table = None if dataset.factors is None else read_factor_table(dataset)
    report.notes += check_columns(dataset, listing.columns, table)
    given = [*listing.columns, *(table.columns if table else ())]
    index = without_ignored(index, dataset, given, report.notes)
    if listing.columns:
        inline = {row: listing.items[i].factors for i, row in enumerate(row_of)}
        index = with_inline_factors(index, listing.columns, inline, dataset, report.notes)
    if table is not None:
        keys = [""] * index.n_rows
        for i, row in enumerate(row_of):
            keys[row] = listing.items[i].key
        index, report.factors = join(index, keys, table, dataset, source.root)
        report.notes += report.factors.notes
    report.n_rows, report.n_active = index.n_rows, int(index.active.sum())
    uris, image_ids = index.uris, index.image_ids
    active_rows = [row for row, state in enumerate(index.states) if state == ACTIVE]
    report.duplicates = [
        [uris[row] for row in rows] for rows in duplicates(image_ids, active_rows).values()
    ]
    return index, report


# ---------------------------------------------------------------------------------------------
# Hash and probe


class _Seen(NamedTuple):
    """One image as it is now.

    image_id : None where the bytes cannot be read at this time
    bad : why its row may not be read at all (a path that leads out of the root)
    """

    image_id: str | None
    width: int = -1
    height: int = -1
    problem: Unreadable | None = None
    bad: InputError | None = None


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
        if all(item.image_id is not None for item in items):
            return [_Seen(item.image_id) for item in items]
        ids = [
            self._id_of.get(item.uri) if item.container in self._same_containers else None
            for item in items
        ]
        if self._cache is not None:
            plain = [i for i, item in enumerate(items) if item.container is None]
            paths = {i: path for i in plain if (path := self._path(items[i].uri)) is not None}
            known = self._cache.known(list(paths.values()))
            for i, image_id in zip(paths, known, strict=True):
                ids[i] = image_id
        return [_Seen(i, *self._size_of[i]) if i in self._size_of else None for i in ids]

    def _path(self, uri: str) -> Path | None:
        """The image's own file; None also where a table names none that may be read."""
        try:
            return self._source.local_path(uri)
        except InputError:
            return None

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
        except InputError as e:  # what one row of a table names may not be read
            return _Seen(None, problem=Unreadable(item.uri, Reason.UNSUPPORTED.name, str(e)), bad=e)

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
        with uncollected():
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
    existing: DatasetIndex, listing: Listing, seen: Sequence[_Seen], report: IndexReport
) -> tuple[DatasetIndex, list[int]]:
    """The index after the update, and the row of every item. Fills in the report's counts."""
    items = listing.items
    uris = existing.uris
    row_of, homeless = _in_place(existing, items, seen)
    report.unchanged = len(items) - row_of.count(-1)
    moves: dict[int, str] = {}
    for i, item in enumerate(items if homeless else ()):  # same bytes elsewhere
        rows = homeless.get(seen[i].image_id or "")
        if row_of[i] < 0 and rows:
            row_of[i] = rows.pop()
            moves[row_of[i]] = item.uri
    unknown = tuple(path + end for path, _ in listing.damaged for end in "#/")
    gone = sorted(row for rows in homeless.values() for row in rows)
    removed = [row for row in gone if not uris[row].startswith(unknown)]
    if kept := len(gone) - len(removed):
        report.notes.append(f"{kept} rows of what cannot be read now are kept as they are")

    new_rows: list[NewRow] = []
    for i, row in enumerate(row_of):
        if row < 0:
            row_of[i] = existing.n_rows + len(new_rows)
            uri, now = items[i].uri, seen[i]
            new_rows.append(NewRow(now.image_id or _unreadable_id(uri), uri, now.width, now.height))
    added = {row.uri for row in new_rows}
    report.added, report.moved, report.removed = len(new_rows), len(moves), len(removed)
    report.changed = [uris[row] for row in removed if uris[row] in added]
    report.unreadable = [s.problem for s in seen if s.problem is not None]
    return existing.move(moves).remove(removed).append(new_rows), row_of


def _in_place(
    existing: DatasetIndex, items: Sequence[Item], seen: Sequence[_Seen]
) -> tuple[list[int], dict[str, list[int]]]:
    """The row of every item that is where it was with the same bytes (or cannot be read at this
    time), -1 of others; and the rows of no item by their image_id, the lowest last."""
    image_ids, uris, states = existing.image_ids, existing.uris, existing.states
    n, row_of = len(uris), [-1] * len(items)
    if REMOVED not in states and uris == [item.uri for item in items[:n]]:
        if image_ids == [now.image_id for now in seen[:n]]:  # rows at most were added behind
            row_of[:n] = range(n)
            return row_of, {}
    row_at = {uri: row for row, uri in enumerate(uris) if states[row] == ACTIVE}
    claimed: set[int] = set()
    for i, item in enumerate(items):
        row = row_at.get(item.uri)
        if row is not None and seen[i].image_id in (image_ids[row], None):
            row_of[i] = row
            claimed.add(row)
    homeless: dict[str, list[int]] = {}
    for row in sorted(row_at.values(), reverse=True):
        if row not in claimed:
            homeless.setdefault(image_ids[row], []).append(row)
    return row_of, homeless


def _unreadable_id(uri: str) -> str:
    """Stands in for the content hash of a file that cannot be read: the row is kept, and replaced
    as a changed file once the bytes can be read."""
    return hashlib.sha256(b"unreadable\0" + uri.encode()).hexdigest()


def _nothing(dataset: DatasetSpec, listing: Listing, n_before: int) -> str:
    others = ", ".join(f"{n} {ending or 'without ending'}" for ending, n in listing.skipped.items())
    text = f"no images in {dataset.path!r} as a {dataset.kind!r} dataset"
    if others:
        text += f" (other files: {others})"
    for path, why in [*listing.damaged, *listing.refused][:1]:
        text += f"; {path!r}: {why}"
    if n_before:
        return (
            f"{text}, where the index has {n_before}: is its disk mounted, or has it moved? "
            "Correct 'dataset.path' or 'dataset.pattern', or remove the run's index.parquet to "
            "start over"
        )
    kinds: dict[str, list[str]] = {}
    for ending in sorted(listing.skipped.keys() & KIND_OF_ENDING.keys()):
        kinds.setdefault(KIND_OF_ENDING[ending], []).append(ending)
    kinds.pop(dataset.kind, None)
    if kinds:
        cures = (f"'kind: {kind}' for its {' and '.join(held)}" for kind, held in kinds.items())
        text += f": set under 'dataset' {', or '.join(cures)} files"
        return text + ", or check 'dataset.path' and 'dataset.pattern'"
    return text + ": check 'dataset.path', 'dataset.kind' and 'dataset.pattern'"
