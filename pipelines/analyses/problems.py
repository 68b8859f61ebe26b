"""What an analysis asks for and its data cannot give, told before anything is computed.

Each function lists problems of one section of the specification, as text with key, value and cure.
A run asks all of them once its images are indexed (`pipelines.runs.check`), long before the first
fit; each fit asks its own again, of the store that there is then. Imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.analyses.known import (
    Problems,
    active_rows,
    attribute_problems,
    factor_problems,
    label_problems,
    level_code,
    level_problems,
    present_levels,
    refuse,
)
from pipelines.analyses.measured import Measured
from schemas.errors import DataError
from schemas.index import CATEGORICAL, CONTINUOUS, DatasetIndex
from schemas.sections.types import level_named
from schemas.spec import RunSpec
from schemas.spec_analyses import (
    HosvdSpec,
    JacobianSpec,
    MeanDifferenceSpec,
    NrsfmSpec,
    PcaSpec,
    SefaSpec,
    SSpaceSpec,
    SvmSpec,
)
from schemas.suggest import suggestion
from transforms.accumulate.cells import CellGrid, grid_cells, too_many_ranks


class Subject(Protocol):
    """What analyses are about: a store, or what is known of it before there is one."""

    @property
    def spec(self) -> RunSpec: ...

    @property
    def index(self) -> DatasetIndex: ...

    @property
    def space(self) -> str: ...

    @property
    def code_shape(self) -> tuple[int, ...]: ...

    def measurements(self, kind: str, labels: str = "render") -> list[Measured]:
        """Measurements of one kind, of the render where there is one (or of the image)."""


def space_problems(spec: RunSpec) -> Problems:
    """Analyses of another space than the one that the store holds."""
    for name in type(spec.analyse).model_fields:
        section = getattr(spec.analyse, name)
        space = getattr(section, "space", spec.invert.space)
        if space != spec.invert.space:
            default = "" if "space" in section.model_fields_set else " by default"
            yield (
                f"'analyse.{name}.space' is {space!r}{default}, but 'invert.space' is "
                f"{spec.invert.space!r}, and all codes of a run are of one space: set both alike"
            )


def layer_problems(
    layers: Literal["each"] | list[tuple[int, int]] | None, code_shape: tuple[int, ...]
) -> Problems:
    """Ranges of layers that codes of that shape do not have."""
    if layers is not None and len(code_shape) < 2:
        yield (
            f"'analyse.pca.layers' is {layers!r}, but codes of shape {code_shape!r} have no "
            "layers: leave it out, or invert into 'w_plus'"
        )
    elif isinstance(layers, list):
        beyond = [list(r) for r in layers if r[1] > code_shape[0]]
        if beyond:
            yield (
                f"'analyse.pca.layers' has ranges {beyond!r}, but codes have {code_shape[0]!r} "
                f"layers: end them at {code_shape[0]!r}"
            )


def pca_problems(subject: Subject, own: PcaSpec) -> Problems:
    """Layers that are not there; more components than rows or coordinates."""
    shape = subject.code_shape
    wrong = list(layer_problems(own.layers, shape))
    if wrong:
        yield from wrong
        return
    n_features = math.prod(shape)
    if own.layers is not None:
        ranges = [(0, 1)] if own.layers == "each" else own.layers
        n_features = min(stop - start for start, stop in ranges) * math.prod(shape[1:])
    n_rows = _n_rows(subject)
    if n_rows < 2:
        yield f"'analyse.pca' compares 2 rows or more, and there is {n_rows!r}: leave it out"
        return
    most = min(n_features, n_rows)
    if own.n_components is not None and "n_components" in own.model_fields_set:
        if own.n_components > most:
            yield (
                f"'analyse.pca.n_components' is {own.n_components!r}, but {n_rows!r} rows of "
                f"{n_features!r} coordinates have at most {most!r}: give at most as many, or null "
                "for all there are"
            )
    kept = most if own.n_components is None else min(own.n_components, most)
    if own.n_directions > kept and "n_directions" in own.model_fields_set:
        yield (
            f"'analyse.pca.n_directions' is {own.n_directions!r} of {kept!r} components: raise "
            "'n_components', or lower it"
        )


def mean_difference_problems(subject: Subject, own: MeanDifferenceSpec) -> Problems:
    """Names that are neither factors nor attributes, and factors with nothing to compare."""
    key, index = "analyse.mean_difference", subject.index
    levels_of = {
        n: present_levels(index, n) for n, f in index.factors.items() if f.kind == CATEGORICAL
    }
    scores = subject.measurements("scores")
    measured = {n for m in scores for n in (*m.names, *m.own)}
    known = [*index.factors, *(n for m in scores for n in m.names)]
    for name in own.factors or ():
        if name not in index.factors and name not in measured:
            cure = suggestion(name, known) if known else "name a table under 'dataset.factors'"
            yield f"'{key}.factors' names {name!r}, neither a factor nor a measured one: {cure}"
        elif name in levels_of and len(levels_of[name]) < 2 and name not in measured:
            yield (
                f"'{key}.factors' names factor {name!r}, of which the rows have "
                f"{levels_of[name]!r} and no other level to compare with: leave it out"
            )
        elif name in index.factors and name not in levels_of and not _varies(index, name):
            found = "one value in all rows" if _values(index, name).size else "no value in any row"
            yield f"'{key}.factors' names {name!r}, which has {found}: leave it out"
    hosvd = subject.spec.analyse.hosvd
    used = set(index.factors if own.factors is None else own.factors)
    used |= set() if hosvd is None else {n for mode in mode_names(hosvd) for n in mode}
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
        yield from _pair_problems(subject, own, factor)
    quantities = [n for n, f in index.factors.items() if f.kind == CONTINUOUS]
    if own.factors is None and not measured and not subject.measurements("pose"):
        if not any(len(levels) > 1 for levels in levels_of.values()):
            if not any(_varies(index, n) for n in quantities):
                yield (
                    f"{key!r} has nothing to compare: no factor varies over the rows and no "
                    "annotator measures scores or angles; name a table under 'dataset.factors', or "
                    "a model under 'annotate'"
                )


def _n_rows(subject: Subject) -> int:
    return int(active_rows(subject.index).sum())


def _varies(index: DatasetIndex, name: str) -> bool:
    values = _values(index, name)
    return bool(len(values)) and bool(values.min() < values.max())


def _values(index: DatasetIndex, name: str) -> NDArray[np.float64]:
    values = index.continuous(name)[active_rows(index)]
    return values[np.isfinite(values)]


def _pair_problems(subject: Subject, own: MeanDifferenceSpec, factor: str) -> Problems:
    """A factor of which no combination of 'pair_by' shows two levels."""
    others = [n for n in own.pair_by if n != factor]
    codes = {n: subject.index.categorical(n)[0] for n in (factor, *others)}
    if not others:
        return
    try:
        grid = grid_cells([[factor], others], codes, active_rows(subject.index))
    except DataError:  # no row has all of them
        paired = False
    else:
        filled = np.unique(grid.cells[grid.cells >= 0])
        paired = bool((np.bincount(filled % grid.shape[1]) > 1).any())
    if not paired and own.factors is not None:
        yield (
            f"'analyse.mean_difference.pair_by' compares levels within {others!r}, and within none "
            f"of these do rows have two levels of {factor!r}: leave 'pair_by' out, or name another"
        )


def svm_problems(subject: Subject, own: SvmSpec) -> Problems:
    """Attributes that nothing measures; more folds than there are rows or groups."""
    scores = subject.measurements("scores", own.labels)
    yield from attribute_problems("analyse.svm.attributes", own.attributes, scores)
    used = [m for m in scores if own.attributes is None or set(own.attributes) & set(m.names)]
    yield from label_problems("analyse.svm.labels", own, used)
    if own.folds is None:
        return
    factor, index = subject.spec.evaluate.holdout.factor, subject.index
    if factor is None or factor not in index.factors:
        n, what = _n_rows(subject), "rows"
    elif index.factors[factor].kind != CATEGORICAL:
        return  # told of 'evaluate.holdout.factor'
    else:
        n, what = len(present_levels(index, factor)), f"levels of factor {factor!r}"
    if own.folds > n:
        yield (
            f"'analyse.svm.folds' is {own.folds!r}, but there are {n!r} {what}, which stay whole: "
            "give fewer folds, or another 'evaluate.holdout.factor'"
        )


def mode_names(own: HosvdSpec) -> list[list[str]]:
    """Factors of each mode."""
    return [[m] if isinstance(m, str) else list(m) for m in own.modes]


def tensor_grid(subject: Subject, own: HosvdSpec) -> CellGrid:
    """The cells of the declared tensor. Raises DataError when no row is in any."""
    modes, where = mode_names(own), active_rows(subject.index).copy()
    for factor, levels in own.where.items():
        allowed = [level_code(subject.index, factor, level) for level in levels]
        where &= np.isin(subject.index.categorical(factor)[0], allowed)
    codes_of = {n: subject.index.categorical(n)[0] for mode in modes for n in mode}
    return grid_cells(modes, codes_of, where)


def hosvd_problems(subject: Subject, own: HosvdSpec) -> Problems:
    """Factors and levels that are not there, missing cells, more ranks or folds than levels."""
    key, index = "analyse.hosvd", subject.index
    wrong = list(factor_problems(f"{key}.modes", [n for m in mode_names(own) for n in m], index))
    for factor, levels in own.where.items():
        unknown = list(factor_problems(f"{key}.where", [factor], index))
        known = () if unknown else level_problems(f"{key}.where", factor, levels, index)
        wrong += [*unknown, *known]
    if own.stacked and len(subject.code_shape) == 1:
        wrong.append(
            f"'{key}.stacked' decomposes layers apart, and codes of space {subject.space!r} have "
            "none: leave it out, or invert into 'w_plus'"
        )
    if wrong:
        yield from wrong
        return
    try:
        grid = tensor_grid(subject, own)
    except DataError:
        yield (
            f"'{key}.modes' and 'where' leave no row that has a level of every factor in "
            f"{own.modes!r}: name fewer factors, or more levels under 'where'"
        )
        return
    yield from pair_problems(index, grid, own)
    filled = np.unique(grid.cells[grid.cells >= 0])
    yield from cell_problems(index, grid, filled, own.missing)
    n_first = grid.shape[0]
    if own.missing == "drop_person":
        n_first = int(_complete_levels(grid, filled).sum())
        if n_first < 2:
            return  # told with the cells
    if own.folds:
        fit = [f for f in range(2, n_first + 1) if n_first - -(-n_first // f) >= 2]
        if own.folds not in fit:
            cure = f"{fit[0]!r} to {fit[-1]!r}, or 0 for none" if fit else "0"
            yield (
                f"'{key}.folds' is {own.folds!r} for {n_first!r} levels of the first mode, of "
                f"which 2 or more must stay in each model: give {cure}"
            )
            return
        n_first -= -(-n_first // own.folds)
    if own.missing == "complete" and (len(filled) < grid.n_cells or own.repeats == "weighted"):
        too_many = too_many_ranks(own.ranks, len(filled))
        if too_many is not None:
            yield f"'{key}.missing' is 'complete', and {too_many}"
    for i, rank in enumerate(own.ranks or ()):
        n = n_first if i == 0 else grid.shape[i]
        if rank is not None and rank > n:
            folds = " outside a fold" if i == 0 and own.folds else ""
            yield (
                f"'{key}.ranks' has {rank!r} for mode {'/'.join(grid.modes[i])!r}, which has "
                f"{n!r} levels{folds}: give at most {n!r}, or null to leave it to 'energy'"
            )


def pair_problems(index: DatasetIndex, grid: CellGrid, own: HosvdSpec) -> Problems:
    """Pairs of levels of which the tensor lacks one, or that are one level twice."""
    for factor, pairs in own.pairs.items():
        mode = next(i for i, names in enumerate(grid.modes) if factor in names)
        codes = grid.levels[mode][:, grid.modes[mode].index(factor)]
        categories = index.categorical(factor)[1]
        there = [categories[code] for code in np.unique(codes).tolist()]
        for first, second in pairs:
            if first == second:
                yield f"'analyse.hosvd.pairs' pairs level {first!r} with itself: name two levels"
        for level in dict.fromkeys(level for pair in pairs for level in pair):
            if level_named(level, categories) not in there:
                yield (
                    f"'analyse.hosvd.pairs' names level {level!r} of factor {factor!r}, which is "
                    f"without cells in the tensor: {suggestion(level, there)}"
                )


def cell_problems(
    index: DatasetIndex, grid: CellGrid, filled: NDArray[np.int64], missing: str
) -> Problems:
    """Cells that no row is in, where these are not asked to be completed.

    filled : the cells that have a row, ascending
    """
    empty = grid.n_cells - len(filled)
    if not empty or missing == "complete":
        return
    complete = int(_complete_levels(grid, filled).sum())
    first, of_levels = "/".join(grid.modes[0]), f"{complete} of {grid.shape[0]} levels"
    if missing == "error":
        drop = (
            f", or to 'drop_person', which keeps {of_levels} of {first!r}" if complete > 1 else ""
        )
        gap = np.flatnonzero(filled != np.arange(len(filled)))
        at = np.unravel_index(int(gap[0]) if len(gap) else len(filled), grid.shape)
        names = {n: index.categorical(n)[1] for mode in grid.modes for n in mode}
        example = [grid.level_names(i, names)[int(level)] for i, level in enumerate(at)]
        yield (
            f"'analyse.hosvd.missing' is 'error', but {empty!r} of {grid.n_cells!r} cells have no "
            f"row, the first {example!r}: set it to 'complete'{drop}; or choose levels that have "
            "all under 'where'"
        )
    elif complete < 2:
        yield (
            f"'analyse.hosvd.missing' is 'drop_person', but {of_levels} of {first!r} have every "
            "cell and 2 are needed: set it to 'complete', or choose fewer levels of the other "
            "modes under 'where'"
        )


def _complete_levels(grid: CellGrid, filled: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Levels of the first mode that have every cell."""
    rest = grid.n_cells // grid.shape[0]
    return np.bincount(filled // rest, minlength=grid.shape[0]) == rest


LANDMARKS_NEEDED = 4
FRAMES_NEEDED = 3
MOST_MOTIONS = 23  # principal shapes of a sequence: its cosines but the constant one


def landmark_problems(name: str, every: list[Measured]) -> Problems:
    """A name that is none of the models of landmarks."""
    known = [m.annotator for m in every]
    if name not in known:
        cure = suggestion(name, known) if known else "add one to 'annotate'"
        yield f"'analyse.nrsfm.landmarks' is {name!r}, no model of kind 'landmarks': {cure}"


def nrsfm_problems(subject: Subject, own: NrsfmSpec) -> Problems:
    """A model that gives no landmarks; more basis shapes than they can tell; too few rows."""
    key, n_rows = "analyse.nrsfm", _n_rows(subject)
    every = subject.measurements("landmarks", own.labels)
    wrong = list(landmark_problems(own.landmarks, every))
    if wrong:
        yield from wrong
        return
    chosen = [m for m in every if m.annotator == own.landmarks]
    yield from label_problems(f"{key}.labels", own, chosen)
    n_points = len(chosen[0].names)
    if n_points < LANDMARKS_NEEDED or n_rows < FRAMES_NEEDED:
        yield (
            f"{key!r} has {n_points!r} landmarks in {n_rows!r} rows, and a 3D shape needs at least "
            f"{LANDMARKS_NEEDED} in {FRAMES_NEEDED}: use another landmark model or more images, or "
            "leave it out"
        )
        return
    most = min(MOST_MOTIONS, n_rows - 1) if own.temporal else n_points - LANDMARKS_NEEDED
    if own.n_shapes > most and not (own.temporal and "n_shapes" not in own.model_fields_set):
        default = "" if "n_shapes" in own.model_fields_set else " by default"
        of = f"a sequence of {n_rows!r} rows" if own.temporal else f"{n_points!r} landmarks"
        yield (
            f"'{key}.n_shapes' is {own.n_shapes!r}{default}, but {of} can tell at most {most!r}: "
            "lower it"
        )


def sefa_problems(subject: Subject, own: SefaSpec) -> Problems:
    """Rows of w_plus that are not there; more components than the latent has coordinates."""
    key, shape = "analyse.sefa", subject.code_shape
    if own.layers is not None and len(shape) == 1:
        yield (
            f"'{key}.layers' is {own.layers!r}, but codes of space {subject.space!r} have no "
            "layers: leave it out, or invert into 'w_plus'"
        )
    elif own.layers is not None:
        beyond = [layer for layer in own.layers if not 0 <= layer < shape[0]]
        last = shape[0] - 1  # drives the last output of pixels alone, whose weights are left out
        if beyond or set(own.layers) == {last}:
            yield (
                f"'{key}.layers' has {beyond or own.layers!r}, but of the {shape[0]!r} layers of a "
                f"code {[0, last - 1]!r} and those between drive styles: give some of these"
            )
    yield from _most(f"{key}.n_components", own, shape[-1], "coordinates of a layer's code")


def jacobian_problems(subject: Subject, own: JacobianSpec) -> Problems:
    """More codes than rows; more directions than a code has coordinates."""
    key, n_rows = "analyse.jacobian", _n_rows(subject)
    dimension = math.prod(subject.code_shape)
    yield from _most(f"{key}.samples", own, n_rows, "rows")
    yield from _most(f"{key}.n_components", own, dimension, "coordinates of a code")
    if own.region is None:
        if "background_rank" in own.model_fields_set:
            yield (
                f"'{key}.background_rank' is {own.background_rank!r}, but there is no background "
                "without 'region': give a region, or leave it out"
            )
        return
    left = max(dimension - own.n_components, 0)
    yield from _most(
        f"{key}.background_rank",
        own,
        left,
        "coordinates that 'n_components' leaves",
    )


def s_space_problems(subject: Subject, own: SSpaceSpec) -> Problems:
    """Attributes that nothing measures."""
    scores = subject.measurements("scores")
    yield from attribute_problems("analyse.s_space.attributes", own.attributes, scores)


def _most(key: str, own: Any, most: int, of: str) -> Problems:
    """A number that was given, not a default, and is larger than there is anything for."""
    name = key.rpartition(".")[2]
    if name in own.model_fields_set and getattr(own, name) > most:
        yield f"{key!r} is {getattr(own, name)!r}, more than {most!r} {of}: give at most {most!r}"


PROBLEMS: Mapping[str, Callable[[Subject, Any], Problems]] = {
    "pca": pca_problems,
    "mean_difference": mean_difference_problems,
    "svm": svm_problems,
    "hosvd": hosvd_problems,
    "nrsfm": nrsfm_problems,
    "sefa": sefa_problems,
    "jacobian": jacobian_problems,
    "s_space": s_space_problems,
}
"""Of every analysis, by the section of the specification that it is given."""


def check_analysis(subject: Subject, name: str) -> None:
    """Raise SpecError when the data cannot give what an analysis' section asks for."""
    refuse(PROBLEMS[name](subject, getattr(subject.spec.analyse, name)))
