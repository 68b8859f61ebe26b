"""Mean differences of factor levels and measured attributes, regressions on what is continuous."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.analyses.checks import REGRESSED_FEATURES, level_code
from pipelines.analyses.inputs import (
    Data,
    Fitted,
    Measured,
    categorical,
    hold_out,
    target_of,
)
from pipelines.analyses.labels import Labels, Targets
from schemas.errors import DataError
from schemas.index import CATEGORICAL, CONTINUOUS
from schemas.sections.mean_difference import MeanDifferenceSpec
from transforms.accumulate.blocks import PIPELINES, Arrays, BlockSource, Sums
from transforms.accumulate.factor_cells import grid_cells
from transforms.accumulate.moments import Moments
from transforms.accumulate.requests import JointMoments, SumsOfCells
from transforms.directions.mean_difference import r2_on, solve_mean_differences, solve_regressions


@dataclass(frozen=True)
class LabelSums:
    """Sums and counts of x (m, D) over the positive and the negative side of every label y."""

    kind = f"{PIPELINES}.fits.differences.LabelSums"

    token: str = "x-y"

    def prepare(self, arrays: Arrays) -> Arrays:
        """Codes and labels."""
        return {"x": arrays["x"], "y": arrays["y"]}

    def statistic(self, prepared: Arrays) -> Sums:
        """Named sums of the block."""
        x, y = prepared["x"].astype(np.float64), prepared["y"]
        positive, negative = (y > 0).astype(np.float64), (y < 0).astype(np.float64)
        return Sums(
            {
                "positive": positive.T @ x,
                "negative": negative.T @ x,
                "n_positive": positive.sum(axis=0),
                "n_negative": negative.sum(axis=0),
            }
        )


def fit_mean_differences(data: Data, wanted: MeanDifferenceSpec) -> Fitted:
    """A direction for every level of the chosen factors, every attribute, every quantity.

    Quantities are measured angles and numbers, and continuous factors (age): their directions are
    regressions.
    What too few rows show, or were measured in, has no direction: the fact ``skipped`` says why.
    Raises DataError where nothing is left.
    """
    out = Fitted(facts={"factors": {}, "attributes": {}})
    measured = set(data.parameter("attributes"))
    factors = [n for n, f in data.factors.items() if f.kind == CATEGORICAL]
    quantities = [n for n, f in data.factors.items() if f.kind == CONTINUOUS]
    every = [*factors, *quantities, *sorted(measured)]
    chosen = wanted.factors if wanted.factors is not None else every
    skipped: dict[str, str] = {}
    for factor in (f for f in chosen if f in factors):
        with _told(skipped, factor):
            skipped |= _factor_differences(data, wanted, factor, measured, out)
    attributes = None if wanted.factors is None else set(chosen) - set(factors)
    for m in data.measurements("scores"):
        if columns := m.chosen(attributes):
            skipped |= _label_differences(data, m, columns, out)
    for m in (*data.measurements("pose"), *data.measurements("quantities")):
        with _told(skipped, *m.names):
            _measured_regressions(data, wanted, m, out)
    for name in quantities:
        if name in chosen:
            with _told(skipped, name):
                _factor_regression(data, wanted, name, out)
    if not out.directions:
        of_table = any(name in data.factors for name in chosen)
        why = ", no factor has two levels with rows" if of_table else ""
        cure = "correct the factor table, give more rows" if of_table else "give more rows"
        raise DataError(
            f"nothing is to be compared{why}: {skipped or chosen!r}; {cure}, or leave "
            "'mean_difference' out"
        )
    if skipped:
        out.facts["skipped"] = skipped
    return out


@contextmanager
def _told(skipped: dict[str, str], *names: str) -> Iterator[None]:
    """Too few rows for one of several is told in the facts, and stops nothing."""
    try:
        yield
    except DataError as e:
        skipped |= dict.fromkeys(names, str(e))


def _factor_differences(
    data: Data, wanted: MeanDifferenceSpec, factor: str, measured: set[str], out: Fitted
) -> dict[str, str]:
    """Adds the directions of a factor's levels; returns which levels have none, and why."""
    categories = data.categorical(factor)[1]
    baseline = wanted.baseline.get(factor)
    pair_by = [n for n in wanted.pair_by if n != factor]
    modes = [factor, *pair_by]
    grid = grid_cells(modes, categorical(data, modes))
    if grid.shape[0] < 2:
        return {factor: f"{grid.shape[0]} level of it has rows, at least 2 are compared"}
    skipped: dict[str, str] = {}
    sums = data.engine.sum(data.blocks(columns={"cells": grid.cells}), SumsOfCells())
    reference = None if baseline is None else level_code(data, factor, baseline)
    found = solve_mean_differences(sums, grid, reference, paired=bool(pair_by))
    levels = [categories[code] for (code,) in found.levels.tolist()]
    targets = [target_of(level, factor, measured) for level in levels]
    taken = {d.name for d in out.directions}
    texts = [
        f"mean.{target}" if target and f"mean.{target}" not in taken else f"mean.{factor}-{level}"
        for level, target in zip(levels, targets, strict=True)
    ]
    called = out.names_for(texts)
    for i, (level, target, vector) in enumerate(zip(levels, targets, found.vectors, strict=True)):
        if not np.isfinite(vector).all() or not vector.any():
            if level != baseline:
                skipped[f"{factor}-{level}"] = (
                    f"{found.n_level[i]} rows of it have codes, and {found.n_pairs[i]} pairs"
                    if pair_by
                    else f"{found.n_level[i]} rows of it and {found.n_reference[i]} to compare with"
                )
            continue
        quality = {"rows": int(found.n_level[i]), "norm": float(np.linalg.norm(vector))}
        facts = {"factor": factor, "level": level, "baseline": baseline}
        if pair_by:
            quality |= {"pairs": int(found.n_pairs[i]), "agreement": float(found.agreement[i])}
            facts["pair_by"] = pair_by
        out.directions.append(
            data.direction(
                called[i], vector, "mean_difference", target, quality=quality, provenance=facts
            )
        )
        out.keep(f"difference-{factor}-{level}", vector)
    out.facts["factors"][factor] = {"baseline": baseline, "levels": list(categories)}
    return skipped


