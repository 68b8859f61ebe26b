"""Parameters of codes that a tensor model was not built from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.errors import UsageError
from transforms.hosvd import HOSVD


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
        gram = np.einsum("ijk,ilk->ijl", unfolded, unfolded)
        parameters.append(np.ascontiguousarray(np.linalg.eigh(gram)[1][:, :, -1]))
    return parameters


def _alternate(
    core: np.ndarray,
    near: np.ndarray,
    parameters: list[np.ndarray],
    penalties: list[tuple[float, float, np.ndarray]],
    max_rounds: int,
    tol: float,
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """(parameters, fitted (m, r), objective (m,), settled (m,)) of one start."""
    previous = np.full(len(near), np.inf)
    for _ in range(max_rounds):
        for mode, (lam, one, ones) in enumerate(penalties):
            design = _contract_others(core, parameters, mode)
            ridge = lam * np.eye(len(ones)) + one * np.outer(ones, ones)
            normal = np.einsum("irj,irk->ijk", design, design) + ridge
            right = np.einsum("irj,ir->ij", design, near) + one * ones
            parameters[mode] = np.linalg.solve(normal, right[..., None])[..., 0]
        fitted = np.einsum("irj,ij->ir", design, parameters[-1])
        objective = ((fitted - near) ** 2).sum(axis=1)
        for q, (lam, one, ones) in zip(parameters, penalties, strict=True):
            objective += lam * (q**2).sum(axis=1) + one * (q @ ones - 1) ** 2
        settled = previous - objective <= tol * np.maximum(objective, np.finfo(float).tiny)
        if settled.all():
            break
        previous = objective
    return parameters, fitted, objective, settled


def fit_parameters(
    model: HOSVD,
    rows: np.ndarray,
    *,
    ridge: float = 1e-3,
    sum_to_one: float = 0.0,
    max_rounds: int = 100,
    tol: float = 1e-7,
) -> TensorFit:
    """Parameters of rows by alternating least squares (Paper II, eq. 4-6).

    rows : (m, D) codes
    ridge : penalty lambda_1 |q'_n|^2 on every mode, as a multiple of the mode's mean energy a cell
    sum_to_one : penalty lambda_2 (q'_n . 1 - 1)^2, in the same unit; q' = U_n q are the canonical
        parameters, one for each level
    max_rounds, tol : stop when the objective of every row changes by less than tol (relative)

    A round solves one ridge problem a mode and never raises a row's objective. Two starts are
    tried, the modes' average parameters and the nearest full-rank parameter tensor's leading
    vectors; each row keeps the better.
    """
    rows = np.asarray(rows, np.float64).reshape(len(rows), -1)
    if rows.shape[1] != len(model.mean):
        raise UsageError(
            f"rows have {rows.shape[1]!r} coordinates but the model has {len(model.mean)!r}: give "
            "codes of the model's own space"
        )
    if ridge < 0 or sum_to_one < 0:
        raise UsageError(f"ridge {ridge!r} and sum_to_one {sum_to_one!r} must not be negative")
    basis, core = _compress(model)
    near = (rows - model.mean) / model.scale @ basis
    n_cells = float(np.prod(model.shape))
    penalties = []
    for energies, u in zip(model.energies, model.factors, strict=True):
        unit = energies.sum() / n_cells
        # Never quite zero: a mode of full rank and one row leave the problem singular otherwise.
        lam = max(ridge, 1e-12) * unit + np.finfo(float).tiny
        penalties.append((lam, sum_to_one * unit, u.sum(axis=0)))
    average = [np.tile(u.mean(axis=0), (len(rows), 1)) for u in model.factors]
    starts = [average, _rank_one_start(core, near)]
    found = [_alternate(core, near, start, penalties, max_rounds, tol) for start in starts]
    second = found[1][2] < found[0][2]
    pick = [np.where(second[:, None], b, a) for a, b in zip(found[0][0], found[1][0], strict=True)]
    fitted = np.where(second[:, None], found[1][1], found[0][1])
    settled = np.where(second, found[1][3], found[0][3])
    codes = (fitted @ basis.T) * model.scale + model.mean
    norms = np.linalg.norm(rows - model.mean, axis=1)
    error = np.linalg.norm(codes - rows, axis=1) / np.where(norms > 0, norms, 1.0)
    return TensorFit(pick, codes, error, settled)


def project_rows(model: HOSVD, rows: np.ndarray) -> np.ndarray:
    """Nearest codes (m, D) when the parameter tensor is of full rank (Paper II, eq. 8)."""
    target = (np.asarray(rows, np.float64).reshape(len(rows), -1) - model.mean) / model.scale
    flat = model.core.reshape(len(model.core), -1)
    u, s, _ = np.linalg.svd(flat, full_matrices=False)
    basis = u[:, s > 1e-10 * s[0]]
    return (target @ basis) @ basis.T * model.scale + model.mean
