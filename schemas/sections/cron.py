"""Cron expressions as text: is one valid, and what is wrong with it?

The five fields of crontab(5), minute hour day month weekday, each ``*``, a number, a range or a
list of those, with ``/step`` behind ``*`` or a range; English names of months and weekdays; and
@hourly, @daily, @weekly, @monthly, @yearly. What passes here every scheduler understands; what
some add to it (``L``, ``#``, ``?``, seconds, @reboot) does not pass.
"""

from __future__ import annotations

import re

MACROS = ("@hourly", "@daily", "@weekly", "@monthly", "@yearly")
EXAMPLE = "such as '0 3 * * 1-5', at 3:00 from Monday to Friday, or '@daily'"

_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_WEEKDAYS = "sun mon tue wed thu fri sat".split()
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# name, lowest, highest, names of the values from `lowest` on
_FIELDS: tuple[tuple[str, int, int, list[str]], ...] = (
    ("minute", 0, 59, []),
    ("hour", 0, 23, []),
    ("day", 1, 31, []),
    ("month", 1, 12, _MONTHS),
    ("weekday", 0, 7, _WEEKDAYS),
)
_PART = re.compile(r"(\*|[0-9a-z]+)(?:-([0-9a-z]+))?(?:/([0-9]+))?", re.ASCII)


def check_cron(text: str) -> str:
    """The expression with single spaces between its fields, in lower case.

    Raises ValueError saying which field is wrong, what it may be, and an example.
    """
    given = text.strip().lower()
    if given.startswith("@"):
        if given not in MACROS:
            raise ValueError(f"{text!r} is not one of {', '.join(MACROS)}: use one, or five fields")
        return given
    fields = given.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"has {len(fields)!r} fields instead of 'minute hour day month weekday': write five, "
            f"{EXAMPLE}"
        )
    values = [_values(field, *known) for field, known in zip(fields, _FIELDS, strict=True)]
    days, months = values[2], values[3]
    if min(days) > max(_DAYS[month - 1] for month in months):
        raise ValueError(
            f"day {fields[2]!r} never comes in month {fields[3]!r}: choose another day, {EXAMPLE}"
        )
    return " ".join(fields)


def _values(field: str, name: str, low: int, high: int, names: list[str]) -> set[int]:
    """All values that a field stands for."""
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None or (match[1] == "*" and match[2] is not None):
            raise ValueError(
                f"{name} {part!r} is not '*', a number, a range or a list of them: "
                f"use {low!r} to {high!r}, {EXAMPLE}"
            )
        first, last, step = match.groups()
        start = low if first == "*" else _number(first, name, low, high, names)
        end = high if first == "*" else start
        if last is not None:
            end = _number(last, name, low, high, names)
        if end < start:
            raise ValueError(f"{name} {part!r} runs backwards: write two ranges, {EXAMPLE}")
        if step is not None and first != "*" and last is None:
            raise ValueError(
                f"{name} {part!r} has a step behind one number: write '{start}-{high}/{step}'"
            )
        stride = 1 if step is None else int(step)
        if not 1 <= stride <= high:
            raise ValueError(f"{name} {part!r} has a step outside 1 to {high!r}, {EXAMPLE}")
        found.update(range(start, end + 1, stride))
    return found


def _number(text: str, name: str, low: int, high: int, names: list[str]) -> int:
    value = low + names.index(text) if text in names else int(text) if text.isdigit() else None
    if value is None or not low <= value <= high:
        words = f" or {names[0]!r} to {names[-1]!r}" if names else ""
        raise ValueError(
            f"{name} {text!r} is not {low!r} to {high!r}{words}: correct it, {EXAMPLE}"
        )
    return value
