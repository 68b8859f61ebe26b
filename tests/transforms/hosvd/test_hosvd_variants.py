"""Stacked and truncated models, penalties, transfer, levels, cross-validation."""

import numpy as np
import pytest
from sklearn.linear_model import Lasso, Ridge
from tensors import SHAPE, planted

from schemas.errors import UsageError
from transforms.accumulate.passes import run_passes
from transforms.hosvd.levels import apathy_parameters, classify_levels
from transforms.hosvd.parameters import (
    codes_of,
    fit_parameters,
    parameter_tensor,
    project_rows,
    transfer,
)
from transforms.hosvd.passes import TensorSlabs, multiply_modes
from transforms.hosvd.solve import HOSVD, hosvd
from transforms.hosvd.stacked import StackedSolver, fit_styles, stacked_hosvd
from transforms.hosvd.validate import cross_validate, penalty_errors, validation_folds

ORDER_5 = (24, 7, 4, 3, 2)


def test_stacked_models_are_the_styles_own(monkeypatch):
    from transforms.hosvd import passes as hosvd_passes

    tensor = planted(noise=0.5)
    styles = tensor.reshape(3, 10, *SHAPE[1:])
    stacked = stacked_hosvd(styles, energy=0.9)
    for model, style in zip(stacked.models, styles, strict=True):
        own = hosvd(style, energy=0.9)
        np.testing.assert_allclose(model.core, own.core, atol=1e-10)
    monkeypatch.setattr(hosvd_passes, "SLAB_BYTES", 8 * 80 * 5)
    solver = StackedSolver((0, 0, 1, 1, 2, 2), energy=0.9)
    slabs = run_passes(solver, TensorSlabs(tensor)).model()
    assert slabs.ranks == stacked.ranks
    for a, b in zip(slabs.models, stacked.models, strict=True):
        np.testing.assert_allclose(a.core, b.core, atol=1e-10)
    error = np.linalg.norm(stacked.reconstruct() - tensor)
    norm = np.linalg.norm(tensor - stacked.mean.reshape(-1, 1, 1, 1))
    np.testing.assert_allclose(stacked.relative_error, error / norm, rtol=1e-6)


def test_a_tensor_of_one_code_leaves_nothing_out():
    assert stacked_hosvd(np.ones((3, 4, 5))).relative_error == 0


def test_one_mode_is_enough_for_a_stacked_model(rng):
    tensor = rng.normal(size=(3, 4, 5))  # styles, latent, levels
    stacked = stacked_hosvd(tensor)
    np.testing.assert_allclose(stacked.reconstruct(), tensor.reshape(12, 5), atol=1e-12)


def test_stacked_directions_at_full_rank_are_group_mean_differences():
    tensor = planted(noise=1.0)
    stacked = stacked_hosvd(tensor.reshape(3, 10, *SHAPE[1:]))
    whole = hosvd(tensor)
    np.testing.assert_allclose(stacked.level_directions(1), whole.level_directions(1), atol=1e-11)
    difference = tensor[:, :, :, 1].mean(axis=(1, 2)) - tensor[:, :, :, 0].mean(axis=(1, 2))
    pair = np.array([False, True]), np.array([True, False])
    np.testing.assert_allclose(stacked.contrast(2, *pair), difference, atol=1e-11)
    np.testing.assert_allclose(stacked.direction({2: 1}, {2: 0}), difference, atol=1e-11)
    assert stacked.truncate((2, 2, 1)).ranks == [(2, 2, 1)] * 3


def test_stacked_fits_are_nearer_to_new_rows():
    tensor = planted((5, 4, 2), noise=0.3)
    model = hosvd(tensor[:, :6])
    stacked = stacked_hosvd(tensor[:, :6].reshape(3, 10, 6, 5, 2))
    rows = tensor[:, 6:].reshape(30, -1).T
    fits, codes = fit_styles(stacked, rows.reshape(len(rows), 3, 10))
    assert len(fits) == 3 and codes.shape == rows.shape
    whole = fit_parameters(model, rows).codes
    assert np.linalg.norm(codes - rows) < np.linalg.norm(whole - rows)
    with pytest.raises(UsageError, match="7 coordinates"):
        fit_styles(stacked, np.zeros((2, 7)))
    with pytest.raises(UsageError, match="styles"):
        stacked_hosvd(np.zeros((4, 5)))
    with pytest.raises(UsageError, match="not done"):
        StackedSolver((0,)).model()