def _label_differences(
    data: Data, m: Measured, columns: Sequence[int], out: Fitted
) -> dict[str, str]:
    """Adds the directions of these columns; returns which attributes have none, and why."""
    threshold = data.parameter("threshold")
    source = data.blocks(m, Labels(tuple(range(len(m.names))), threshold))
    sums = data.engine.sum(source, LabelSums())
    taken = {d.name for d in out.directions}
    called = out.names_for(
        [f"mean.{n}" if f"mean.{n}" not in taken else f"mean.{n}-measured" for n in m.names]
    )
    skipped = {}
    for i, name in enumerate(m.names):
        n = (int(sums["n_positive"][i]), int(sums["n_negative"][i]))
        out.facts["attributes"][name] = {"positive": n[0], "negative": n[1]}
        if i not in columns:
            continue
        if min(n) == 0:
            skipped[name] = f"{n[0]} positive and {n[1]} negative rows"
            continue
        vector = sums["positive"][i] / n[0] - sums["negative"][i] / n[1]
        quality = {"positive": n[0], "negative": n[1], "norm": float(np.linalg.norm(vector))}
        facts = {"labels": m.array, "threshold": threshold}
        out.directions.append(
            data.direction(
                called[i], vector, "mean_difference", name, quality=quality, provenance=facts
            )
        )
    return skipped


def _measured_regressions(data: Data, wanted: MeanDifferenceSpec, m: Measured, out: Fitted) -> None:
    targets = Targets(tuple(range(len(m.names))))

    def blocks(where: np.ndarray | None = None) -> BlockSource:
        return data.blocks(m, targets, where=where)

    _regressions(data, wanted, blocks, m.names, {"targets": m.array}, out)


def _factor_regression(data: Data, wanted: MeanDifferenceSpec, name: str, out: Fitted) -> None:
    """Each continuous factor by itself: those of one dataset are often functions of one another."""
    values = data.continuous(name)[:, None]
    if np.unique(values[np.isfinite(values)]).size < 2:
        raise DataError("it has fewer than two values")

    def blocks(where: np.ndarray | None = None) -> BlockSource:
        return data.blocks(columns={"targets": values}, where=where)

    taken = {d.name for d in out.directions}
    label = name if f"linear.{name}" not in taken else f"{name}-factor"
    _regressions(data, wanted, blocks, (label,), {"factor": name}, out)


def _held_out(data: Data) -> np.ndarray:
    """Bool (n_rows,): rows on which a fit to the others is measured."""
    holdout, seed = data.parameter("evaluate.holdout"), data.parameter("evaluate.seed")
    return hold_out(data, holdout["factor"], holdout["fraction"], seed)


def _regressions(
    data: Data,
    wanted: MeanDifferenceSpec,
    blocks: Callable[..., BlockSource],
    names: Sequence[str],
    facts: dict[str, str],
    out: Fitted,
) -> None:
    width = math.prod(data.code_shape)
    if width > REGRESSED_FEATURES:
        raise DataError(
            f"a code of space {data.space!r} has {width} coordinates, and a regression solves for "
            f"at most {REGRESSED_FEATURES}"
        )
    joint = data.engine.sum(blocks(), JointMoments())
    found = solve_regressions(joint, len(names), wanted.ridge)
    held_out: list[dict[str, Any]] = [{}] * len(names)
    if wanted.held_out:
        unseen = data.engine.sum(blocks(_held_out(data)), JointMoments())
        held_out = _r2_held_out(joint, unseen, len(names), wanted.ridge)
    called = out.names_for([f"linear.{name}" for name in names])
    for i, name in enumerate(names):
        quality = {"r2": float(found.r2[i]), "rows": int(found.n_rows), **held_out[i]}
        out.directions.append(
            data.direction(
                called[i], found.slopes[i], "regression", name, quality=quality, provenance=facts
            )
        )
        out.keep(f"ridge-{name}", np.append(found.coefficients[i], found.intercepts[i]))


def _r2_held_out(
    every: Moments, unseen: Moments, n_targets: int, ridge: float
) -> list[dict[str, Any]]:
    """Of each target the R2 on held-out rows of a fit to the others; {} where too few are."""
    found = np.full(n_targets, np.nan)
    if unseen.count >= 2:
        with suppress(DataError):
            found = r2_on(unseen, solve_regressions(every.without(unseen), n_targets, ridge))
    return [
        {"held_out_r2": float(r2), "held_out_rows": int(unseen.count)} if np.isfinite(r2) else {}
        for r2 in found
    ]
