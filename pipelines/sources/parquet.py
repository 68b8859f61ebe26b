"""Images in Parquet tables: a column of encoded bytes, or of paths beside the table."""

from __future__ import annotations

import difflib
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from generators.protocols import ModelFacts
from pipelines.sources.base import (
    Item,
    Listing,
    container_root,
    file_errors,
    split_uri,
    unreadable,
    utf8,
    walk_files,
)
from pipelines.sources.paths import below_root, inside, kind_of, selector, suffix
from schemas.errors import InputError
from schemas.sections.dataset import DatasetSpec
from schemas.store.reasons import Reason
from transforms.images.quarantine import Quarantine

PATH_COLUMNS = ("path", "file", "file_name", "filename", "image_path")
_ENDINGS = frozenset({".parquet", ".pq"})
_CACHED_GROUPS = 2
_HOLDS = "it must hold bytes, a struct of bytes and path, or paths"


def open_dataset(dataset: DatasetSpec, facts: ModelFacts | None) -> ParquetSource:
    """See `pipelines.sources.open`."""
    chosen = (*container_root(dataset), dataset.patterns, tuple(dataset.exclude))
    return ParquetSource(*chosen, dataset.image_column, tuple(dataset.columns))


@dataclass(frozen=True)
class ParquetSource:
    """Rows of the Parquet files below ``root`` (or of ``only`` one of them).

    image_column : binary, a struct with 'bytes' and 'path' (as Hugging Face writes), or strings
        that are paths relative to the table's folder, or absolute ones below ``root``. Paths
        never leave ``root``.
    columns : other columns to deliver as factors
    An image's key is its path where the table has one (in the struct, or in a column of
    ``PATH_COLUMNS``), else its uri.
    """

    root: str
    only: str | None = None
    pattern: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    image_column: str = "image"
    columns: tuple[str, ...] = ()
    _groups: _RowGroups = field(
        default_factory=lambda: _RowGroups(), init=False, repr=False, compare=False
    )

    def list(self) -> Listing:
        """All rows of all files, files in natural order; reads no image bytes.

        Raises InputError when the one file of the dataset cannot be read, or one has not the
        columns; of several, those that cannot be read are noted as damaged.
        """
        listing = Listing(columns=self.columns)
        names = [self.only] if self.only else walk_files(self.root, listing)
        taken = selector(self.pattern, self.exclude, _ENDINGS)
        for name in names:
            if not self.only and not taken(name):
                listing.skipped[kind_of(name)] += 1
                continue
            if suffix(name) not in _ENDINGS:
                raise InputError(
                    f"{name!r} does not end in '.parquet': rename it or narrow 'dataset.pattern'"
                )
            self._list_file(name, listing)
        return listing

    def _list_file(self, name: str, listing: Listing) -> None:
        path = inside(self.root, name)
        try:
            with pq.ParquetFile(path) as file:
                schema, n_rows = file.schema_arrow, file.metadata.num_rows
                _check_columns(schema, self.image_column, self.columns, name)
                wanted, holder = [c for c in PATH_COLUMNS if c in schema.names][:1], None
                kind = schema.field(self.image_column).type
                if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
                    wanted, holder = [f"{self.image_column}.path"], self.image_column
                elif _is_string(kind):
                    wanted = [self.image_column]
                table = file.read(columns=list(dict.fromkeys([*wanted, *self.columns])))
                container = name if _holds_all_bytes(file, self.image_column, kind) else None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
            why = unreadable(path, e)
            if self.only:
                raise InputError(f"Parquet file {name!r} {why}") from e
            listing.damaged.append((name, why))
            return
        keys: list[str | None] = [None] * n_rows
        if wanted:
            values = table.column(holder or wanted[0]).to_pylist()
            paths = (v.get("path") if isinstance(v, dict) else v for v in values)
            keys = [below_root(self.root, p) if isinstance(p, str) else None for p in paths]
        factors = {c: table.column(c).to_pylist() for c in self.columns}
        for row in range(n_rows):
            uri = utf8(f"{name}#{row}")
            values_of_row = {c: factors[c][row] for c in self.columns}
            listing.items.append(Item(uri, keys[row] or uri, container, values_of_row))

    def read(self, uri: str) -> bytes:
        """The bytes in the image column, or of the file whose path stands there."""
        found = self._locate(uri)
        if isinstance(found, bytes):
            return found
        with file_errors(uri), open(found, "rb") as file:
            return file.read()

    def local_path(self, uri: str) -> Path | None:
        """The file whose path stands in the image column, None where the bytes stand there."""
        found = self._locate(uri)
        return None if isinstance(found, bytes) else found

    def _locate(self, uri: str) -> bytes | Path:
        name, row = self._split(uri)
        with file_errors(uri):
            cell = self._groups.cell(inside(self.root, name), self.image_column, row)
        if isinstance(cell, dict):
            cell = cell.get("bytes") if cell.get("bytes") is not None else cell.get("path")
        if cell is None:
            raise Quarantine(Reason.EMPTY, f"{uri!r} holds no image")
        if isinstance(cell, bytes):
            return cell
        if not isinstance(cell, str):
            raise InputError(
                f"column {self.image_column!r} of {name!r} holds {type(cell).__name__!r}: {_HOLDS}"
            )
        if not cell:
            raise Quarantine(Reason.EMPTY, f"{uri!r} holds no image: its path is empty")
        below = below_root(self.root, cell)
        inside(self.root, below)  # before it is put behind the table's own folder
        folder = name.rsplit("/", 1)[0] + "/" if "/" in name and below == cell else ""
        return inside(self.root, folder + below)

    def _split(self, uri: str) -> tuple[str, int]:
        marker = ".parquet" if ".parquet#" in uri.lower() else ".pq"
        name, row = split_uri(uri, marker)
        if not row.isascii() or not row.isdecimal():
            raise InputError(f"uri {uri!r} does not end in a row number: index again")
        return name, int(row)


