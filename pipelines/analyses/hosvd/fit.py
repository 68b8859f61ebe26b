"""The tensor model over declared factors, and a direction for every level of a factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.analyses.checks import Columns, level_code
from pipelines.analyses.hosvd.check import cell_problems, pair_problems, tensor_grid
from pipelines.analyses.inputs import Data, Fitted, target_of
from schemas.errors import DataError
from schemas.sections.hosvd import HosvdSpec
from transforms.accumulate.blocks import BlockSource, sum_in_order
from transforms.accumulate.factor_cells import CellGrid
from transforms.accumulate.requests import CountsOfCells
from transforms.hosvd.complete import Completion, FilledSlabs, cell_weights
from transforms.hosvd.levels import apathy_parameters
from transforms.hosvd.passes import ModeGrams, SlabCells, solve_modes, split_slabs
from transforms.hosvd.solve import HOSVD, HOSVDSolver
from transforms.hosvd.stacked import StackedHOSVD, StackedSolver
from transforms.hosvd.validate import choose_penalties, validation_folds

CORE_BYTES = 1 << 28
"""Largest core of full rank that is computed and stored, so that other ranks cost no pass."""

VALIDATION_ROWS = 256
"""Most rows of a fold whose parameters are recovered."""

Ranks = tuple[list[int | None] | None, float | None]
"""Ranks of the modes, and the share of energy that decides those not given."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A declared tensor of a store.

    grid : its cells, without dropped levels
    counts : int64 (n_cells,), usable rows of each cell of `grid`
    all_counts : the same of the tensor as declared
    """

    data: Data
    wanted: HosvdSpec
    grid: CellGrid
    counts: np.ndarray
    all_counts: np.ndarray

    @property
    def names(self) -> list[list[str]]:
        """Factors of each mode."""
        return [list(m) for m in self.grid.modes]

    def without(self, levels: np.ndarray) -> Tensor:
        """The tensor without some levels of the first mode."""
        kept = np.ones(len(self.grid.levels[0]), bool)
        kept[levels] = False
        counts = self.counts.reshape(len(kept), -1)[kept].ravel()
        grid = self.grid.keep_first(kept)
        return Tensor(self.data, self.wanted, grid, counts, self.all_counts)

    @property
    def full(self) -> bool:
        """Whether the core of full rank is small enough to have."""
        return 8 * int(np.prod(self.data.code_shape)) * self.grid.n_cells <= CORE_BYTES

    def slabs(self) -> tuple[BlockSource, tuple[int, ...], dict[str, Any]]:
        """(slabs, filled where asked for; each slab's layer; facts of the filling)."""
        wanted, missing = self.wanted, bool((self.counts == 0).any())
        layers = self.data.slabs({"cells": self.grid.cells})
        parts = split_slabs(layers, self.data.width, self.grid.n_cells)
        styles = tuple(np.repeat(range(len(layers)), len(parts) // len(layers)).tolist())
        source: BlockSource = SlabCells(parts, self.grid.shape, partial=missing)
        if not missing and wanted.repeats == "mean":
            return source, styles, {}
        weights = cell_weights(self.counts.reshape(self.grid.shape), wanted.repeats)
        solver = Completion(weights, *self.ranks, wanted.standardise)
        done = self.data.engine.run(solver, source)
        facts = {"ranks": [u.shape[1] for u in done.fill.factors or ()], **done.facts()}
        return FilledSlabs(source, done.fill), styles, facts

    @property
    def ranks(self) -> Ranks:
        """Ranks and share of energy asked for; no share where every rank is given."""
        ranks = self.wanted.ranks
        given = ranks is not None and None not in ranks
        return ranks, None if given else self.wanted.energy

    @property
    def solved_ranks(self) -> Ranks:
        """Ranks and share of energy to solve for: all of them where that is small."""
        return (None, None) if self.full else self.ranks

    def solve(self) -> tuple[HOSVD, ModeGrams, dict[str, Any]]:
        """(the model of all layers, of full rank where that is small; its Grams; facts)."""
        source, _, facts = self.slabs()
        solver = HOSVDSolver(self.wanted.standardise, *self.solved_ranks)
        done = self.data.engine.run(solver, source)
        return done.model(), done.grams, facts

    def solve_stacked(self) -> tuple[StackedHOSVD, ModeGrams, dict[str, Any]]:
        """As `solve`, every layer apart; its Grams are those over all layers."""
        source, styles, facts = self.slabs()
        solver = StackedSolver(styles, self.wanted.standardise, *self.solved_ranks)
        done = self.data.engine.run(solver, source)
        return done.model(), sum_in_order(done.grams), facts


def declare_tensor(data: Data, wanted: HosvdSpec) -> Tensor:
    """The tensor as declared; DataError where it lacks cells under missing: error."""
    grid = tensor_grid(data, wanted)
    counted = data.engine.sum(data.blocks(columns={"cells": grid.cells}), CountsOfCells())
    counts = counted.dense(grid.n_cells)[1]
    tensor = Tensor(data, wanted, grid, counts, counts)
    filled = np.flatnonzero(counts)  # fewer than before inversion, where rows cannot be read
    for problem in cell_problems(data, grid, filled, wanted.missing):
        raise DataError(problem)
    for problem in pair_problems(data, grid, wanted):
        raise DataError(problem)
    if wanted.missing == "drop_person" and (counts == 0).any():
        lacking = (counts.reshape(len(grid.levels[0]), -1) == 0).any(axis=1)
        tensor = tensor.without(np.flatnonzero(lacking))
    return tensor


def fit_hosvd(data: Data, wanted: HosvdSpec) -> Fitted:
    """The tensor model over the declared modes, and a direction for every level of a factor.

    A factor's level is the mean over the composite levels that contain it; it is compared with
    the baseline level that `mean_difference.baseline` names, or else with the mean of the others.
    The first mode (persons) gives no directions.
    """
    tensor = declare_tensor(data, wanted)
    grid, counts = tensor.grid, tensor.all_counts
    full, grams, completion = tensor.solve_stacked() if wanted.stacked else tensor.solve()
    model = full.truncate(*tensor.ranks)
    out = Fitted(
        facts={
            "modes": tensor.names,
            "levels": [level_names(data, grid, i) for i in range(len(grid.modes))],
            "ranks": [list(r) if isinstance(r, tuple) else r for r in model.ranks],
            "shape": list(model.shape),
            "relative_error": model.relative_error,
            "cells": int(counts.size),
            "missing_cells": int((counts == 0).sum()),
            "rows": int(counts.sum()),
            "repeated_cells": int((counts > 1).sum()),
        }
    )
    if completion:
        out.facts["completion"] = completion
    if isinstance(model, StackedHOSVD):  # the report and the evaluation name one rank a mode
        out.facts["ranks_by_layer"] = out.facts["ranks"]
        out.facts["ranks"] = [int(max(r)) for r in zip(*model.ranks, strict=True)]
    if wanted.folds:
        out.facts["penalties"] = validate(tensor)
    _store_arrays(full, grams, out)
    measured = set(data.parameter("attributes"))
    for mode in range(1, len(grid.modes)):
        for position in range(len(grid.modes[mode])):
            factor = ModelFactor(data, wanted, model, grid, mode, position)
            _add_directions(data, factor.name, factor.levels() | factor.pairs(), measured, out)
        _add_apathy(model, grid, mode, out)
    return out


def _store_arrays(full: HOSVD | StackedHOSVD, grams: ModeGrams, out: Fitted) -> None:
    """Models by name; of a stacked one, each layer's with its number."""
    parts = full.models if isinstance(full, StackedHOSVD) else [full]
    for layer, part in enumerate(parts):
        suffix = f".{layer:02d}" if isinstance(full, StackedHOSVD) else ""
        for i, (factor, energy) in enumerate(zip(part.factors, part.energies, strict=True)):
            out.arrays[f"factor{i}{suffix}"] = factor
            out.arrays[f"energies{i}{suffix}"] = energy
        out.arrays |= {f"{name}{suffix}": getattr(part, name) for name in ("core", "mean", "scale")}
    for i, (factor, energy) in enumerate(zip(*solve_modes(grams), strict=True)):
        out.arrays[f"kept{i}"] = np.arange(len(factor))
        out.arrays[f"subspace{i}"] = factor[:, :3] * np.sqrt(energy[:3])


def level_names(index: Columns, grid: CellGrid, mode: int) -> list[str]:
    """Names of a mode's levels, parts of a composite joined by '/'."""
    categories = {n: index.categorical(n)[1] for n in grid.modes[mode]}
    return grid.level_names(mode, categories)


Vectors = dict[str, tuple[np.ndarray, dict[str, Any]]]


@dataclass(frozen=True, eq=False)
class ModelFactor:
    """The factor at a position of a mode of a tensor model: its vectors."""

    data: Data
    wanted: HosvdSpec
    model: HOSVD | StackedHOSVD
    grid: CellGrid
    mode: int
    position: int

    @property
    def name(self) -> str:
        """The factor's name."""
        return self.grid.modes[self.mode][self.position]

    @property
    def codes(self) -> np.ndarray:
        """Its level in each level of the mode."""
        return self.grid.levels[self.mode][:, self.position]

    def levels(self) -> Vectors:
        """Level -> (vector, provenance), for a factor that is its mode or leads a composite one."""
        codes, name = self.codes, self.name
        present = np.unique(codes)
        if len(present) < 2 or (len(self.grid.modes[self.mode]) > 1 and self.position > 0):
            return {}
        categories = self.data.categorical(name)[1]
        intensity = self.wanted.intensity.get(name)
        if intensity is not None:
            along = self.grid.mode_index(intensity)
            vectors, _ = self.model.intensity_directions(self.mode, along)
            facts: dict[str, Any] = {"factor": name, "intensity": intensity}
            return {
                categories[code]: (vector, facts | {"level": categories[code]})
                for code, vector in zip(codes.tolist(), vectors, strict=True)
            }
        baseline = self.data.parameter("baseline").get(name)
        reference = None if baseline is None else level_code(self.data, name, baseline)
        found: Vectors = {}
        for code in present.tolist():
            if code == reference:
                continue
            inside = codes == code
            other = codes == reference if reference is not None else ~inside
            facts = {"factor": name, "level": categories[code], "baseline": baseline}
            found[categories[code]] = (self.model.contrast(self.mode, inside, other), facts)
        return found

    def pairs(self) -> Vectors:
        """'<first>-to-<second>' -> (vector, provenance), of the pairs of levels asked for."""
        codes, name, found = self.codes, self.name, {}
        for first, second in self.wanted.pairs.get(name, ()):
            a, b = (codes == level_code(self.data, name, one) for one in (first, second))
            facts = {"factor": name, "level": second, "baseline": first}
            found[f"{first}-to-{second}"] = (self.model.contrast(self.mode, b, a), facts)
        return found


def _add_directions(
    data: Data, factor: str, vectors: Vectors, measured: set[str], out: Fitted
) -> None:
    targets = [target_of(label, factor, measured) for label in vectors]
    taken = {d.name for d in out.directions}
    texts = [
        f"hosvd.{target}"
        if target and f"hosvd.{target}" not in taken
        else f"hosvd.{factor}-{label}"
        for label, target in zip(vectors, targets, strict=True)
    ]
    called = out.names_for(texts)
    for name, target, (vector, facts) in zip(called, targets, vectors.values(), strict=True):
        if not vector.any():
            continue
        out.directions.append(
            data.direction(
                name,
                vector,
                "hosvd",
                target,
                quality={"ranks": out.facts["ranks"], "norm": float(np.linalg.norm(vector))},
                provenance=facts,
            )
        )


def _add_apathy(model: HOSVD | StackedHOSVD, grid: CellGrid, mode: int, out: Fitted) -> None:
    """The origin of a composite mode's trajectories, one for each level of its first factor."""
    if len(grid.modes[mode]) < 2:
        return
    leading = grid.levels[mode][:, 0]
    lines = [np.flatnonzero(leading == code).tolist() for code in np.unique(leading)]
    lines = [levels for levels in lines if len(levels) > 1]
    if len(lines) < 2:
        return
    codes = []
    for part in model.models if isinstance(model, StackedHOSVD) else [model]:
        parameters = part.mean_parameters()
        parameters[mode] = apathy_parameters(part, mode, lines)
        codes.append(part.code(parameters))
    out.arrays[f"apathy{mode}"] = np.concatenate(codes)


def validate(tensor: Tensor) -> dict[str, Any]:
    """Cross-validated penalties of parameter fits, with the errors of each (Paper I, IV.E)."""
    data = tensor.data
    rest = tensor.grid.n_cells // len(tensor.grid.levels[0])

    def fold(left_out: np.ndarray) -> tuple[HOSVD, np.ndarray, np.ndarray]:
        model = tensor.without(left_out).solve()[0].truncate(*tensor.ranks)
        out = np.isin(tensor.grid.cells // rest, left_out) & (tensor.grid.cells >= 0)
        rng = np.random.default_rng(np.random.SeedSequence([29, *left_out.tolist()]))
        chosen = np.zeros(len(out), bool)
        chosen[rng.permutation(np.flatnonzero(out))[:VALIDATION_ROWS]] = True
        source = data.blocks(columns={"cells": tensor.grid.cells}, where=chosen)
        read = [source.read(b)[1] for b in range(source.n_blocks)]
        rows = np.concatenate([r["x"] for r in read])
        cells = np.concatenate([r["cells"] for r in read])
        levels = np.stack(np.unravel_index(cells, tensor.grid.shape)[1:], axis=1)
        return model, rows, levels.reshape(len(rows), -1)

    folds = validation_folds(len(tensor.grid.levels[0]), tensor.wanted.folds, seed=0)
    found = choose_penalties(folds, fold)
    return {
        "ridge": found.best[0],
        "tried": [ridge for ridge, _ in found.penalties],
        "approximation_error": found.errors[:, 0].tolist(),
        "transfer_errors": found.errors[:, 1:].tolist(),
        "rows": found.n_rows,
    }
