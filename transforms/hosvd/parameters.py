"""Parameters of codes that a tensor model was not built from, and edits through them.

A row's parameters q_2, q_3, ... minimise (Paper I, eq. 7; thesis eq. 3.12; Paper II, eq. 5)

    |C x_2 q_2' x_3 q_3' ... - y|^2 + sum_n ridge |q_n|^2 + lasso |U_n q_n|_1
                                          + sum_to_one (1'U_n q_n - 1)^2

by alternating least squares (Paper I, eq. 8-11). Where the lasso is asked for, |x| is majorised by
x^2 / 2c + c / 2 at the last c = |x|, so a round stays one least-squares problem a mode and still
never raises the objective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.errors import UsageError
from transforms.hosvd.model import HOSVD

LASSO_FLOOR = 1e-9  # of canonical parameters, which are 0 and 1 at the levels themselves


@dataclass(frozen=True)
class TensorFit:
    """Parameters of m rows.

    parameters : list of float64 (m, J_n), one a mode (Paper II, eq. 3)
    codes : float64 (m, D), the model's codes with these parameters
    relative_error : float64 (m,), |code - row| / |row - mean|
    converged : bool (m,)
    """

    parameters: list[np.ndarray]
    codes: np.ndarray
    relative_error: np.ndarray
    converged: np.ndarray


def _compress(model: HOSVD) -> tuple[np.ndarray, np.ndarray]:
    """(basis (D, r), core (r, J_1, ...)): the core's column space, where distances are equal."""
    flat = model.core.reshape(len(model.core), -1)
    if flat.shape[0] <= flat.shape[1]:
        return np.eye(len(flat)), model.core
    q, r = np.linalg.qr(flat)
    return q, r.reshape(-1, *model.core.shape[1:])


def _contract_others(core: np.ndarray, parameters: list[np.ndarray], mode: int) -> np.ndarray:
    """Design (m, r, J_mode) of one mode, the others at the rows' parameters."""
    order = [n for n in range(len(parameters)) if n != mode]
    moved = np.moveaxis(core, [n + 1 for n in order], range(1, len(order) + 1))
    m = len(parameters[0])
    if not order:
        return np.broadcast_to(moved, (m, *moved.shape))
    first, rest = parameters[order[0]], order[1:]
    design = np.einsum("ij,rj...->ir...", first, moved)
    for n in rest:
        design = np.einsum("ij,irj...->ir...", parameters[n], design)
    return design


def _rank_one_start(core: np.ndarray, near: np.ndarray) -> list[np.ndarray]:
    """Start from the least-squares parameter tensor (Paper II, eq. 8), each mode's leading vector.

    Returns vectors (m, J_n) of unit norm.
    """
    flat = core.reshape(len(core), -1)
    tensor = (near @ np.linalg.pinv(flat).T).reshape(len(near), *core.shape[1:])
    parameters = []
    for n in range(1, core.ndim):
        unfolded = np.moveaxis(tensor, n, 1).reshape(len(near), core.shape[n], -1)
        gram = np.matmul(unfolded, unfolded.transpose(0, 2, 1))
        parameters.append(np.ascontiguousarray(np.linalg.eigh(gram)[1][:, :, -1]))
    return parameters


@dataclass(frozen=True)
class _Penalty:
    """Penalties of one mode in absolute units, and its factor (I_n, J_n)."""

    ridge: float
    lasso: float
    one: float
    factor: np.ndarray

    @property
    def ones(self) -> np.ndarray:
        """U_n' 1, (J_n,)."""
        return self.factor.sum(axis=0)

    def of(self, q: np.ndarray) -> np.ndarray:
        """The penalty of parameters (m, J_n), float64 (m,)."""
        penalty = self.ridge * (q**2).sum(axis=1) + self.one * (q @ self.ones - 1) ** 2
        if self.lasso:
            penalty += self.lasso * np.abs(q @ self.factor.T).sum(axis=1)
        return penalty

    def matrices(self, q: np.ndarray) -> np.ndarray:
        """Quadratic part at the present parameters (m, J_n): (J_n, J_n), or one a row."""
        fixed = self.ridge * np.eye(len(self.ones)) + self.one * np.outer(self.ones, self.ones)
        if not self.lasso:
            return fixed
        size = np.abs(q @ self.factor.T)
        size = np.maximum(size, LASSO_FLOOR)
        return fixed + np.einsum("ia,mi,ib->mab", self.factor, self.lasso / (2 * size), self.factor)