def test_order_five_and_its_intensity_directions():
    rng = np.random.default_rng(0)
    person, view = rng.standard_normal((24, 7)), rng.standard_normal((24, 2))
    emotion, strength = rng.standard_normal((24, 4)), np.array([1.0, 2.0, 4.0])
    tensor = (
        10
        + person[:, :, None, None, None]
        + emotion[:, None, :, None, None] * (strength - strength.mean())[:, None]
        + view[:, None, None, None, :]
    )
    assert tensor.shape == ORDER_5
    model = hosvd(tensor)
    np.testing.assert_allclose(model.reconstruct(), tensor, atol=1e-9)
    directions, intensities = model.intensity_directions(1, 2)
    assert (np.diff(intensities) > 0).all()
    cut = model.truncate((7, 4, 1, 2))
    for e in range(4):
        for i in range(3):
            levels = [cut.mean_parameters()[0], cut.factors[1][e], cut.factors[2][i]]
            code = cut.code([*levels, cut.mean_parameters()[3]])
            np.testing.assert_allclose(code - model.mean, intensities[i] * directions[e], atol=1e-9)
        cosine = directions[e] @ emotion[:, e]
        cosine /= np.linalg.norm(directions[e]) * np.linalg.norm(emotion[:, e])
        assert cosine > 0.95
    with pytest.raises(UsageError, match="own intensity"):
        model.intensity_directions(1, 1)


def one_mode_model(seed=0):
    """C (D, I) with the identity as its factor: the parameters are plain regression weights."""
    rng = np.random.default_rng(seed)
    core = rng.standard_normal((40, 12))
    squares = float((core**2).sum())
    own = [np.arange(12)]
    energies = [(core**2).sum(axis=0)]
    model = HOSVD(np.zeros(40), [np.eye(12)], core, energies, squares, np.ones(40), own)
    return model, core, rng.standard_normal((3, 40)) * 3


def test_lasso_and_ridge_equal_scikit_learn():
    model, core, rows = one_mode_model()
    unit = model.squares / 12
    for strength in (0.05, 0.3):
        ours = fit_parameters(model, rows, ridge=0, lasso=strength, tol=1e-13, max_rounds=500)
        peer = Lasso(alpha=strength * unit / 80, fit_intercept=False, tol=1e-12, max_iter=100000)
        for q, row in zip(ours.parameters[0], rows, strict=True):
            best = peer.fit(core, row).coef_
            values = [
                ((core @ p - row) ** 2).sum() + strength * unit * np.abs(p).sum() for p in (q, best)
            ]
            assert values[0] <= values[1] * (1 + 1e-5)
            np.testing.assert_allclose(q, best, atol=2e-3)
        ours = fit_parameters(model, rows, ridge=strength)
        peer = Ridge(alpha=strength * unit, fit_intercept=False).fit(core, rows.T)
        np.testing.assert_allclose(ours.parameters[0], peer.coef_, atol=1e-9)


def test_penalties_one_a_mode():
    tensor = planted(noise=0.3)
    model, rows = hosvd(tensor, (5, 3, 2)), tensor[:, 2].reshape(30, -1).T
    free = fit_parameters(model, rows, ridge=1e-4)
    held = fit_parameters(model, rows, ridge=[1e-4, 10.0, 1e-4])
    ratio = [
        np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(held.parameters, free.parameters, strict=True)
    ]
    assert ratio[1] < 0.5 and ratio[1] == min(ratio)
    lasso = fit_parameters(model, rows, lasso=0.05)
    assert lasso.relative_error.mean() > free.relative_error.mean()
    with pytest.raises(UsageError, match="lasso"):
        fit_parameters(model, rows, lasso=[0.1, 0.1])


