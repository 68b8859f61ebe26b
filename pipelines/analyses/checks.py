"""Factors, levels and attributes that a specification names, against those that there are.

Each function lists problems as text with key, value and cure; `refuse` raises them together.
Imports nothing heavy.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.analyses.measured import Measured
from schemas.errors import SpecError
from schemas.index import CATEGORICAL, FactorInfo
from schemas.sections.types import level_named
from schemas.suggest import suggestion

Problems = Iterator[str]

REGRESSED_FEATURES = 1 << 14
"""Most coordinates of codes that are regressed on: their whole second moment is summed, 2 GB of
so many."""


class Columns(Protocol):
    """Columns of an index: the index, or the part of it that an analysis reads."""

    def __hash__(self) -> int: ...

    @property
    def n_rows(self) -> int: ...

    @property
    def active(self) -> NDArray[np.bool_]: ...

    @property
    def factors(self) -> Mapping[str, FactorInfo]: ...

    def categorical(self, name: str) -> tuple[NDArray[Any], tuple[str, ...]]:
        """Codes (n_rows,) of a categorical factor, -1 where missing, and its categories."""
        ...

    def continuous(self, name: str) -> NDArray[np.float64]:
        """Values (n_rows,) of a continuous factor, NaN where missing."""
        ...


def refuse(problems: Iterable[str]) -> None:
    """Raise SpecError with all problems, if there are any."""
    found = list(dict.fromkeys(problems))
    if len(found) == 1:
        raise SpecError(found[0])
    if found:
        lines = "\n".join(f"  {problem}" for problem in found)
        raise SpecError(f"{len(found)} keys of the specification do not fit its data:\n{lines}")


@functools.lru_cache(maxsize=2)
def active_rows(index: Columns) -> NDArray[np.bool_]:
    """bool (n,): rows that are not removed. Which of them cannot be read is told by inversion."""
    return index.active


def factor_problems(
    key: str, names: Iterable[str], index: Columns, kind: str = CATEGORICAL
) -> Problems:
    """Factors that the index does not have, or has as another kind."""
    for name in names:
        info = index.factors.get(name)
        if info is None:
            known = [n for n, f in index.factors.items() if f.kind == kind]
            yield (
                f"{key!r} names factor {name!r}, which the index does not have: "
                f"{_factor_cure(name, known, kind)}"
            )
        elif info.kind != kind:
            yield (
                f"{key!r} names factor {name!r}, which is {info.kind}, not {kind}: name another, "
                f"or list it under 'dataset.{kind}'"
            )


def _factor_cure(name: str, known: Sequence[str], kind: str) -> str:
    if known:
        return suggestion(name, known)
    return f"its table has no {kind} factor; name a table under 'dataset.factors'"


def level_problems(key: str, factor: str, levels: Iterable[str], index: Columns) -> Problems:
    """Levels of a categorical factor that no row has."""
    categories, there = index.categorical(factor)[1], present_levels(index, factor)
    for level in levels:
        if level_named(level, categories) not in there:
            cure = suggestion(level, there) if there else "no row has a level of it"
            yield f"{key!r} names level {level!r} of factor {factor!r}, which no row has: {cure}"


def level_code(index: Columns, factor: str, level: str) -> int:
    """Code of a factor's level by name."""
    categories = index.categorical(factor)[1]
    return categories.index(level_named(level, categories) or level)


def present_levels(index: Columns, factor: str) -> list[str]:
    """Levels of a categorical factor that rows have, in the order of its codes."""
    codes, categories = index.categorical(factor)
    counts = np.bincount(codes[active_rows(index) & (codes >= 0)], minlength=len(categories))
    return [name for name, n in zip(categories, counts.tolist(), strict=True) if n]


def attribute_problems(key: str, names: Iterable[str] | None, scores: list[Measured]) -> Problems:
    """Attributes that no annotator measures, or none at all to measure."""
    known = [name for m in scores for name in m.names]
    if not known:
        yield (
            f"{key.rpartition('.')[0]!r} needs measured attributes, and no annotator measures any: "
            "add a model of kind 'scores' under 'annotate'"
        )
        return
    for name in names or ():
        if not any(m.chosen([name]) for m in scores):
            yield f"{key!r} names {name!r}, which no annotator measures: {suggestion(name, known)}"


def label_problems(key: str, section: Any, measured: Iterable[Measured]) -> Problems:
    """Renders that are asked for by name and that their annotators do not measure."""
    if section.labels == "render" and "labels" in section.model_fields_set:
        for m in measured:
            if not m.render:
                yield (
                    f"{key!r} is 'render', and annotator {m.annotator!r} has 'render: false', so "
                    "only the images are measured: set the one to 'image' or the other to true"
                )


def style_problems(key: str, space: str, spaces: Collection[str]) -> Problems:
    """A space whose codes the affine layers of a style generator do not take; a generator without
    such layers. spaces : those of the generator, none where it is not known."""
    styled = [name for name in ("w", "w_plus") if name in spaces]
    if spaces and not styled:
        yield (
            f"{key!r} is of a style generator's layers, and this generator has the spaces "
            f"{list(spaces)!r} and no such layers: leave it out"
        )
    elif space not in ("w", "w_plus"):
        yield (
            f"'{key}.space' is {space!r}, but the layers' styles are made of 'w' and 'w_plus': "
            f"set '{key}.space' to one of these"
        )


def most_problems(key: str, own: Any, most: int, of: str) -> Problems:
    """A number that was given, not a default, and is larger than there is anything for."""
    name = key.rpartition(".")[2]
    if name in own.model_fields_set and getattr(own, name) > most:
        yield f"{key!r} is {getattr(own, name)!r}, more than {most!r} {of}: give at most {most!r}"


def threshold_problems(key: str, threshold: float, bounded: str | None) -> Problems:
    """A threshold that no score can be on both sides of.

    bounded : the activation that holds all scores within 0 to 1, if one does
    """
    if bounded is not None and not 0 <= threshold < 1:
        yield (
            f"{key!r} is {threshold!r}, but all scores lie in 0 to 1 (activation {bounded!r}): "
            "give a number between"
        )
