"""Factors join the index: the table's rows find their images, and their columns are typed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from pipelines.sources.factor_keys import IMAGE_ID, KEY_COLUMNS, Images, Match, find_key
from pipelines.sources.factor_tables import Cell, FactorTable, cells_of
from pipelines.sources.factor_values import (
    absent_texts,
    kind_of,
    levels_of,
    number_of,
    values_of,
)
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
from schemas.sections.dataset import LABEL
from schemas.spec import DatasetSpec


@dataclass
class JoinReport:
    """How a factor table met the index.

    key : column that names the images
    unmatched_rows : uris of active index rows that the table does not name
    unmatched_table : keys in the table that name no active row (a missing key as "row <number>")
    missing : factor -> number of active rows without a value
    notes : what people should know, in whole sentences
    """

    table: str
    key: str
    matched: int
    unmatched_rows: list[str]
    unmatched_table: list[str]
    skipped_columns: dict[str, str]
    missing: dict[str, int]
    notes: list[str] = field(default_factory=list)


def check_columns(
    dataset: DatasetSpec, inline: Sequence[str], table: FactorTable | None
) -> Iterator[str]:
    """Notes on columns to ignore that are nowhere: the index may have taken them out before.

    inline : factors that the dataset itself gives
    Raises SpecError where the specification asks for something of a column that is nowhere.
    """
    there = [*(table.columns if table else ()), *(table.skipped if table else ()), *inline]
    there += dataset.columns
    where = f"the factor table {table.path!r} has" if table else "the dataset gives"
    if table is not None and dataset.key is not None and dataset.key not in table.columns:
        raise SpecError(
            f"'dataset.key' is {dataset.key!r}, but {where} the columns {there!r}: "
            f"{_near(dataset.key, there)}name one of them"
        )
    for option in ("continuous", "categorical", "literal"):
        for name in getattr(dataset, option):
            if name not in there:
                raise SpecError(
                    f"'dataset.{option}' names {[name]!r}, but {where} {there!r}: "
                    f"{_near(name, there)}correct the name"
                )
    for name in dataset.ignore:
        if name not in (LABEL, *there, *(table.ignored if table else ())):
            yield (
                f"'dataset.ignore' names {name!r}, which is nowhere: {where} {there!r}; "
                f"{_near(name, there)}correct the name if it is misspelt"
            )


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _refuse_reserved(names: Sequence[str], cure: str) -> None:
    for name in names:
        if name in RESERVED:
            raise SpecError(
                f"factor column {name!r} has the name of an index column: rename it, or {cure}"
            )
        if not name.strip():
            raise InputError(f"factor column {name!r} has no name: give it one, or {cure}")


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
    active_rows = index.active
    images = Images(index.uris, list(keys), index.image_ids, active_rows.tolist(), root)
    match = find_key(table, images, dataset.key)
    notes = [*table.notes, *match.notes]
    identifying = {match.column, IMAGE_ID, *KEY_COLUMNS}
    skipped = dict(table.skipped)
    skipped |= dict.fromkeys(table.own_texts - identifying, "another value for every image")
    factors = [name for name in table.columns if name not in identifying | set(skipped)]
    _refuse_reserved(factors, "list it under 'dataset.ignore'")
    _check_doubled(match, {name: table.columns[name] for name in factors})
    found = [row is not None for row in match.row_of]
    typed = {}
    for name in factors:
        cells = table.columns[name]
        typed[name] = _typed(index, name, cells, match.row_of, found, dataset, notes)
    if absent := absent_texts(table.columns.values(), dataset):
        notes.append(f"'dataset.missing' names {absent!r}, which no cell holds: is it misspelt?")
    unmatched = [
        uri
        for uri, active, there in zip(images.uris, images.active, found, strict=True)
        if active and not there
    ]
    report = JoinReport(
        table=str(dataset.factors),
        key=match.column,
        matched=sum(found),
        unmatched_rows=unmatched,
        unmatched_table=match.unused,
        skipped_columns=skipped,
        missing={name: _n_missing(column, active_rows) for name, column in typed.items()},
        notes=notes,
    )
    return _with(index, typed, dataset), report


def _check_doubled(match: Match, columns: Mapping[str, Sequence[Cell]]) -> None:
    """An image that the table names twice must have the same values twice."""
    for key, first, again in match.doubled:
        for name, cells in columns.items():
            if cells[first] != cells[again]:
                raise InputError(
                    f"the factor table names {key!r} in rows {first} and {again} with different "
                    f"values of {name!r}, {cells[first]!r} and {cells[again]!r}: remove one"
                )


def with_inline_factors(
    index: DatasetIndex,
    names: Sequence[str],
    values: Mapping[int, Mapping[str, Any]],
    dataset: DatasetSpec,
    notes: list[str],
) -> DatasetIndex:
    """Put factors that the dataset itself gives into the index.

    values : index row -> column -> value, for the active rows
    notes : is added to
    """
    _refuse_reserved(names, "take it out of 'dataset.columns'")
    rows = list(range(index.n_rows))
    found = [row in values for row in rows]
    typed = {}
    for name in names:
        cells = cells_of(values.get(row, {}).get(name) for row in rows)
        typed[name] = _typed(index, name, cells, rows, found, dataset, notes)
    return _with(index, typed, dataset)


def without_ignored(
    index: DatasetIndex, dataset: DatasetSpec, given: Sequence[str], notes: list[str]
) -> DatasetIndex:
    """The index without the factors that 'dataset.ignore' names.

    given : factors that the table or the dataset give now; a note tells which others stay
    """
    left = [name for name in index.factors if name not in (*given, *dataset.ignore)]
    if left:
        notes.append(
            f"factors {left!r} are kept from before, though nothing gives them now: list them "
            "under 'dataset.ignore' to take them out"
        )
    return _without(index, set(dataset.ignore))


def _typed(
    index: DatasetIndex,
    name: str,
    cells: Sequence[Cell],
    cell_of: Sequence[int | None],
    found: Sequence[bool],
    dataset: DatasetSpec,
    notes: list[str],
) -> FactorColumn:
    """A column for the whole index from a table's column. cell_of : index row -> row of ``cells``.

    Rows that were not found keep what they have. The kind that the index has already stays, unless
    the specification names another one.
    """
    known, kept = index.factors.get(name), None
    if known is not None and named_otherwise(name, known, dataset):
        known, kept = None, _cells_in(index, name)
    values, missing = values_of(name, cells, dataset, known)
    info, kind = kind_of(name, values, dataset, known)
    notes += [note for note in (missing, kind) if note is not None]
    if None in cell_of:
        of_rows = [None if cell is None else values[cell] for cell in cell_of]
    else:
        of_rows = list(map(values.__getitem__, cast(Sequence[int], cell_of)))
    if kept is not None:
        kept = values_of(name, kept, dataset, None)[0]
        if info.kind == CONTINUOUS:
            kept = [None if cell is None else number_of(cell) for cell in kept]
        of_rows = [v if there else k for v, there, k in zip(of_rows, found, kept, strict=True)]
    if (known.kind if known else info.kind) == CONTINUOUS:
        plain = kept is None and info.type in ("integer", "float")  # every value is a number
        return _quantities(index, name, of_rows, found, known, float if plain else number_of)
    levels = levels_of(of_rows, known.type if known else info.type)
    if known is not None and not all(found):
        codes, categories = index.categorical(name)
        for row, code in enumerate(codes.tolist()):
            if not found[row]:
                levels[row] = categories[code] if code >= 0 else None
    return encode_categories(levels, known, info.type)


def named_otherwise(name: str, known: FactorInfo, dataset: DatasetSpec) -> bool:
    """Whether the specification says of a factor in the index that it is of the other kind, or that
    one of its levels stands for a missing value: the factor is then made anew."""
    other = dataset.continuous if known.kind == CATEGORICAL else dataset.categorical
    return name in other or not set(known.categories).isdisjoint(dataset.missing)


def _cells_in(index: DatasetIndex, name: str) -> list[Cell]:
    """A factor's values in the index, as a table would hold them."""
    if index.factors[name].kind == CONTINUOUS:
        return [None if math.isnan(v) else v for v in index.continuous(name).tolist()]
    codes, categories = index.categorical(name)
    return [categories[code] if code >= 0 else None for code in codes.tolist()]


