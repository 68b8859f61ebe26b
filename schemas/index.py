"""The dataset index: one Parquet row an image, in an order that is fixed for ever.

Columns: ``row`` int64 (the key: 0, 1, 2, ...), ``image_id`` (sha256 of the file's bytes, hex; may
repeat), ``uri`` (relative to the dataset's root; enters no fingerprint), ``width`` and ``height``
int32 in pixels (-1 where the header could not be read), ``state`` ("active" or "removed"), then
the factors, which live here only:

categorical
    int16 codes, -1 missing; the categories, strings in order of first appearance and only ever
    appended, stand in the Parquet schema's metadata
continuous
    float64, NaN missing

The metadata entry ``latentflow`` is JSON: ``layout_version``, ``factors`` (name -> kind, type,
categories) and ``containers`` (file -> sha256, for datasets that keep many images in one file).
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.atomic import write_bytes
from schemas.errors import DataError, InputError, NewerLayoutError, StoreError
from schemas.fingerprint import canonical_json, digest

LAYOUT_VERSION = 1
ACTIVE, REMOVED = "active", "removed"
CATEGORICAL, CONTINUOUS = "categorical", "continuous"
MISSING_CODE = -1
MAX_CATEGORIES = int(np.iinfo(np.int16).max)
RESERVED = ("row", "image_id", "uri", "width", "height", "state")

_BASE_FIELDS = (
    pa.field("row", pa.int64(), nullable=False),
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
    pa.field("state", pa.string(), nullable=False),
)
_METADATA_KEY = b"latentflow"


@dataclass(frozen=True)
class FactorInfo:
    """What a factor column is.

    kind : "categorical" or "continuous"
    type : the type its values had in the factor table: "string", "integer", "boolean" or "float"
        (so that integer levels can be sorted as numbers)
    categories : the levels of a categorical factor; code i means ``categories[i]``
    """

    kind: str
    type: str
    categories: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For the Parquet metadata."""
        return {"kind": self.kind, "type": self.type, "categories": list(self.categories)}


@dataclass(frozen=True)
class FactorColumn:
    """Values of one factor for every row: codes int16 (n,) or float64 (n,)."""

    info: FactorInfo
    values: NDArray[Any]


class NewRow(NamedTuple):
    """One image to append. width, height : -1 where unknown."""

    image_id: str
    uri: str
    width: int = -1
    height: int = -1


