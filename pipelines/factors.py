"""Factor tables: what is known about each image, joined to the index and typed.

Types are decided per column over the whole table. Text, booleans and integers are levels
(categorical); numbers with decimals are quantities (continuous); the specification can name
exceptions both ways. An integer with leading zeros ("0012") is text, so that it stays itself.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from schemas.errors import InputError, SpecError
from schemas.index import (
    CATEGORICAL,
    CONTINUOUS,
    RESERVED,
    DatasetIndex,
    FactorColumn,
    FactorInfo,
    continuous_column,
    encode_categories,
)
from schemas.spec import DatasetSpec

KEY_COLUMNS = ("path", "file", "file_name", "filename", "uri")
IMAGE_ID = "image_id"

_MISSING_TEXT = frozenset({"", "NA", "N/A", "n/a", "#N/A", "nan", "NaN", "NAN", "null", "NULL"})
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf")
_BOOLEANS = {"true": "true", "True": "true", "TRUE": "true"} | {
    "false": "false",
    "False": "false",
    "FALSE": "false",
}

Value = str | int | float | bool | None


@dataclass
class FactorTable:
    """A factor table in memory.

    key : name of the column that names the image
    keys : one key a row, None where missing
    columns : name -> values, one a row
    skipped : columns of types that cannot be factors (lists, bytes, ...), name -> type
    """

    key: str
    keys: list[str | None]
    columns: dict[str, list[Value]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass
class JoinReport:
    """How a factor table met the index.

    unmatched_rows : uris of active index rows that the table does not name
    unmatched_table : keys in the table that name no active row (a missing key as "row <number>")
    missing : factor -> number of active rows without a value
    """

    table: str
    key: str
    matched: int
    unmatched_rows: list[str]
    unmatched_table: list[str]
    skipped_columns: dict[str, str]
    missing: dict[str, int]


def read_factor_table(dataset: DatasetSpec) -> FactorTable:
    """Read ``dataset.factors`` (.csv, .tsv, .txt tab-separated, .parquet).

    Raises InputError for an unreadable table and SpecError for a key or column that the table
    does not have.
    """
    path = Path(dataset.factors or "")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pq.read_table(path, partitioning=None)
        else:
            table = _read_text(path)
    except FileNotFoundError as e:
        raise SpecError(
            f"'dataset.factors' is {str(path)!r}, which does not exist: paths are relative to "
            "the specification's file"
        ) from e
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise InputError(f"factor table {str(path)!r} cannot be read: {e}") from e
    names = list(table.column_names)
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(f"factor table {str(path)!r} has columns {doubled!r} twice: rename one")
    key = _key_column(dataset, names, path)
    for option in ("continuous", "categorical", "ignore"):
        unknown = [n for n in getattr(dataset, option) if n not in [*names, *dataset.columns]]
        if unknown:
            raise SpecError(
                f"'dataset.{option}' names {unknown!r}, but the factor table {str(path)!r} has "
                f"{names!r}: correct the name"
            )
    result = FactorTable(key, [_text_key(v) for v in table.column(key).to_pylist()])
    identifying = {key, IMAGE_ID, *KEY_COLUMNS, *dataset.ignore}
    for name in names:
        if name in identifying:
            continue
        kind = table.schema.field(name).type
        if not _is_scalar(kind):
            result.skipped[name] = str(kind)
            continue
        values = table.column(name).to_pylist()
        scalar_of = {value: _scalar(value) for value in set(values)}  # of one type, so no 1 == True
        result.columns[name] = [scalar_of[value] for value in values]
    _refuse_reserved(result.columns)
    return result


def _read_text(path: Path) -> pa.Table:
    """Every column as text; the types are decided here, not by the CSV reader."""
    tabs = path.suffix.lower() in (".tsv", ".tab", ".txt")
    parse = pacsv.ParseOptions(delimiter="\t" if tabs else ",", newlines_in_values=True)
    with open(path, "rb") as file:
        if not file.read(1):
            raise InputError(f"factor table {str(path)!r} is empty: it needs a header line")
    with pacsv.open_csv(path, parse_options=parse) as reader:
        names = reader.schema.names
    convert = pacsv.ConvertOptions(
        column_types={name: pa.string() for name in names}, strings_can_be_null=False
    )
    return pacsv.read_csv(path, parse_options=parse, convert_options=convert)


def _key_column(dataset: DatasetSpec, names: Sequence[str], path: Path) -> str:
    if dataset.key is not None:
        if dataset.key not in names:
            raise SpecError(
                f"'dataset.key' is {dataset.key!r}, but the factor table {str(path)!r} has the "
                f"columns {list(names)!r}: name one of them"
            )
        return dataset.key
    for candidate in (IMAGE_ID, *KEY_COLUMNS):
        if candidate in names:
            return candidate
    raise SpecError(
        f"the factor table {str(path)!r} has no column {IMAGE_ID!r} or any of {KEY_COLUMNS!r} "
        f"that names the image, only {list(names)!r}: name the right one under 'dataset.key'"
    )


def _refuse_reserved(names: Mapping[str, Any]) -> None:
    for name in names:
        if name in RESERVED:
            raise SpecError(
                f"factor column {name!r} has the name of an index column: rename it in the "
                "table, or list it under 'dataset.ignore'"
            )
        if not name.strip():
            raise InputError(
                "a factor column has no name (a saved data frame's row numbers?): name it, or "
                f"list {name!r} under 'dataset.ignore'"
            )


def join(
    index: DatasetIndex, keys: Sequence[str], table: FactorTable, dataset: DatasetSpec, root: str
) -> tuple[DatasetIndex, JoinReport]:
    """Put a table's columns into the index.

    keys : for every index row the path by which a table may name it ("" for removed rows); the
        row's uri comes first, and a path that several images share names none of them
    root : absolute root of the dataset, cut off the front of absolute paths in the table

    Rows that the table does not name keep the values they have (a moved file keeps its factors);
    categories are only ever appended. When the table names an image twice with other values, or
    names none of the images at all, InputError.
    """
    by_key = _rows_by_key(table, root)
    uris, image_ids, active = index.uris, index.image_ids, index.active
    shared = Counter(key for key, a in zip(keys, active, strict=True) if a)
    source_of: list[int | None] = [None] * index.n_rows
    used: set[str] = set()
    for row in range(index.n_rows):
        if not active[row]:
            continue
        if table.key == IMAGE_ID:
            names = [image_ids[row]]
        else:
            names = [uris[row], keys[row]] if shared[keys[row]] == 1 else [uris[row]]
        for name in map(_normal, names):
            if name in by_key:
                source_of[row] = by_key[name]
                used.add(name)
                break
    unmatched_rows = [u for u, a, s in zip(uris, active, source_of, strict=True) if a and s is None]
    unmatched_table = [key for key in by_key if key not in used]
    unmatched_table += [f"row {i}" for i, key in enumerate(table.keys) if key is None]
    matched = int(active.sum()) - len(unmatched_rows)
    if not matched and active.any() and by_key:
        raise InputError(
            f"the factor table {str(dataset.factors)!r} matches none of the images: column "
            f"{table.key!r} holds {next(iter(by_key))!r}, images have "
            f"{unmatched_rows[0] if table.key != IMAGE_ID else image_ids[0]!r}: make the paths "
            "relative to 'dataset.path', or name another column under 'dataset.key'"
        )
    columns = {
        name: [None if s is None else values[s] for s in source_of]
        for name, values in table.columns.items()
    }
    found = [s is not None for s in source_of]
    typed = {
        name: _merged(index, name, values, found, _kind(name, table.columns[name], dataset))
        for name, values in columns.items()
    }
    report = JoinReport(
        table=str(dataset.factors),
        key=table.key,
        matched=matched,
        unmatched_rows=unmatched_rows,
        unmatched_table=unmatched_table,
        skipped_columns=dict(table.skipped),
        missing={name: _n_missing(column, active) for name, column in typed.items()},
    )
    return index.with_factors(typed), report


def with_inline_factors(
    index: DatasetIndex, values: Mapping[int, Mapping[str, Any]], dataset: DatasetSpec
) -> DatasetIndex:
    """Put factors that the dataset itself gives (``dataset.columns``) into the index.

    values : index row -> column -> value, for the active rows
    """
    _refuse_reserved(dict.fromkeys(dataset.columns))
    typed = {}
    for name in dataset.columns:
        column = [_scalar(values.get(row, {}).get(name)) for row in range(index.n_rows)]
        found = [row in values for row in range(index.n_rows)]
        typed[name] = _merged(index, name, column, found, _kind(name, column, dataset))
    return index.with_factors(typed)


# ---------------------------------------------------------------------------------------------
# Keys


def _rows_by_key(table: FactorTable, root: str) -> dict[str, int]:
    """Normalised key -> row of the table. A key that stands twice must say the same twice."""
    rows: dict[str, int] = {}
    prefix = root.replace("\\", "/").rstrip("/") + "/"
    for i, key in enumerate(table.keys):
        if key is None:
            continue
        name = _normal(key.replace("\\", "/").removeprefix(prefix))
        first = rows.setdefault(name, i)
        if first == i:
            continue
        for column, values in table.columns.items():
            if values[first] != values[i]:
                raise InputError(
                    f"the factor table names {name!r} in rows {first} and {i} with different "
                    f"values of {column!r}, {values[first]!r} and {values[i]!r}: remove one"
                )
    return rows


def _normal(key: str) -> str:
    while key.startswith("./"):
        key = key[2:]
    return key


def _text_key(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).strip() or None


# ---------------------------------------------------------------------------------------------
# Types


def _is_scalar(kind: pa.DataType) -> bool:
    t = pa.types
    if t.is_dictionary(kind):
        return _is_scalar(kind.value_type)
    return not (t.is_nested(kind) or t.is_binary(kind) or t.is_large_binary(kind)) and not (
        t.is_fixed_size_binary(kind) or t.is_null(kind)
    )


def _scalar(value: Any) -> Value:
    """A table cell as text, bool, int, float or None (missing)."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    text = str(value).strip()
    return None if text in _MISSING_TEXT else text