def test_transfer_moves_a_level_and_keeps_the_rest():
    tensor = planted((4, 3, 2))
    model = hosvd(tensor, (5, 4, 2))
    rows, source = tensor[:, 2, :, 0].T, tensor[:, 5, :, 1].T
    fit, other = fit_parameters(model, rows, ridge=1e-9), fit_parameters(model, source, ridge=1e-9)
    same = transfer(model, rows, fit, {2: fit.parameters[2]})
    np.testing.assert_allclose(same, rows, atol=1e-10)
    exact = [model.factors[0][[2] * 5], model.factors[1], model.factors[2][[0] * 5]]
    np.testing.assert_allclose(codes_of(model, exact), rows, atol=1e-9)
    known = fit.__class__(exact, codes_of(model, exact), fit.relative_error, fit.converged)
    turned = transfer(model, rows, known, {2: model.factors[2][1]}, keep_residual=False)
    np.testing.assert_allclose(turned, tensor[:, 2, :, 1].T, atol=1e-9)
    moved = transfer(model, rows, fit, {1: other.parameters[1], 2: other.parameters[2]})
    assert moved.shape == rows.shape and np.abs(moved - rows).max() > 0.1
    with pytest.raises(UsageError, match="mode 7"):
        transfer(model, rows, fit, {7: np.zeros(2)})


def test_full_rank_parameters_fit_best():
    tensor = planted(noise=0.5)
    model = hosvd(tensor[:, :6], (3, 3, 1))
    rows = tensor[:, 6].reshape(30, -1).T
    q = parameter_tensor(model, rows)
    flat = model.core.reshape(30, -1)
    best = np.linalg.lstsq(flat, (rows - model.mean).T, rcond=None)[0].T
    np.testing.assert_allclose(q.reshape(len(q), -1), best, atol=1e-9)
    error = np.linalg.norm(project_rows(model, rows) - rows, axis=1)
    vectors = fit_parameters(model, rows, ridge=0)
    assert (error <= np.linalg.norm(vectors.codes - rows, axis=1) + 1e-9).all()
    unit = model.squares / np.prod(model.shape)
    ridge = np.linalg.solve(flat.T @ flat + 0.1 * unit * np.eye(9), flat.T @ (rows - model.mean).T)
    np.testing.assert_allclose(
        parameter_tensor(model, rows, 0.1).reshape(-1, 9), ridge.T, atol=1e-9
    )
    with pytest.raises(UsageError, match="negative"):
        parameter_tensor(model, rows, -1)


def star(noise=0.0, n_persons=12, seed=0):
    """Six expressions by three intensities that start at one point, and a neutral off them."""
    rng = np.random.default_rng(seed)
    rays, neutral = rng.standard_normal((6, 40)), rng.standard_normal(40)
    levels = np.concatenate([np.outer([1, 2, 3], ray) for ray in rays] + [neutral[None]])
    person = rng.standard_normal((40, n_persons))
    tensor = (
        person[:, :, None] + levels.T[:, None] + noise * rng.standard_normal((40, n_persons, 19))
    )
    lines = [list(range(3 * e, 3 * e + 3)) for e in range(6)]
    return tensor, lines, person.mean(axis=1)


def test_apathy_is_where_the_expressions_start():
    tensor, lines, origin = star()
    model = hosvd(tensor)
    q = apathy_parameters(model, 1, lines, n_dimensions=8)  # six rays, neutral, constant
    code = model.code([model.mean_parameters()[0], q])
    np.testing.assert_allclose(code, origin, atol=1e-8)
    assert np.linalg.norm(model.mean - origin) > 0.1
    with pytest.raises(UsageError, match="1 point"):
        apathy_parameters(model, 1, [[0], [1, 2]])


