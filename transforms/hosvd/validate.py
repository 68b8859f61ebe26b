"""Cross-validated penalties of parameter fits, by the errors of Paper I, section IV.E.

The first mode's levels (persons) are cut into folds. A model of the other folds' persons recovers
the parameters of the left-out persons' rows, once for each pair of penalties; measured are

    approximation   |y^ - y|^2, the recovered parameters' code against the row, and
    transfer to n   the same with mode n's recovered parameters replaced by those of the level
                    that the row truly shows (expression transfer, rotation transfer).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.hosvd.model import HOSVD
from transforms.hosvd.parameters import codes_of, fit_parameters
from transforms.hosvd.solve import hosvd, missing_cells

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
Penalty = tuple[float, float]


@dataclass(frozen=True)
class Validation:
    """Errors of each pair of penalties over all left-out rows.

    penalties : (ridge, lasso), in the unit of `fit_parameters`
    errors : float64 (penalties, N), means over rows, as multiples of the mean energy of a cell: the
        approximation first, then the transfer to mode 1, 2, ... (there is none to the first mode)
    n_rows : left-out rows
    """

    penalties: list[Penalty]
    errors: np.ndarray
    n_rows: int

    @property
    def best(self) -> Penalty:
        """The pair with the least sum of errors; of equal ones the first."""
        return self.penalties[int(np.argmin(self.errors.sum(axis=1)))]


def penalty_errors(
    model: HOSVD, rows: np.ndarray, levels: np.ndarray, penalties: Sequence[Penalty]
) -> np.ndarray:
    """Sums of errors over rows, float64 (penalties, N): see `Validation.errors`.

    rows : (m, D) of persons that the model does not know
    levels : int (m, N - 1), the rows' levels of the modes after the first
    """
    rows = np.asarray(rows, np.float64).reshape(len(rows), -1)
    unit = model.squares / float(np.prod(model.shape))
    errors = np.zeros((len(penalties), len(model.factors)))
    for i, (ridge, lasso) in enumerate(penalties):
        fit = fit_parameters(model, rows, ridge=ridge, lasso=lasso)
        found = [fit.codes]
        for mode in range(1, len(model.factors)):
            known = list(fit.parameters)
            known[mode] = model.factors[mode][levels[:, mode - 1]]
            found.append(codes_of(model, known))
        errors[i] = [(((codes - rows) / model.scale) ** 2).sum() / unit for codes in found]
    return errors


def validation_folds(n_levels: int, folds: int, seed: int) -> list[np.ndarray]:
    """Levels of the first mode that each fold leaves out; UsageError for an impossible number."""
    if not 2 <= folds <= n_levels or n_levels - -(-n_levels // folds) < 2:
        raise UsageError(
            f"folds is {folds!r} for {n_levels!r} levels of the first mode: give 2 or more, such "
            "that at least 2 levels stay in each model"
        )
    shuffled = np.random.default_rng(seed).permutation(n_levels)
    return [np.sort(part) for part in np.array_split(shuffled, folds)]


def choose_penalties(
    folds: Sequence[np.ndarray],
    fold: Callable[[np.ndarray], tuple[HOSVD, np.ndarray, np.ndarray]],
    ridges: Sequence[float] = RIDGES,
    lassos: Sequence[float] = (0.0,),
) -> Validation:
    """Validation over folds, wherever their models come from.

    fold : left-out levels -> (model of the others, left-out rows (m, D), their levels (m, N - 1))
    ridges, lassos : values to try; as in Paper I, each alone and so not every pair of them
    """
    penalties: list[Penalty] = [(float(r), 0.0) for r in ridges]
    penalties += [(0.0, float(value)) for value in lassos if value > 0]
    if not penalties:
        raise UsageError("no penalties given: name at least one ridge or lasso value")
    total, n_rows = np.zeros(()), 0
    for left_out in folds:
        model, rows, levels = fold(left_out)
        total = total + penalty_errors(model, rows, levels, penalties)
        n_rows += len(rows)
    if not n_rows:
        raise DataError("no row was left out: give folds with levels that have cells")
    return Validation(penalties, total / n_rows, n_rows)


def cross_validate(
    tensor: np.ndarray,
    *,
    folds: int = 5,
    ridges: Sequence[float] = RIDGES,
    lassos: Sequence[float] = (0.0,),
    seed: int = 0,
    **options: Any,
) -> Validation:
    """Penalties for `fit_parameters`, chosen over folds of the first mode's levels.

    tensor : (D, I_1, ..., I_N), missing cells NaN; they are no validation rows
    seed : of the folds. options : of `hosvd`, for the folds' models
    """
    tensor = np.asarray(tensor)
    present = ~missing_cells(tensor)

    def fold(left_out: np.ndarray) -> tuple[HOSVD, np.ndarray, np.ndarray]:
        kept = np.setdiff1d(np.arange(tensor.shape[1]), left_out)
        model = hosvd(tensor[:, kept], **options)
        cells = present[left_out]
        rows = np.moveaxis(tensor[:, left_out], 0, -1)[cells]
        return model, rows, np.argwhere(cells)[:, 1:]

    return choose_penalties(validation_folds(tensor.shape[1], folds, seed), fold, ridges, lassos)