def _type(values: Sequence[Value]) -> str:
    """ "boolean", "integer", "float" or "string": the narrowest that all present values are."""
    present = [value for value in values if value is not None]
    texts = {value for value in present if isinstance(value, str)}
    if all(isinstance(value, str) for value in present):
        if texts and all(text in _BOOLEANS for text in texts):
            return "boolean"
        if texts and all(_INTEGER.fullmatch(text) for text in texts):
            return "integer"
        return "float" if texts and all(_DECIMAL.fullmatch(t) for t in texts) else "string"
    if texts:
        return "string"
    if all(isinstance(value, bool) for value in present):
        return "boolean"
    return "integer" if all(isinstance(value, int) for value in present) else "float"


def _kind(name: str, values: Sequence[Value], dataset: DatasetSpec) -> FactorInfo:
    """Kind and type of a column from its values and the specification."""
    found = _type(values)
    if name in dataset.continuous:
        if found not in ("integer", "float"):
            wrong = next(v for v in values if v is not None and _number(v) is None)
            raise SpecError(
                f"'dataset.continuous' names {name!r}, which holds {wrong!r}: remove it from the "
                "list, or correct the table"
            )
        return FactorInfo(CONTINUOUS, found)
    if name in dataset.categorical and found == "float":
        # a data frame turns integers with missing values into floats
        numbers = [_number(value) for value in values if value is not None]
        whole = all(number is not None and number.is_integer() for number in numbers)
        return FactorInfo(CATEGORICAL, "integer" if whole else "float")
    if found != "float":
        return FactorInfo(CATEGORICAL, found)
    return FactorInfo(CONTINUOUS, found)