def test_expressions_of_unseen_persons_are_told_from_their_parameters():
    tensor, _, _ = star(noise=0.2, n_persons=30)
    model = hosvd(tensor[:, :24], energy=0.98)
    rows = tensor[:, 24:, :18].reshape(40, -1).T
    truth = np.tile(np.arange(18) // 3, 6)
    fit = fit_parameters(model, rows, ridge=1e-2, sum_to_one=1.0)
    groups = [*(np.arange(18) // 3), 6]
    found, scores = classify_levels(model, fit.parameters[1], 1, groups)
    assert scores.shape == (108, 7) and np.abs(scores).max() <= 1 + 1e-12
    assert (found == truth).mean() > 0.95  # by chance 0.15
    free = fit_parameters(model, rows, ridge=1e-2)
    assert (classify_levels(model, free.parameters[1], 1, groups)[0] == truth).mean() < 0.7
    own, _ = classify_levels(model, model.factors[1], 1)
    assert own.tolist() == list(range(19))
    with pytest.raises(UsageError, match="rank"):
        classify_levels(model, np.zeros((2, 3)), 1)
    with pytest.raises(UsageError, match="one a level"):
        classify_levels(model, fit.parameters[1], 1, [0, 1])


def test_errors_of_penalties_by_hand():
    tensor = planted(noise=0.5)
    model, rows = hosvd(tensor[:, :6]), tensor[:, 6].reshape(30, -1).T
    levels = np.stack(np.unravel_index(np.arange(10), (5, 2)), axis=1)
    errors = penalty_errors(model, rows, levels, [(1e-2, 0.0), (1.0, 0.0)])
    fit = fit_parameters(model, rows, ridge=1e-2)
    unit = model.squares / 60
    by_hand = [fit.codes]
    for mode in (1, 2):
        q = list(fit.parameters)
        q[mode] = model.factors[mode][levels[:, mode - 1]]
        product = np.einsum("ma,mb,mc->mabc", *q).reshape(10, -1)
        by_hand.append(model.mean + product @ model.core.reshape(30, -1).T)
    expected = [((codes - rows) ** 2).sum() / unit for codes in by_hand]
    np.testing.assert_allclose(errors[0], expected)
    assert errors[1, 0] > errors[0, 0]


def test_cross_validation_chooses_the_least_errors():
    tensor = planted((4, 3, 2), noise=1.0, shape=(30, 12, 5, 2))
    found = cross_validate(tensor, folds=3, ridges=(1e-6, 1e-2, 100.0), lassos=(1e-2,), energy=0.95)
    assert found.errors.shape == (4, 3) and found.n_rows == 120
    assert found.penalties[-1] == (0.0, 1e-2)
    assert found.best == found.penalties[int(found.errors.sum(axis=1).argmin())] != (100.0, 0.0)
    np.testing.assert_allclose(found.errors[2], found.errors[2, 0], rtol=0.5)  # all but the mean
    again = cross_validate(tensor, folds=3, ridges=(1e-6,), energy=0.95)
    np.testing.assert_allclose(again.errors[0], found.errors[0])
    parts = validation_folds(12, 5, seed=1)
    assert sorted(np.concatenate(parts).tolist()) == list(range(12)) and len(parts) == 5
    for folds in (1, 13):
        with pytest.raises(UsageError, match="folds"):
            validation_folds(12, folds, 0)
    with pytest.raises(UsageError, match="no penalties"):
        cross_validate(tensor, ridges=())


def test_ranks_by_number_for_some_modes():
    tensor = planted(noise=0.05)
    model = hosvd(tensor, (None, 2, None), energy=0.9)
    full = hosvd(tensor, energy=0.9)
    assert model.ranks == (full.ranks[0], 2, full.ranks[2])
    np.testing.assert_allclose(hosvd(tensor, (None, 2, 2)).ranks, (8, 2, 2))


def test_the_contrast_of_a_view_is_the_papers_rotation():
    tensor = planted(noise=0.3)
    model = hosvd(tensor)
    q = [*model.mean_parameters()[:2], np.array([1, -1]) / np.sqrt(2) @ model.factors[2]]
    product = np.einsum("a,b,c->abc", *q)
    paper = np.tensordot(model.core, product, axes=3)  # Paper II, eq. 16-18
    ours = model.contrast(2, np.array([True, False]), np.array([False, True]))
    np.testing.assert_allclose(ours, np.sqrt(2) * paper, atol=1e-12)
    assert multiply_modes(model.core, model.factors).shape == tensor.shape
