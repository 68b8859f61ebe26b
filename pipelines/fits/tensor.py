"""The tensor model over declared factors, and a direction for every level of a factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.fits.inputs import Fitted, Inputs, categorical, level_code, target_of
from schemas.direction import Direction
from schemas.index import DatasetIndex
from transforms.cells import CellGrid, grid_cells
from transforms.hosvd import HOSVD, HOSVDSolver, hosvd, tensor_of_cells
from transforms.hosvd_passes import SlabCells
from transforms.requests import CountsOfCells, SumsOfCells


def fit_hosvd(inputs: Inputs) -> Fitted:
    """The tensor model over the declared modes, and a direction for every level of a factor.

    A factor's level is the mean over the composite levels that contain it; it is compared with
    the baseline level that `mean_difference.baseline` names, or else with the mean of the others.
    The first mode (persons) gives no directions.
    """
    wanted = inputs.spec.analyse.hosvd
    names = [[m] if isinstance(m, str) else list(m) for m in wanted.modes]
    codes = categorical(inputs.index, [n for mode in names for n in mode])
    where = inputs.index.active.copy()
    for factor, levels in wanted.where.items():
        allowed = [level_code(inputs.index, factor, level) for level in levels]
        where &= np.isin(categorical(inputs.index, [factor])[factor], allowed)
    grid = grid_cells(names, codes, where)
    columns = {"cells": grid.cells}
    counted = inputs.engine.sum(inputs.blocks(columns=columns), CountsOfCells())
    counts = counted.dense(grid.n_cells)[1]
    if (counts > 0).all():
        slabs = SlabCells(tuple(inputs.slabs(columns)), grid.shape)
        full = inputs.engine.run(HOSVDSolver(wanted.standardise), slabs).model()
    else:  # what to do about missing cells is decided on the whole tensor
        sums = inputs.engine.sum(inputs.blocks(columns=columns), SumsOfCells())
        tensor, _ = tensor_of_cells(sums, grid)
        full = hosvd(tensor, standardise=wanted.standardise, missing=wanted.missing)
    ranks = _ranks(wanted.ranks, full, wanted.energy)
    model = full.truncate(ranks)
    out = Fitted(
        facts={
            "modes": names,
            "levels": [level_names(inputs.index, grid, i) for i in range(len(names))],
            "ranks": list(model.ranks),
            "shape": list(model.shape),
            "relative_error": model.relative_error,
            "cells": int(counts.size),
            "missing_cells": int((counts == 0).sum()),
            "rows": int(counts.sum()),
            "repeated_cells": int((counts > 1).sum()),
        }
    )
    for i, (factor, energy) in enumerate(zip(full.factors, full.energies, strict=True)):
        out.arrays[f"factor{i}"] = factor
        out.arrays[f"energies{i}"] = energy
        out.arrays[f"kept{i}"] = full.kept[i]
        out.arrays[f"subspace{i}"] = full.subspace_coordinates(i, 3)
    out.arrays |= {"core": full.core, "mean": full.mean, "scale": full.scale}
    measured = {n for m in inputs.measurements("scores") for n in m.names}
    for mode in range(1, len(names)):
        for position, factor in enumerate(names[mode]):
            _hosvd_directions(inputs, model, grid, mode, position, factor, measured, out)
    return out


def _ranks(given: Sequence[int | None] | None, full: HOSVD, energy: float) -> tuple[int, ...]:
    by_energy = full.truncate(energy=energy).ranks
    if given is None:
        return by_energy
    return tuple(e if r is None else r for r, e in zip(given, by_energy, strict=True))


def level_names(index: DatasetIndex, grid: CellGrid, mode: int) -> list[str]:
    """Names of a mode's levels, parts of a composite joined by '/'."""
    categories = {n: index.categorical(n)[1] for n in grid.modes[mode]}
    return grid.level_names(mode, categories)


def _hosvd_directions(
    inputs: Inputs,
    model: HOSVD,
    grid: CellGrid,
    mode: int,
    position: int,
    factor: str,
    measured: set[str],
    out: Fitted,
) -> None:
    kept = grid.levels[mode][model.kept[mode]][:, position]
    md = inputs.spec.analyse.mean_difference
    baseline = md.baseline.get(factor) if md is not None else None
    reference = None if baseline is None else level_code(inputs.index, factor, baseline)
    categories = inputs.index.categorical(factor)[1]
    present = np.unique(kept)
    if len(present) < 2 or (len(grid.modes[mode]) > 1 and position > 0):
        return
    for code in present.tolist():
        if code == reference:
            continue
        inside = kept == code
        other = kept == reference if reference is not None else ~inside
        parameters = model.mean_parameters()
        u = model.factors[mode]
        parameters[mode] = u[inside].mean(axis=0) - u[other].mean(axis=0)
        vector = model.contract(parameters)
        if not vector.any():
            continue
        level = categories[code]
        target = target_of(level, factor, measured)
        out.directions.append(
            inputs.direction(
                f"hosvd.{target or f'{factor}-{level}'}",
                vector,
                "hosvd",
                target,
                quality={"ranks": list(model.ranks), "norm": float(np.linalg.norm(vector))},
                provenance={"factor": factor, "level": level, "baseline": baseline},
            )
        )


def compare(directions: Mapping[str, Direction], ranks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """HOSVD beside mean difference for every level that has both: their cosine."""
    rows = []
    for name, direction in directions.items():
        if direction.method != "hosvd":
            continue
        other = directions.get("mean." + name.removeprefix("hosvd."))
        if other is not None:
            rows.append(
                {
                    "name": name.removeprefix("hosvd."),
                    "hosvd": name,
                    "mean_difference": other.name,
                    "cosine": float((direction.vector * other.vector).sum()),
                    "ranks": dict(ranks),
                }
            )
    return rows