def _merged(
    index: DatasetIndex,
    name: str,
    values: Sequence[Value],
    found: Sequence[bool],
    info: FactorInfo,
) -> FactorColumn:
    """A column for the whole index; rows that were not found keep what they have. The kind that
    the index has already stays."""
    known = index.factors.get(name)
    kind = known.kind if known else info.kind
    if kind == CONTINUOUS:
        old = index.continuous(name) if known else None
        numbers = []
        for row, value in enumerate(values):
            number = math.nan if value is None else _number(value)
            if number is None:
                raise InputError(
                    f"factor {name!r} is continuous in the index and now holds {value!r}: "
                    "correct the table, or index again from scratch"
                )
            numbers.append(float(old[row]) if old is not None and not found[row] else number)
        return continuous_column(numbers)
    levels = [_level(value, known.type if known else info.type) for value in values]
    if known is not None:
        codes, categories = index.categorical(name)
        for row, code in enumerate(codes.tolist()):
            if not found[row]:
                levels[row] = categories[code] if code >= 0 else None
    return encode_categories(levels, known, info.type)


def _number(value: Value) -> float | None:
    if isinstance(value, str):
        return float(value) if _DECIMAL.fullmatch(value) else None
    return None if value is None or isinstance(value, bool) else float(value)


@functools.lru_cache(maxsize=4096, typed=True)
def _level(value: Value, value_type: str) -> str | None:
    """The category's name: "true"/"false", integers without a sign or decimals, text as it is."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if value_type == "boolean" and isinstance(value, str):
        return _BOOLEANS.get(value, value)
    if value_type == "integer":
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            return str(int(value))
        number = _number(value)
        if number is not None and number.is_integer():
            return str(int(number))
    return str(value)


def _n_missing(column: FactorColumn, active: Any) -> int:
    values = column.values[active]
    if column.info.kind == CATEGORICAL:
        return int((values < 0).sum())
    return sum(math.isnan(v) for v in values.tolist())