def _with(
    index: DatasetIndex, typed: Mapping[str, FactorColumn], dataset: DatasetSpec
) -> DatasetIndex:
    """The index with these columns, also where the specification now names another kind."""
    known = {name: info for name, info in index.factors.items() if name in typed}
    other = {name for name, info in known.items() if named_otherwise(name, info, dataset)}
    return _without(index, other).with_factors(typed)


def _without(index: DatasetIndex, names: set[str]) -> DatasetIndex:
    gone = sorted(names & index.factors.keys())
    if not gone:
        return index
    kept = {name: info for name, info in index.factors.items() if name not in gone}
    return DatasetIndex(index.table.drop_columns(gone), kept, index.containers)


def _quantities(
    index: DatasetIndex,
    name: str,
    values: Sequence[Cell],
    found: Sequence[bool],
    known: FactorInfo | None,
    number_in: Callable[[Any], float | None],
) -> FactorColumn:
    old = index.continuous(name) if known else None
    numbers = []
    for row, value in enumerate(values):
        number = math.nan if value is None else number_in(value)
        if number is None:
            raise InputError(
                f"factor {name!r} is continuous in the index and now holds {value!r}: correct the "
                "table, or list the text under 'dataset.missing' or the column under "
                "'dataset.categorical'"
            )
        numbers.append(float(old[row]) if old is not None and not found[row] else number)
    return continuous_column(numbers)


def _n_missing(column: FactorColumn, active: Any) -> int:
    values = column.values[active]
    if column.info.kind == CATEGORICAL:
        return int((values < 0).sum())
    return int(np.isnan(values).sum())
