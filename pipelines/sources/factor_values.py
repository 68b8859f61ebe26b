"""What the cells of a factor table mean: missing values, numbers, levels, and a column's kind.

Types are decided per column over the whole table. Text, booleans and integers are levels
(categorical); numbers with decimals are quantities (continuous); the specification can name
exceptions both ways. An integer with leading zeros ("0012") is text, so that it stays itself.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from pipelines.sources.factor_tables import Cell
from schemas.errors import InputError, SpecError
from schemas.index import CATEGORICAL, CONTINUOUS, FactorInfo
from schemas.spec import DatasetSpec

#: What pandas takes as missing when it reads a table.
MISSING_TEXTS = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"]
    + ["<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "NAN"]
)

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf")
_BOOLEANS = {"true": "true", "True": "true", "TRUE": "true"} | {
    "false": "false",
    "False": "false",
    "FALSE": "false",
}
_SHOWN = 5
_MANY = 20


def values_of(
    name: str, cells: Sequence[Cell], dataset: DatasetSpec, known: FactorInfo | None
) -> tuple[list[Cell], str | None]:
    """Cells with None where a value is missing, and a note where that is worth a sentence.

    Missing are None, NaN and the texts of `MISSING_TEXTS` and of 'dataset.missing', which also
    names numbers, however they are written (-1 is -1.0); in the columns of 'dataset.literal' None,
    NaN and "" only. A text that is a level of the factor in the index (``known``) stays one.
    """
    texts = frozenset([""]) if name in dataset.literal else MISSING_TEXTS
    named = frozenset(dataset.missing)
    missing = (texts | named) - frozenset(known.categories if known else ())
    numbers = {number_of(text) for text in named & missing} - {None}
    there = missing.intersection(cells)
    counts = Counter(text for text in _texts(cells) if text in there) if there else Counter[str]()
    values = list(cells)
    if float in set(map(type, cells)):
        values = [None if type(cell) is float and math.isnan(cell) else cell for cell in cells]
    if counts:
        values = [None if type(cell) is str and cell in counts else cell for cell in values]
    if numbers:
        values = [None if number_of(cell) in numbers else cell for cell in values]
    told = Counter({text: n for text, n in counts.items() if text and text not in named})
    note = None
    if told and _type(values) == "string":
        note = (
            f"factor {name!r}: {_counted(told)} of {len(cells)} cells count as missing; if that is "
            "a level, list the column under 'dataset.literal'"
        )
    return values, note


def absent_texts(columns: Iterable[Sequence[Cell]], dataset: DatasetSpec) -> list[str]:
    """Those of 'dataset.missing' that no cell holds: perhaps misspelt."""
    if not dataset.missing:
        return []
    cells = set().union(*columns)
    named = {text: number_of(text) for text in dataset.missing}
    by_value = any(number is not None for number in named.values())
    numbers = {number_of(cell) for cell in cells} if by_value else set()
    return [t for t, n in named.items() if t not in cells and (n is None or n not in numbers)]


def kind_of(
    name: str, values: Sequence[Cell], dataset: DatasetSpec, known: FactorInfo | None
) -> tuple[FactorInfo, str | None]:
    """Kind and type of a column, from its values and the specification, and a note where the index
    (``known``) holds another kind than these now suggest.

    Raises InputError for decimal numbers among which a few texts stand and SpecError for named
    quantities that hold texts: neither becomes levels unless the specification says so.
    """
    found = _type(values)
    number = found in ("integer", "float")
    if name in dataset.continuous:
        if not number and any(value is not None for value in values):
            texts = Counter(str(v) for v in values if v is not None and number_of(v) is None)
            raise SpecError(
                f"'dataset.continuous' names {name!r}, which holds {next(iter(texts))!r} "
                f"({_counted(texts)} of {len(values)} cells): remove it from the list, correct the "
                "table, or list the text under 'dataset.missing'"
            )
        return FactorInfo(CONTINUOUS, found if number else "float"), None
    if name in dataset.categorical:
        if found == "float":
            # a data frame turns integers with missing values into floats
            numbers = [number_of(value) for value in values if value is not None]
            whole = all(n is not None and n.is_integer() for n in numbers)
            return FactorInfo(CATEGORICAL, "integer" if whole else "float"), None
        return FactorInfo(CATEGORICAL, found), None
    if found == "string":
        note = _texts_among_numbers(name, values, known)
        return FactorInfo(CATEGORICAL, found), note
    if found == "float" and known is not None and known.kind == CATEGORICAL:
        note = (
            f"factor {name!r} is categorical in the index, though its values are quantities now: "
            "list it under 'dataset.continuous' if they are, else under 'dataset.categorical'"
        )
        return FactorInfo(CONTINUOUS, found), note
    if found == "float":
        return FactorInfo(CONTINUOUS, found), _whole_numbers(name, values)
    return FactorInfo(CATEGORICAL, found), None


def _whole_numbers(name: str, values: Sequence[Cell]) -> str | None:
    """A note on quantities that may be levels: a data frame writes 1.0 for 1 where others miss."""
    numbers: set[float | None] = set()
    for value in set(values) - {None}:
        numbers.add(number := number_of(value))
        if len(numbers) > _MANY or number is None or not number.is_integer():
            return None
    return (
        f"factor {name!r} is continuous, and its {len(numbers)} values are whole numbers written "
        "with decimals: list it under 'dataset.categorical' if they are levels"
    )


def _texts_among_numbers(name: str, values: Sequence[Cell], known: FactorInfo | None) -> str | None:
    """A note on integers with a few texts, which are levels either way, and on a text for nearly
    every cell; quantities with a few texts are refused."""
    counts = Counter((type(v), v) for v in values if v is not None)  # 1, 1.0, True: one key else
    texts, numbers = Counter[str](), list[Cell]()
    for (_, value), n in counts.items():
        if number_of(value) is None:
            texts[str(value)] += n
        else:
            numbers.append(value)
    n_present = counts.total()
    n_numbers = n_present - texts.total()
    if not texts or n_numbers <= texts.total():
        if len(texts) > _MANY and 2 * len(texts) > n_present:
            return (
                f"factor {name!r} has {len(texts)} levels in {n_present} cells, such as "
                f"{next(iter(texts))!r}: list it under 'dataset.ignore' if these are no groups of "
                "images, or write plain numbers if it is a quantity"
            )
        return None
    text = (
        f"factor {name!r} holds {n_numbers} numbers and {_counted(texts)}, {texts.total()} "
        f"texts of {len(values)} cells"
    )
    cure = (
        "list the texts under 'dataset.missing' if the values are unknown, or the column under "
        "'dataset.categorical' if all are levels"
    )
    if _type(numbers) == "float" and (known is None or known.kind == CONTINUOUS):
        raise InputError(f"{text}: {cure}")
    return f"{text}; all of them are levels: {cure}"


def _counted(texts: Counter[str]) -> str:
    shown = ", ".join(f"{text!r} ({n})" for text, n in texts.most_common(_SHOWN))
    return shown + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")


def _texts(values: Iterable[Cell]) -> Iterator[str]:
    return (value for value in values if type(value) is str)


def _type(values: Sequence[Cell]) -> str:
    """ "boolean", "integer", "float" or "string": the narrowest that all present values are."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {str}:
        texts = set(_texts(set(values)))
        if all(text in _BOOLEANS for text in texts):
            return "boolean"
        if all(map(_INTEGER.fullmatch, texts)):
            return "integer"
        return "float" if all(map(_DECIMAL.fullmatch, texts)) else "string"
    if str in kinds or not kinds:
        return "string"
    if kinds == {bool}:
        return "boolean"
    return "integer" if kinds <= {int, bool} else "float"


def number_of(value: Cell) -> float | None:
    """The number that a cell holds, None for a text or a boolean."""
    if type(value) is str:
        return _number_in(value)
    return None if value is None or isinstance(value, bool) else float(value)


@functools.lru_cache(maxsize=4096)
def _number_in(text: str) -> float | None:
    return float(text) if _DECIMAL.fullmatch(text) else None


def levels_of(values: Sequence[Cell], value_type: str) -> list[str | None]:
    """`level_of` of every value."""
    if len(set(map(type, values)) - {type(None)}) > 1:  # 1, 1.0 and True would be one key
        return [level_of(value, value_type) for value in values]
    known = {value: level_of(value, value_type) for value in set(values)}
    return [known[value] for value in values]


@functools.lru_cache(maxsize=4096, typed=True)
def level_of(value: Cell, value_type: str) -> str | None:
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
        number = number_of(value)
        if number is not None and number.is_integer():
            return str(int(number))
    return str(value)
