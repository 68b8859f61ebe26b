"""What a report shows of a model, as data: the report writes the numbers and draws the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class NotShownError(Exception):
    """A model of which there is nothing to show; the text says why in one line."""


# ---- numbers: anything that is not a finite number is shown as a dash


@dataclass(frozen=True)
class Count:
    """A whole number."""

    value: Any


@dataclass(frozen=True)
class Number:
    """A number with so many significant digits."""

    value: Any
    digits: int = 3


@dataclass(frozen=True)
class Fixed:
    """A number with so many decimals."""

    value: Any
    places: int = 3


@dataclass(frozen=True)
class Percent:
    """A share as a percentage with so many decimals."""

    value: Any
    places: int = 1


@dataclass(frozen=True)
class Name:
    """A name from the data, as people read it."""

    value: Any


@dataclass(frozen=True)
class Bar:
    """A share from 0 to 1 as a bar, beside its number in a table; None draws none."""

    share: float | None


Value = str | Count | Number | Fixed | Percent | Name


# ---- what is shown


@dataclass(frozen=True)
class Text:
    """A paragraph. text : with a field '{name}' for each of the values."""

    text: str
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Heading:
    """A heading of what follows."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table. columns : headings, "" over bars; () shows none. rows : the first cell names one."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value | Bar]]


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares of a whole, the largest first, as bars, and their running sum as a curve.

    values : float64 (n,), each in [0, 1]
    """

    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Curve:
    """Lines over one axis. x : float64 (n,);  lines : name -> float64 (n,)."""

    x: np.ndarray
    lines: Mapping[str, np.ndarray]
    x_label: str
    y_label: str


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Points in two dimensions, those of a group joined by growing intensity.

    points : float64 (n, 2);  groups : (name, intensity or None) of each
    """

    points: np.ndarray
    groups: Sequence[tuple[str, float | None]]


@dataclass(frozen=True, eq=False)
class Shape:
    """A 3D shape from three sides. points : float64 (3, L), facing the viewer."""

    points: np.ndarray


@dataclass(frozen=True, eq=False)
class ShapeChanges:
    """A 3D shape, and what each of several changes makes of it, taken away and added.

    points : float64 (3, L);  changes : float64 (K, 3, L);  captions : K texts
    minus, plus : what the two are called;  note : beside them, "" for none
    """

    points: np.ndarray
    changes: np.ndarray
    captions: Sequence[str]
    minus: str = "minus"
    plus: str = "plus"
    note: str = ""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures side by side. images : uint8 (n, height, width, 3);  captions : n texts, or none."""

    images: np.ndarray
    captions: Sequence[str] = ()


Figure = Text | Heading | Table | Shares | Curve | Trajectories | Shape | ShapeChanges | Pictures