class _RowGroups:
    """The row groups read last, so that neighbouring rows cost one read. Not pickled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()
        self._starts: dict[str, list[int]] = {}

    def __reduce__(self) -> tuple[type[_RowGroups], tuple[()]]:
        return _RowGroups, ()

    def cell(self, path: Path, column: str, row: int) -> Any:
        """Value of ``column`` in ``row``. Raises FileNotFoundError past the table's end."""
        with self._lock:
            try:
                return self._cell(path, column, row)
            except pa.ArrowException as e:
                raise OSError(f"Parquet file {str(path)!r} cannot be read: {e}") from e

    def _cell(self, path: Path, column: str, row: int) -> Any:
        stat = path.stat()
        version = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}"
        starts = self._starts.get(version)
        if starts is None:
            with pq.ParquetFile(path) as file:
                meta = file.metadata
                starts = [0]
                for group in range(meta.num_row_groups):
                    starts.append(starts[-1] + meta.row_group(group).num_rows)
            self._starts[version] = starts
        if row >= starts[-1]:
            raise FileNotFoundError(f"{path} has {starts[-1]} rows")
        group = bisect_right(starts, row) - 1
        values = self._kept.get((version, group))
        if values is None:
            with pq.ParquetFile(path) as file:
                values = file.read_row_group(group, columns=[column]).column(column)
            self._kept[version, group] = values
            while len(self._kept) > _CACHED_GROUPS:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end((version, group))
        return values[row - starts[group]].as_py()


def _check_columns(schema: pa.Schema, image: str, columns: Sequence[str], name: str) -> None:
    for column in [image, *columns]:
        if column not in schema.names:
            close = difflib.get_close_matches(column, schema.names, n=1)
            cure = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(
                f"Parquet file {name!r} has no column {column!r}: {cure}it has {schema.names!r}; "
                "set 'dataset.image_column' and 'dataset.columns', or leave the file out with "
                "'dataset.exclude'"
            )
    read = {image, *columns, *PATH_COLUMNS}
    doubled = sorted({c for c in schema.names if c in read and schema.names.count(c) > 1})
    if doubled:
        raise InputError(
            f"Parquet file {name!r} has columns {doubled!r} twice: write it again with one of each"
        )
    kind = schema.field(image).type
    if not _may_hold_images(kind):
        others = [f.name for f in schema if _may_hold_images(f.type) and f.name != image]
        raise InputError(
            f"column {image!r} of {name!r} holds {str(kind)!r}: {_HOLDS}; name another column, of "
            f"{others!r}, under 'dataset.image_column'"
        )
    for column in columns:
        kind = schema.field(column).type
        if pa.types.is_nested(kind):
            raise InputError(
                f"'dataset.columns' names {column!r}, which holds {str(kind)!r} in {name!r}: a "
                "factor has one value an image; remove it, or write its parts as columns of their "
                "own"
            )


def _may_hold_images(kind: pa.DataType) -> bool:
    t = pa.types
    if t.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0 or kind.get_field_index("path") >= 0)
    return _is_string(kind) or _is_bytes(kind) or bool(t.is_null(kind))


def _holds_all_bytes(file: pq.ParquetFile, column: str, kind: pa.DataType) -> bool:
    """False where some image may be a path: the table's own hash then does not cover it."""
    if not pa.types.is_struct(kind):
        return not _is_string(kind)
    meta = file.metadata
    for group in map(meta.row_group, range(meta.num_row_groups)):
        chunks = [group.column(i) for i in range(group.num_columns)]
        of_bytes = [c for c in chunks if c.path_in_schema == f"{column}.bytes"]
        for chunk in of_bytes:
            statistics = chunk.statistics
            if statistics is None or not statistics.has_null_count or statistics.null_count:
                return False
        if not of_bytes:
            return False
    return True


def _is_string(kind: pa.DataType) -> bool:
    t = pa.types
    if t.is_dictionary(kind):
        return _is_string(kind.value_type)
    return bool(t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    t = pa.types
    if t.is_dictionary(kind):
        return _is_bytes(kind.value_type)
    return bool(
        t.is_binary(kind)
        or t.is_large_binary(kind)
        or t.is_binary_view(kind)
        or t.is_fixed_size_binary(kind)
    )