def _alternate(
    core: np.ndarray,
    near: np.ndarray,
    parameters: list[np.ndarray],
    penalties: list[_Penalty],
    max_rounds: int,
    tol: float,
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """(parameters, fitted (m, r), objective (m,), settled (m,)) of one start."""
    previous = np.full(len(near), np.inf)
    for _ in range(max_rounds):
        for mode, penalty in enumerate(penalties):
            design = _contract_others(core, parameters, mode)
            normal = np.matmul(design.transpose(0, 2, 1), design)
            normal += penalty.matrices(parameters[mode])
            right = np.matmul(design.transpose(0, 2, 1), near[..., None])[..., 0]
            right += penalty.one * penalty.ones
            parameters[mode] = np.linalg.solve(normal, right[..., None])[..., 0]
        fitted = np.matmul(design, parameters[-1][..., None])[..., 0]
        objective = ((fitted - near) ** 2).sum(axis=1)
        for q, penalty in zip(parameters, penalties, strict=True):
            objective += penalty.of(q)
        settled = previous - objective <= tol * np.maximum(objective, np.finfo(float).tiny)
        if settled.all():
            break
        previous = objective
    return parameters, fitted, objective, settled


def _per_mode(name: str, value: float | Sequence[float], n_modes: int) -> list[float]:
    values = [value] * n_modes if isinstance(value, int | float) else list(value)
    if len(values) != n_modes or any(v < 0 for v in values):
        raise UsageError(
            f"{name} is {value!r} but must not be negative: give one number, or one for each of "
            f"{n_modes!r} modes"
        )
    return values


def fit_parameters(
    model: HOSVD,
    rows: np.ndarray,
    *,
    ridge: float | Sequence[float] = 1e-3,
    lasso: float | Sequence[float] = 0.0,
    sum_to_one: float | Sequence[float] = 0.0,
    max_rounds: int = 100,
    tol: float = 1e-7,
) -> TensorFit:
    """Parameters of rows by alternating least squares (module docstring).

    rows : (m, D) codes, standardised by the model when it is
    ridge, lasso, sum_to_one : penalties, one for all modes or one a mode, as multiples of the
        mean energy of a cell, sum_c |t_c - mean|^2 / cells; q' = U_n q are the canonical
        parameters, one for each level
    max_rounds, tol : stop when the objective of every row changes by less than tol (relative)

    Two starts are tried, the modes' average parameters and the nearest full-rank parameter
    tensor's leading vectors; each row keeps the better.
    """
    rows = _checked(model, rows)
    names = ("ridge", "lasso", "sum_to_one")
    values = [
        _per_mode(n, v, len(model.factors))
        for n, v in zip(names, (ridge, lasso, sum_to_one), strict=True)
    ]
    basis, core = _compress(model)
    near = (rows - model.mean) / model.scale @ basis
    unit = model.squares / float(np.prod(model.shape))
    penalties = [
        # Never quite zero: a mode of full rank and one row leave the problem singular otherwise.
        _Penalty(max(r, 1e-12) * unit + np.finfo(float).tiny, lasso_n * unit, one * unit, u)
        for u, r, lasso_n, one in zip(model.factors, *values, strict=True)
    ]
    average = [np.tile(u.mean(axis=0), (len(rows), 1)) for u in model.factors]
    starts = [average, _rank_one_start(core, near)]
    found = [_alternate(core, near, start, penalties, max_rounds, tol) for start in starts]
    second = found[1][2] < found[0][2]
    pick = [np.where(second[:, None], b, a) for a, b in zip(found[0][0], found[1][0], strict=True)]
    fitted = np.where(second[:, None], found[1][1], found[0][1])
    settled = np.where(second, found[1][3], found[0][3])
    codes = (fitted @ basis.T) * model.scale + model.mean
    return TensorFit(pick, codes, _relative_error(model, rows, codes), settled)


def _checked(model: HOSVD, rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64).reshape(len(rows), -1)
    if rows.shape[1] != len(model.mean):
        raise UsageError(
            f"rows have {rows.shape[1]!r} coordinates but the model has {len(model.mean)!r}: give "
            "codes of the model's own space"
        )
    return rows


def _relative_error(model: HOSVD, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows - model.mean, axis=1)
    return np.linalg.norm(codes - rows, axis=1) / np.where(norms > 0, norms, 1.0)


def codes_of(model: HOSVD, parameters: Sequence[np.ndarray]) -> np.ndarray:
    """Codes float64 (m, D) of rows with parameters (m, J_n), one array a mode (Paper II, eq. 3)."""
    product = parameters[0]
    for q in parameters[1:]:
        product = np.einsum("ma,mb->mab", product, q).reshape(len(q), -1)
    return product @ model.core.reshape(model.n_features, -1).T * model.scale + model.mean


def transfer(
    model: HOSVD,
    rows: np.ndarray,
    fit: TensorFit,
    parameters: Mapping[int, np.ndarray],
    keep_residual: bool = True,
) -> np.ndarray:
    """Rows with the parameters of some modes replaced: codes float64 (m, D).

    rows : (m, D), and `fit` their own parameters
    parameters : mode -> (J_n,) or (m, J_n): another row's (`TensorFit.parameters`), a level's
        (`HOSVD.factors[mode][level]`), or moved ones (Paper I, eq. 13-14)
    keep_residual : add what the model does not explain of the row, so that the row's own
        parameters give the row itself; without, the model's code alone (Paper I, section IV.F)
    """
    rows = _checked(model, rows)
    changed = list(fit.parameters)
    for mode, q in parameters.items():
        if not 0 <= mode < len(changed) or np.shape(q)[-1] != changed[mode].shape[1]:
            raise UsageError(
                f"mode {mode!r} with parameters of shape {np.shape(q)!r} does not fit modes of "
                f"ranks {model.ranks!r}: give (J_n,) or (m, J_n) of one of them"
            )
        changed[mode] = np.broadcast_to(q, changed[mode].shape)
    codes = codes_of(model, changed)
    return codes + (rows - fit.codes) if keep_residual else codes


def parameter_tensor(model: HOSVD, rows: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """Full-rank parameter tensors Q of rows (m, D): float64 (m, J_1, ..., J_N) (Paper II, eq. 8).

    ridge : penalty of |Q|^2, as a multiple of the mean energy of a cell; at 0 the least Q of all
        that fit best
    """
    near = (_checked(model, rows) - model.mean) / model.scale
    u, s, vt = np.linalg.svd(model.core.reshape(model.n_features, -1), full_matrices=False)
    if ridge < 0:
        raise UsageError(f"ridge is {ridge!r} but must not be negative")
    unit = model.squares / float(np.prod(model.shape))
    kept = s > 1e-10 * s[0]
    gain = np.where(kept, s / np.where(kept, s**2 + ridge * unit, 1.0), 0.0)
    return ((near @ u) * gain @ vt).reshape(len(near), *model.core.shape[1:])


def project_rows(model: HOSVD, rows: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """Nearest codes (m, D) when the parameter tensor is of full rank (`parameter_tensor`)."""
    flat = model.core.reshape(model.n_features, -1)
    tensors = parameter_tensor(model, rows, ridge)
    return tensors.reshape(len(tensors), -1) @ flat.T * model.scale + model.mean
