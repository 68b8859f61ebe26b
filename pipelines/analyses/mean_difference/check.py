"""What 'analyse.mean_difference' asks for and the data cannot give."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.analyses.base import Known
from pipelines.analyses.checks import (
    Columns,
    Problems,
    active_rows,
    factor_problems,
    level_problems,
    present_levels,
)
from schemas.errors import DataError
from schemas.index import CATEGORICAL, CONTINUOUS
from schemas.sections.mean_difference import MeanDifferenceSpec
from schemas.suggest import suggestion
from transforms.accumulate.factor_cells import grid_cells


def mean_difference_problems(known: Known, own: MeanDifferenceSpec) -> Problems:
    """Names that are neither factors nor attributes, and factors with nothing to compare."""
    key, index = "analyse.mean_difference", known.index
    levels_of = {
        n: present_levels(index, n) for n, f in index.factors.items() if f.kind == CATEGORICAL
    }
    scores = known.measurements("scores")
    measured = {n for m in scores for n in (*m.names, *m.own)}
    names = [*index.factors, *(n for m in scores for n in m.names)]
    for name in own.factors or ():
        if name not in index.factors and name not in measured:
            cure = suggestion(name, names) if names else "name a table under 'dataset.factors'"
            yield f"'{key}.factors' names {name!r}, neither a factor nor a measured one: {cure}"
        elif name in levels_of and len(levels_of[name]) < 2 and name not in measured:
            yield (
                f"'{key}.factors' names factor {name!r}, of which the rows have "
                f"{levels_of[name]!r} and no other level to compare with: leave it out"
            )
        elif name in index.factors and name not in levels_of and not _varies(index, name):
            found = "one value in all rows" if _values(index, name).size else "no value in any row"
            yield f"'{key}.factors' names {name!r}, which has {found}: leave it out"
    hosvd = known.spec.analyse.hosvd
    used = set(index.factors if own.factors is None else own.factors)
    used |= set() if hosvd is None else {n for mode in hosvd.mode_names for n in mode}
    for factor, level in own.baseline.items():
        wrong = list(factor_problems(f"{key}.baseline", [factor], index))
        if not wrong and factor not in used:
            wrong = [
                f"'{key}.baseline' gives a level of {factor!r}, which '{key}.factors' leaves out: "
                "add it there, or take it out here"
            ]
        yield from wrong or level_problems(f"{key}.baseline", factor, [level], index)
    wrong = list(factor_problems(f"{key}.pair_by", own.pair_by, index))
    yield from wrong
    chosen = [n for n in (levels_of if own.factors is None else own.factors) if n in levels_of]
    for factor in chosen if own.pair_by and not wrong else ():
        yield from _pair_problems(known, own, factor)
    quantities = [n for n, f in index.factors.items() if f.kind == CONTINUOUS]
    if own.factors is None and not measured and not _quantities(known):
        if not any(len(levels) > 1 for levels in levels_of.values()):
            if not any(_varies(index, n) for n in quantities):
                yield (
                    f"{key!r} has nothing to compare: no factor varies over the rows and no "
                    "annotator measures scores, angles or quantities; name a table under "
                    "'dataset.factors', or a model under 'annotate'"
                )


def _quantities(known: Known) -> bool:
    return any(known.measurements(role) for role in ("pose", "quantities"))


def _varies(index: Columns, name: str) -> bool:
    values = _values(index, name)
    return bool(len(values)) and bool(values.min() < values.max())


def _values(index: Columns, name: str) -> NDArray[np.float64]:
    values = index.continuous(name)[active_rows(index)]
    return values[np.isfinite(values)]


def _pair_problems(known: Known, own: MeanDifferenceSpec, factor: str) -> Problems:
    """A factor of which no combination of 'pair_by' shows two levels."""
    others = [n for n in own.pair_by if n != factor]
    codes = {n: known.index.categorical(n)[0] for n in (factor, *others)}
    if not others:
        return
    try:
        grid = grid_cells([[factor], others], codes, active_rows(known.index))
    except DataError:  # no row has all of them
        paired = False
    else:
        paired = bool((np.bincount(grid.filled % grid.shape[1]) > 1).any())
    if not paired and own.factors is not None:
        yield (
            f"'analyse.mean_difference.pair_by' compares levels within {others!r}, and within none "
            f"of these do rows have two levels of {factor!r}: leave 'pair_by' out, or name another"
        )