class DatasetIndex:
    """An immutable index; every change gives a new one. See the module text for the columns."""

    def __init__(
        self,
        table: pa.Table,
        factors: Mapping[str, FactorInfo] | None = None,
        containers: Mapping[str, str] | None = None,
    ) -> None:
        """table : the base columns, then one column a factor in the order of ``factors``.

        Raises StoreError when the table is not a valid index.
        """
        self.factors: dict[str, FactorInfo] = dict(factors or {})
        self.containers: dict[str, str] = dict(containers or {})
        self.table = _validated(table, self.factors)

    # -- making and keeping ------------------------------------------------------------------

    @classmethod
    def empty(cls) -> DatasetIndex:
        """An index without rows or factors."""
        return cls(pa.Table.from_batches([], pa.schema(_BASE_FIELDS)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DatasetIndex:
        """Read an index. Raises StoreError (missing, foreign, damaged) or NewerLayoutError."""
        path = Path(path)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read()
        except FileNotFoundError as e:
            raise StoreError(
                f"dataset index {str(path)!r} does not exist: make it with 'latentflow index'"
            ) from e
        except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
            raise StoreError(f"dataset index {str(path)!r} cannot be read: {e}") from e
        raw = (table.schema.metadata or {}).get(_METADATA_KEY)
        if raw is None:
            raise StoreError(
                f"{str(path)!r} is a Parquet file but not a dataset index: "
                "make an index of your images with 'latentflow index'"
            )
        try:
            meta = json.loads(raw)
            version = int(meta["layout_version"])
            if version > LAYOUT_VERSION:
                raise NewerLayoutError(
                    f"dataset index {str(path)!r} has layout version {version}, this release "
                    f"reads up to {LAYOUT_VERSION}: upgrade latentflow"
                )
            factors = {
                name: FactorInfo(f["kind"], f["type"], tuple(f["categories"]))
                for name, f in meta["factors"].items()
            }
            containers = {str(k): str(v) for k, v in meta.get("containers", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise StoreError(f"dataset index {str(path)!r} has damaged metadata: {e!r}") from e
        try:
            return cls(
                table, {n: factors[n] for n in table.column_names if n in factors}, containers
            )
        except StoreError as e:
            raise StoreError(f"dataset index {str(path)!r} is not usable: {e}") from e

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_bytes` by temporary file and rename."""
        write_bytes(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The index as a Parquet file; the same index gives the same bytes."""
        meta = {
            "layout_version": LAYOUT_VERSION,
            "factors": {name: info.to_dict() for name, info in self.factors.items()},
            "containers": self.containers,
        }
        buffer = io.BytesIO()
        table = self.table.replace_schema_metadata({_METADATA_KEY: canonical_json(meta)})
        pq.write_table(
            table, buffer, compression="zstd", row_group_size=1 << 16, write_page_checksum=True
        )
        return buffer.getvalue()

    def equals(self, other: DatasetIndex) -> bool:
        """Same rows, factors and containers; missing values (NaN) are equal to each other."""
        mine, theirs = self.table, other.table
        same = (self.factors, self.containers) == (other.factors, other.containers)
        return (
            same
            and mine.schema.equals(theirs.schema)
            and all(_values(mine, name) == _values(theirs, name) for name in mine.column_names)
        )

    # -- reading -----------------------------------------------------------------------------

    @property
    def n_rows(self) -> int:
        """All rows, removed ones included."""
        return int(self.table.num_rows)

    def __len__(self) -> int:
        return self.n_rows

    @property
    def image_ids(self) -> list[str]:
        """sha256 hex of every row."""
        return _strings(self.table, "image_id")

    @property
    def uris(self) -> list[str]:
        """Location of every row, relative to the dataset's root."""
        return _strings(self.table, "uri")

    @property
    def states(self) -> list[str]:
        """ "active" or "removed" for every row."""
        return _strings(self.table, "state")

    @property
    def active(self) -> NDArray[np.bool_]:
        """bool (n,): rows whose image is still in the dataset."""
        return np.array([state == ACTIVE for state in self.states], dtype=bool)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """int32 (n, 2): width and height in pixels, -1 where the header could not be read."""
        columns = [_numbers(self.table, name) for name in ("width", "height")]
        return np.stack(columns, axis=1).astype(np.int32)

    def identity(self, rows: slice | None = None) -> list[tuple[str, str]]:
        """(image_id, state) of the given rows, the part of a block's fingerprint that is data."""
        part = slice(None) if rows is None else rows
        return list(zip(self.image_ids[part], self.states[part], strict=True))

    @property
    def factor_names(self) -> list[str]:
        """Names of all factors, categorical and continuous, in column order."""
        return list(self.factors)

    def factor(self, name: str) -> tuple[NDArray[np.int16], tuple[str, ...]] | NDArray[np.float64]:
        """Values of a factor: (codes int16 (n,), categories), or float64 (n,) if continuous.

        Raises DataError for an unknown name, naming the ones there are.
        """
        if self._info(name).kind == CATEGORICAL:
            return self.categorical(name)
        return self.continuous(name)

    def categorical(self, name: str) -> tuple[NDArray[np.int16], tuple[str, ...]]:
        """codes int16 (n,), -1 missing, and the categories. Raises DataError if continuous."""
        info = self._info(name)
        if info.kind != CATEGORICAL:
            raise DataError(
                f"factor {name!r} is continuous, not categorical: choose one of "
                f"{[n for n, i in self.factors.items() if i.kind == CATEGORICAL]!r}"
            )
        return _numbers(self.table, name).astype(np.int16), info.categories

    def continuous(self, name: str) -> NDArray[np.float64]:
        """float64 (n,), NaN missing. Raises DataError for a categorical factor."""
        if self._info(name).kind != CONTINUOUS:
            raise DataError(
                f"factor {name!r} is categorical, not continuous: if its values are quantities, "
                "list it under 'dataset.continuous'"
            )
        values: NDArray[np.float64] = _numbers(self.table, name).astype(np.float64)
        return values

    def values(self, name: str) -> NDArray[Any]:
        """Values of a factor as they are stored: codes int16 (n,) or float64 (n,)."""
        self._info(name)
        return _numbers(self.table, name)

    def factor_fp(self, name: str) -> str:
        """sha256 over a factor's values and categories: a parameter of analyses that read it."""
        info, values = self._info(name), self.values(name)
        little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
        return digest([info.kind, list(info.categories), little.tobytes()])

    def decoded(self) -> pa.Table:
        """The table with category names in place of codes (null where missing), for people."""
        table = self.table
        for name, info in self.factors.items():
            if info.kind == CATEGORICAL:
                position = table.column_names.index(name)
                names = np.array([*info.categories, None], dtype=object)
                column = pa.array(names[_numbers(self.table, name)], pa.string())
                table = table.set_column(position, name, column)
        return table

    def _info(self, name: str) -> FactorInfo:
        if name not in self.factors:
            raise DataError(f"unknown factor {name!r}: the index has {self.factor_names!r}")
        return self.factors[name]

    # -- changing ----------------------------------------------------------------------------

    def append(self, rows: Sequence[NewRow]) -> DatasetIndex:
        """New active rows at the end, their factors missing."""
        if not rows:
            return self
        n = self.n_rows
        columns: dict[str, pa.Array] = {
            "row": pa.array(range(n, n + len(rows)), pa.int64()),
            "image_id": pa.array([r.image_id for r in rows], pa.string()),
            "uri": pa.array([r.uri for r in rows], pa.string()),
            "width": pa.array([r.width for r in rows], pa.int32()),
            "height": pa.array([r.height for r in rows], pa.int32()),
            "state": pa.array([ACTIVE] * len(rows), pa.string()),
        }
        for name, info in self.factors.items():
            columns[name] = pa.array(_missing(info.kind, len(rows)))
        added = pa.table(columns, schema=self.table.schema)
        return DatasetIndex(
            pa.concat_tables([self.table, added]).combine_chunks(), self.factors, self.containers
        )

    def remove(self, rows: Sequence[int]) -> DatasetIndex:
        """Mark rows as removed. They keep their number, image_id and factors."""
        if not rows:
            return self
        states = self.states
        for row in rows:
            states[row] = REMOVED
        return self._with_strings("state", states)

    def move(self, uris: Mapping[int, str]) -> DatasetIndex:
        """New uris for the given rows; everything else stays."""
        if not uris:
            return self
        values = self.uris
        for row, uri in uris.items():
            values[row] = uri
        return self._with_strings("uri", values)

    def with_containers(self, containers: Mapping[str, str]) -> DatasetIndex:
        """The same index with other recorded container hashes."""
        return DatasetIndex(self.table, self.factors, containers)

    def with_factors(self, columns: Mapping[str, FactorColumn]) -> DatasetIndex:
        """Set or add whole factor columns.

        Raises DataError when a column has the wrong length, a reserved name, another kind than
        the stored one, or categories that do not begin with the stored ones.
        """
        table, factors = self.table, dict(self.factors)
        for name, column in columns.items():
            _check_column(name, column, factors.get(name), self.n_rows)
            kind = pa.int16() if column.info.kind == CATEGORICAL else pa.float64()
            array = _array(column.values, kind)
            field = pa.field(name, kind, nullable=False)
            if name in factors:
                table = table.set_column(table.column_names.index(name), field, array)
            else:
                table = table.append_column(field, array)
            factors[name] = column.info
        return DatasetIndex(table, factors, self.containers)

    def _with_strings(self, name: str, values: list[str]) -> DatasetIndex:
        position = self.table.column_names.index(name)
        field = self.table.schema.field(name)
        table = self.table.set_column(position, field, pa.array(values, pa.string()))
        return DatasetIndex(table, self.factors, self.containers)


def encode_categories(
    values: Sequence[str | None], known: FactorInfo | None, value_type: str
) -> FactorColumn:
    """Levels -> int16 codes, new categories appended in order of first appearance.

    values : one level a row, None where missing
    known : what the index already knows about this factor
    Raises InputError above 32,767 categories: that many levels are no factor.
    """
    categories = list(known.categories) if known else []
    codes_of = {category: code for code, category in enumerate(categories)}
    new = [value for value in dict.fromkeys(values) if value not in codes_of and value is not None]
    codes_of |= {category: len(categories) + i for i, category in enumerate(new)}
    categories += new
    if len(categories) > MAX_CATEGORIES:
        raise InputError(
            f"{len(categories)} categories are more than the {MAX_CATEGORIES} a factor may have: "
            "list the column under 'dataset.continuous' if it is a quantity, else under "
            "'dataset.ignore'"
        )
    merged = value_type if known is None or known.type == value_type else "string"
    info = FactorInfo(CATEGORICAL, merged, tuple(categories))
    found: dict[str | None, int] = {None: MISSING_CODE}
    found.update(codes_of)
    codes = np.fromiter(map(found.__getitem__, values), np.int16, len(values))
    return FactorColumn(info, codes)


def continuous_column(values: Sequence[float]) -> FactorColumn:
    """float64 values, NaN where missing, as a factor column."""
    return FactorColumn(FactorInfo(CONTINUOUS, "float"), np.asarray(values, dtype=np.float64))


def duplicates(image_ids: Sequence[str], rows: Sequence[int]) -> dict[str, list[int]]:
    """image_id -> rows, for every image_id that stands in more than one of the given rows."""
    groups: dict[str, list[int]] = {}
    if len({image_ids[row] for row in rows}) == len(rows):
        return groups
    for row in rows:
        groups.setdefault(image_ids[row], []).append(row)
    return {image_id: found for image_id, found in groups.items() if len(found) > 1}


def _missing(kind: str, n: int) -> NDArray[Any]:
    if kind == CATEGORICAL:
        return np.full(n, MISSING_CODE, dtype=np.int16)
    return np.full(n, np.nan)


# pyarrow's own conversions, pa.array and to_numpy, import pandas, and its functions on values
# pyarrow.compute: most of a second that a run in which nothing changed can do without


def _numbers(table: pa.Table, name: str) -> NDArray[Any]:
    """A column of numbers, none missing, as NumPy sees it."""
    column = table.column(name)
    if not len(column):
        return np.empty(0, str(column.type))
    values: NDArray[Any] = np.from_dlpack(column.combine_chunks())
    return values


def _array(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Numbers, none missing, as Arrow sees them."""
    exact = np.ascontiguousarray(values, str(kind))
    return pa.Array.from_buffers(kind, len(exact), [None, pa.py_buffer(exact)])


def _strings(table: pa.Table, name: str) -> list[str]:
    values: list[str] = table.column(name).to_pylist()
    return values


def _values(table: pa.Table, name: str) -> list[str] | bytes:
    """A column, to compare: numbers as their bytes, for NaN is not equal to itself."""
    texts = pa.types.is_string(table.schema.field(name).type)
    return _strings(table, name) if texts else _numbers(table, name).tobytes()


def _check_column(name: str, column: FactorColumn, known: FactorInfo | None, n_rows: int) -> None:
    if name in RESERVED:
        raise DataError(
            f"factor {name!r} has the name of an index column: rename the column in the factor "
            "table, or list it under 'dataset.ignore'"
        )
    if column.values.shape != (n_rows,):
        raise DataError(
            f"factor {name!r} has {column.values.shape} values for an index of {n_rows} rows"
        )
    if known is None:
        return
    if known.kind != column.info.kind:
        raise DataError(
            f"factor {name!r} is {known.kind} in the index and {column.info.kind} now: "
            "give it the same kind, or index again from scratch"
        )
    if column.info.categories[: len(known.categories)] != known.categories:
        raise DataError(
            f"categories of factor {name!r} may only be appended to: {known.categories!r} "
            f"would become {column.info.categories!r}"
        )


def _validated(table: pa.Table, factors: Mapping[str, FactorInfo]) -> pa.Table:
    expected = [field.name for field in _BASE_FIELDS] + list(factors)
    if sorted(table.column_names) != sorted(expected):
        raise StoreError(f"columns are {table.column_names!r}, expected {expected!r}")
    fields = list(_BASE_FIELDS)
    for name, info in factors.items():
        if info.kind not in (CATEGORICAL, CONTINUOUS):
            raise StoreError(f"factor {name!r} has unknown kind {info.kind!r}")
        kind = pa.int16() if info.kind == CATEGORICAL else pa.float64()
        fields.append(pa.field(name, kind, nullable=False))
    table, schema = table.select(expected).replace_schema_metadata(None), pa.schema(fields)
    try:
        table = table if table.schema.equals(schema) else table.cast(schema)
    except (pa.ArrowException, ValueError) as e:
        raise StoreError(f"a column has the wrong type: {e}") from e
    if not np.array_equal(_numbers(table, "row"), np.arange(table.num_rows)):
        raise StoreError("column 'row' does not count 0, 1, 2, ...")
    states = set(_strings(table, "state"))
    if not states <= {ACTIVE, REMOVED}:
        raise StoreError(f"unknown states {sorted(states - {ACTIVE, REMOVED})!r}")
    for name, info in factors.items():
        codes = _numbers(table, name)
        if info.kind == CATEGORICAL and len(codes):
            if codes.min() < MISSING_CODE or codes.max() >= len(info.categories):
                raise StoreError(
                    f"codes of factor {name!r} reach {codes.max()}, but it has "
                    f"{len(info.categories)} categories"
                )
    return table
