"""Factors as labels of hyperplanes: which level stands on the positive side. Imports nothing heavy.

A factor of two levels is one attribute; of more, each level is one, against all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.analyses.base import Known
from pipelines.analyses.checks import Columns, Problems, factor_problems, present_levels
from schemas.index import CATEGORICAL
from schemas.sections.svm import SvmSpec

YES = ("yes", "true", "1")
"""Levels that say that a thing is there: the attribute is then called as the factor."""


@dataclass(frozen=True)
class Level:
    """The positive side of a hyperplane: a level of a factor, against its other levels."""

    factor: str
    level: str

    @property
    def name(self) -> str:
        """What the attribute is called."""
        yes = self.level.lower() in YES
        return self.factor if yes else f"{self.factor}-{self.level}"

    def of(self, index: Columns) -> NDArray[np.int8]:
        """Labels of all rows: 1, -1, and 0 where the value is missing."""
        codes, categories = index.categorical(self.factor)
        sign = np.where(codes == categories.index(self.level), 1, -1)
        return np.where(codes < 0, 0, sign).astype(np.int8)


def factors_of(index: Columns, wanted: Sequence[str] | None) -> list[str]:
    """The factors to separate: those that are wanted, else all that have two levels."""
    if wanted is not None:
        return list(wanted)
    kinds = [name for name, info in index.factors.items() if info.kind == CATEGORICAL]
    return [name for name in kinds if len(present_levels(index, name)) == 2]


def levels_of(index: Columns, factors: Sequence[str]) -> list[Level]:
    """The attributes of some factors, in their order."""
    found = []
    for factor in factors:
        levels = present_levels(index, factor)
        if len(levels) == 2:
            yes = [level for level in levels if level.lower() in YES]
            levels = yes[:1] or levels[1:]
        found += [Level(factor, level) for level in levels]
    return found


def level_problems(known: Known, own: SvmSpec) -> Problems:
    """Factors that are not there, or have nothing to separate."""
    key, index = "analyse.svm", known.index
    if own.attributes is None:
        if not factors_of(index, None):
            yield (
                f"'{key}.labels' is 'factors', but no factor has two levels: name factors with "
                f"more levels under '{key}.attributes', or a table under 'dataset.factors'"
            )
        return
    wrong = list(factor_problems(f"{key}.attributes", own.attributes, index))
    yield from wrong
    for name in own.attributes if not wrong else ():
        if len(levels := present_levels(index, name)) < 2:
            yield (
                f"'{key}.attributes' names factor {name!r}, of which the rows have {levels!r} and "
                "no other level to separate: leave it out"
            )
