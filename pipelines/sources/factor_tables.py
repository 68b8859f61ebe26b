"""Reading factor tables, whatever their form: CSV and its kin, CelebA's lists, JSON, Parquet.

The form is told by the contents. Text may be UTF-8, UTF-16 (with or without a byte order mark) or,
failing these, Windows-1252; columns may be separated by commas, semicolons, tabs, bars or blanks.
Cells stay as they are written; what they mean is decided in `pipelines.sources.factor_values`.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from pipelines.sources.paths import IMAGE_ENDINGS, suffix
from schemas.errors import InputError, SpecError
from schemas.index import MAX_CATEGORIES
from schemas.spec import DatasetSpec

_DELIMITERS = (",", ";", "\t", "|")
_HEAD_LINES = 20
_START = 4096
_BINARY = (
    (b"PK\x03\x04", "an Excel workbook or another zip"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\xfd7zXZ", "compressed by xz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"\x89HDF", "an HDF5 file"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x80", "a pickle"),
    (b"ARROW1", "an Arrow file"),
    (b"version https://git-lfs", "a pointer of Git LFS, without the table itself"),
)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_DECIMAL_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+)?(,\d+)?([eE][+-]?\d+)?")

_ROW_NUMBERS = re.compile(r"(Unnamed: \d+(\.\d+)*|__index_level_\d+__)?")
"""Names that pandas gives to the row numbers that it writes beside a table."""

_DIFFERENT_TEXTS = pa.dictionary(pa.int32(), pa.string())

_JSON_FORMS = "write a list of objects, one object a line, or an object of objects, one an image"

Cell = str | int | float | bool | None
_NUMBERS = (bool, int, float)


@dataclass
class FactorTable:
    """A factor table in memory.

    path : of its file
    columns : name -> cells, one a row, texts without blanks around them
    skipped : columns that cannot be factors (lists, bytes, a data frame's row numbers, ...),
        name -> why
    ignored : columns left out by 'dataset.ignore'
    own_texts : columns out of nested JSON objects in which every row has another text (addresses,
        checksums): they may name the images and are no factors
    notes : how it was read, where that was not plain, in whole sentences
    """

    path: str
    columns: dict[str, list[Cell]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    own_texts: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def read_factor_table(dataset: DatasetSpec) -> FactorTable:
    """Read ``dataset.factors``.

    Raises SpecError where there is no such file and InputError for one that cannot be read, naming
    the row.
    """
    path = Path(dataset.factors or "")
    table = FactorTable(str(path))
    try:
        with open(path, "rb") as file:
            start = file.read(_START)
        if path.suffix.lower() in (".parquet", ".pq") or start.startswith(b"PAR1"):
            _read_parquet(path, table, dataset.ignore)
        else:
            _read_text(path, table, dataset.ignore)
    except FileNotFoundError as e:
        raise SpecError(
            f"'dataset.factors' is {str(path)!r}, which does not exist: paths are relative to "
            "the specification's file"
        ) from e
    except (pa.ArrowException, OSError, ValueError, RecursionError) as e:
        raise InputError(f"factor table {str(path)!r} cannot be read: {e}") from e
    for name in [n for n in table.columns if _ROW_NUMBERS.fullmatch(n)]:
        cells = table.columns[name]
        if all(str(cell).isdecimal() for cell in cells) and len(set(cells)) == len(cells):
            del table.columns[name]
            table.skipped[name] = "row numbers of a data frame"
    return table


def _named(names: Sequence[str], table: FactorTable, ignore: Sequence[str]) -> list[str | None]:
    """The columns' names without blanks around them, None for those to leave out."""
    clean = [unicodedata.normalize("NFC", name.strip()) for name in names]
    kept = [None if name in ignore else name for name in clean]
    table.ignored += [name for name in clean if name in ignore]
    doubled = sorted({name for name in kept if name is not None and kept.count(name) > 1})
    if doubled:
        raise InputError(
            f"factor table {table.path!r} has columns {doubled!r} twice: rename one, or list the "
            "name under 'dataset.ignore'"
        )
    return kept


# ---------------------------------------------------------------------------------------------
# Parquet


def _read_parquet(path: Path, table: FactorTable, ignore: Sequence[str]) -> None:
    arrow = pq.read_table(path, partitioning=None)
    for i, name in enumerate(_named(arrow.column_names, table, ignore)):
        kind = arrow.schema.field(i).type
        if name is None:
            continue
        if _is_scalar(kind):
            cells = arrow.column(i).to_pylist()
            table.columns[name] = cells if _is_number(kind) else cells_of(cells)
        else:
            table.skipped[name] = str(kind)


def _is_scalar(kind: pa.DataType) -> bool:
    t = pa.types
    if t.is_dictionary(kind):
        return _is_scalar(kind.value_type)
    return not (t.is_nested(kind) or t.is_binary(kind) or t.is_large_binary(kind)) and not (
        t.is_fixed_size_binary(kind) or t.is_binary_view(kind) or t.is_null(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_boolean(kind) or t.is_integer(kind) or t.is_floating(kind))


def cells_of(values: Iterable[Any]) -> list[Cell]:
    """Cells of one column; equal texts become one object."""
    known: dict[str, str] = {}
    return [
        v if v is None or isinstance(v, _NUMBERS) else known.setdefault(t := _text(v), t)
        for v in values
    ]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    return str(float(value) if isinstance(value, decimal.Decimal) else value).strip()


# ---------------------------------------------------------------------------------------------
# Text


def _read_text(path: Path, table: FactorTable, ignore: Sequence[str]) -> None:
    text = _decoded(path.read_bytes(), table)
    head = [line for line in _lines(text[: 1 << 20]) if line.strip()][:_HEAD_LINES]
    if not head:
        raise InputError(f"factor table {str(path)!r} is empty: it needs a header line")
    if head[0].lstrip()[:1] in ("{", "["):
        _read_json(text, path, table, ignore)
        return
    delimiter = None
    if sep := re.fullmatch(r"sep=(.)", head[0].strip()):  # a line that Excel writes
        text, head, delimiter = text.split("\n", 1)[1], head[1:], sep.group(1)
    delimiter = delimiter or _delimiter(head)
    if delimiter is None:
        names, columns = _split_at_blanks(text, path)
    else:
        names, columns = _split_at(text, head, delimiter, path)
    if names is None:
        names = _names_without_header([cells[0] for cells in columns], path)
        table.notes.append(
            f"the factor table has no header line; its columns are taken as {names!r}"
        )
    kept = _named(names, table, ignore)
    for name, cells in zip(kept, columns, strict=True):
        if name is not None:
            table.columns[name] = _with_points(name, cells, delimiter, table)


def _lines(text: str) -> list[str]:
    """Lines by line feeds and carriage returns only: texts may hold what else Unicode splits at."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _decoded(raw: bytes, table: FactorTable) -> str:
    for mark, encoding in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if raw.startswith(mark):
            return raw.decode(encoding)
    start = raw[:_START]
    for magic, kind in _BINARY:
        if start.startswith(magic):
            raise InputError(
                f"factor table {table.path!r} is {kind}, which is not read: save it as CSV, JSON "
                "lines or Parquet"
            )
    if b"\0" in start:  # every other byte of Latin text in UTF-16
        even, odd = (start[i::2].count(0) for i in (0, 1))
        if min(even, odd) or 4 * max(even, odd) < len(start):
            raise InputError(
                f"factor table {table.path!r} is no text: save it as CSV, JSON lines or Parquet"
            )
        return raw.decode("utf-16-be" if even else "utf-16-le")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        table.notes.append(
            "the factor table is not UTF-8 and was read as Windows-1252 (Latin-1): look at its "
            "accents, and save it as UTF-8 if they are wrong"
        )
        return raw.decode("cp1252", errors="replace")


def _delimiter(head: Sequence[str]) -> str | None:
    """What separates the columns, judged by the first lines; None for blanks."""

    def columns(line: str, delimiter: str) -> int:
        return len(next(csv.reader([line], delimiter=delimiter), []))

    best, score = None, (0.0, 0)
    for delimiter in _DELIMITERS:
        counts = [columns(line, delimiter) for line in head]
        if counts[0] > 1:
            found = (counts.count(counts[0]) / len(counts), counts[0])
            if found > score:
                best, score = delimiter, found
    if best is not None:
        return best
    named = len(head) > 1 and len(head[0].split()) == 1 and not head[0].strip().isdecimal()
    if named and all(suffix(line.strip()) in IMAGE_ENDINGS for line in head[1:]):
        return ","  # names with blanks in one column
    words = [len(line.split()) for line in head]
    usual = max(set(words[1:] or words), key=words.count)
    return None if usual > 1 and 2 * words.count(usual) >= len(words) - 1 else ","


def _is_header(cells: Sequence[str]) -> bool:
    """Whether a line names columns, rather than an image."""
    return not any(suffix(cell.strip()) in IMAGE_ENDINGS for cell in cells)


def _names_without_header(first: Sequence[Cell], path: Path) -> list[str]:
    key = next(i for i, c in enumerate(first) if suffix(str(c)) in IMAGE_ENDINGS)
    others = [i for i in range(len(first)) if i != key]
    names = {key: "path"}
    for number, i in enumerate(others):
        names[i] = path.stem if len(others) == 1 else f"{path.stem}_{number}"
    return [names[i] for i in range(len(first))]


def _split_at(
    text: str, head: Sequence[str], delimiter: str, path: Path
) -> tuple[list[str] | None, list[list[Cell]]]:
    """Names, None without a header, and columns of text whose cells are separated."""
    data = text.encode("utf-8")
    first = next(csv.reader([head[0]], delimiter=delimiter))
    parse = pacsv.ParseOptions(
        delimiter=delimiter, newlines_in_values=True, invalid_row_handler=(bad := _BadRows())
    )
    read = pacsv.ReadOptions(
        use_threads=False,  # for the numbers of bad rows
        block_size=min(max(len(data), 1 << 20), 1 << 30),
        autogenerate_column_names=True,  # the header, whose names may be doubled, is the first row
    )
    with pacsv.open_csv(pa.BufferReader(data), read, parse) as reader:
        types = {name: _DIFFERENT_TEXTS for name in reader.schema.names}
    bad.rows.clear()
    convert = pacsv.ConvertOptions(column_types=types, strings_can_be_null=False)
    columns = pacsv.read_csv(pa.BufferReader(data), read, parse, convert).columns
    bad.check(path)
    if not _is_header(first):
        return None, [_texts_of(c) for c in columns]
    return [c[0].as_py() for c in columns], [_texts_of(c.slice(1)) for c in columns]


def _texts_of(column: Any) -> list[Cell]:
    """`cells_of` an Arrow column of texts, each different one looked at once."""
    cells: list[Cell] = []
    for chunk in column.chunks:
        different = cells_of(chunk.dictionary.to_pylist())
        cells += [different[i] for i in np.from_dlpack(chunk.indices).tolist()]
    return cells


class _BadRows:
    """Collects the rows of another length."""

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, int, int]] = []

    def __call__(self, row: Any) -> str:
        self.rows.append((row.number, row.expected_columns, row.actual_columns))
        return "skip"

    def check(self, path: Path) -> None:
        """Raise InputError when there is any."""
        if self.rows:
            number, expected, actual = self.rows[0]
            more = f", as {len(self.rows) - 1} more rows have" if len(self.rows) > 1 else ""
            raise InputError(
                f"factor table {str(path)!r} cannot be read: line {number} has {actual} values "
                f"where the header has {expected}{more}: put texts that hold the separator "
                "between quotes, or correct the line"
            )


def _split_at_blanks(text: str, path: Path) -> tuple[list[str] | None, list[list[Cell]]]:
    """As `_split_at`, for columns separated by blanks, as CelebA's lists are: a line with the
    number of rows may stand first, and the first column may have no name."""
    lines = [(i, words) for i, line in enumerate(_lines(text), 1) if (words := line.split())]
    if len(lines) > 1 and len(lines[0][1]) == 1 and lines[0][1][0].isdecimal():
        lines = lines[1:]
    header = lines[0][1] if _is_header(lines[0][1]) else None
    rows = lines[1:] if header is not None else lines
    if header is not None and rows and len(rows[0][1]) == len(header) + 1:
        header = ["path", *header]
    width = len(header if header is not None else rows[0][1])
    for number, words in rows:
        if len(words) != width:
            raise InputError(
                f"factor table {str(path)!r} cannot be read: line {number} has {len(words)} values "
                f"where the header or first line has {width}: correct the line, or separate the "
                "columns by commas"
            )
    return header, [cells_of(words[i] for _, words in rows) for i in range(width)]


def _with_points(
    name: str, cells: list[Cell], delimiter: str | None, table: FactorTable
) -> list[Cell]:
    """Numbers with a decimal comma become numbers with a point, where most of a column is such.

    Between semicolons a comma is a decimal comma; else "1,234" may be a thousand, and is refused.
    """
    texts = {c for c in set(cells) if isinstance(c, str) and c}
    if not any("," in t for t in texts):
        return cells
    numbers = {t for t in texts if _DECIMAL_COMMA.fullmatch(t) and t.strip("+-,.")}
    commas = {t for t in numbers if "," in t}
    if not commas or 2 * len(numbers) <= len(texts):
        return cells
    first = min(commas)
    if delimiter == ",":
        table.notes.append(
            f"column {name!r} holds numbers with commas, such as {first!r}, and is taken as text: "
            "write them with points if it is a quantity"
        )
        return cells
    if delimiter != ";" and all(_THOUSANDS.fullmatch(t) for t in commas):
        raise InputError(
            f"column {name!r} of the factor table {table.path!r} holds {first!r}, which may be a "
            f"number with a decimal comma or a thousand: write it with a point, or list {name!r} "
            "under 'dataset.ignore'"
        )
    points = {t: t.replace(".", "").replace(",", ".") if t in commas else t for t in numbers}
    return [points.get(c, c) if isinstance(c, str) else c for c in cells]


# ---------------------------------------------------------------------------------------------
# JSON


def _read_json(text: str, path: Path, table: FactorTable, ignore: Sequence[str]) -> None:
    rows = [dict(_flat(row)) for row in _json_rows(text, path)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name, kept in zip(names, _named(names, table, ignore), strict=True):
        if kept is None:
            continue
        values = [row.get(name) for row in rows]
        if any(isinstance(value, list) for value in values):
            table.skipped[kept] = "lists"
            continue
        cells = table.columns[kept] = cells_of(values)
        present = [cell for cell in cells if cell is not None]
        distinct = len(set(present))
        own = distinct == len(present) > 1 and all(isinstance(c, str) for c in present)
        whole = not any(isinstance(c, float) for c in present)
        if "." in name and (own or (whole and distinct > MAX_CATEGORIES)):
            table.own_texts.add(kept)


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested objects, named "image.file_path"."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _json_rows(text: str, path: Path) -> list[Mapping[str, Any]]:
    """One object a row, from JSON lines or one JSON value of the forms that data sets use."""
    try:
        whole = json.loads(text)
    except ValueError as e:
        if not text.lstrip().startswith("{") or "\n" not in text.strip():
            raise
        return _json_lines(text, path, e)
    if isinstance(whole, list):
        return [_object(row, f"row {i}") for i, row in enumerate(whole)]
    if not isinstance(whole, dict):
        raise ValueError(f"it holds JSON of one {type(whole).__name__!r}: {_JSON_FORMS}")
    values = list(whole.values())
    if isinstance(whole.get("labels"), list):  # StyleGAN's dataset.json
        return [_known(*_pair(entry), "label") for entry in whole["labels"]]
    if whole and all(suffix(key) in IMAGE_ENDINGS for key in whole):  # image -> what is known
        return [_known(key, value, path.stem) for key, value in whole.items()]
    if whole and all(isinstance(v, list) for v in values):  # column -> values
        if len({len(cells) for cells in values}) > 1:
            lengths = ", ".join(f"{name!r} ({len(cells)})" for name, cells in whole.items())
            raise ValueError(f"its lists {lengths} are not of one length: {_JSON_FORMS}")
        return [dict(zip(whole, cells, strict=True)) for cells in zip(*values, strict=True)]
    if whole and all(isinstance(v, dict) for v in values):
        inner = [list(v) for v in values]
        if inner.count(inner[0]) == len(inner) > 1 and all(k.isdecimal() for k in inner[0]):
            # column -> row -> value, as pandas writes
            return [{name: v[key] for name, v in whole.items()} for key in inner[0]]
        return [_known(key, value, "") for key, value in whole.items()]
    return [whole]  # JSON lines of one line


def _object(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{where} holds a {type(row).__name__!r}, not an object: {_JSON_FORMS}")
    return row


def _known(path: str, value: Any, name: str) -> Mapping[str, Any]:
    """A row of what is known of one image: an object, a list (name_0, name_1, ...) or one value."""
    if isinstance(value, dict):
        return {"path": path, **value}
    if isinstance(value, list):
        return {"path": path, **{f"{name}_{i}": cell for i, cell in enumerate(value)}}
    return {"path": path, name: value}


def _json_lines(text: str, path: Path, whole: ValueError) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as e:
            if number == 1:
                raise whole from e
            raise ValueError(f"line {number} is not JSON: {e}") from e
        rows.append(_object(row, f"line {number}"))
    return rows


def _pair(entry: Any) -> tuple[str, Any]:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
        raise ValueError(f"'labels' holds {entry!r}, which is no pair of a path and a label")
    return entry[0], entry[1]
