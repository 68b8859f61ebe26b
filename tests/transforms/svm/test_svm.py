"""Hyperplanes against scikit-learn, and on the data that break simpler solvers."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import ArrayBlocks
from transforms.accumulate.passes import run_passes
from transforms.svm import sample as svm_sample
from transforms.svm import solver as svm_solver
from transforms.svm.fit import HyperplaneOptions, HyperplaneSolver, fit_hyperplanes
from transforms.svm.line import LineSearch
from transforms.svm.passes import LabelledMoments


def problem(n=600, d=12, attributes=4, noise=2.0, mean=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * np.linspace(2, 0.3, d)
    scores = x @ rng.standard_normal((d, attributes))
    scores += noise * rng.standard_normal(scores.shape)
    return x + mean, np.where(scores > 0.5, 1, -1)


def objective(x, y, w, b, c, penalise):
    slack = np.maximum(0, 1 - y * (x @ w + b))
    return w @ w / 2 + (b * b / 2 if penalise else 0) + c * (slack**2).sum()


def gradient_norm(x, y, w, b, c):
    pull = y * np.maximum(0, 1 - y * (x @ w + b))
    return np.linalg.norm(np.append(w - 2 * c * x.T @ pull, -2 * c * pull.sum()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("c", [0.01, 1.0, 30.0])
def test_no_objective_is_above_scikit_learn(dtype, c):
    x, y = problem()
    x = x.astype(dtype)
    found = fit_hyperplanes(x, y, c, penalise_intercept=True, block_rows=100)
    assert found.converged.all() and (found.relative_gradient <= 1e-5).all()
    wide = x.astype(float)
    for a in range(y.shape[1]):
        peer = LinearSVC(C=c, dual=False, tol=1e-8, max_iter=10_000).fit(wide, y[:, a])
        theirs = objective(wide, y[:, a], peer.coef_[0], peer.intercept_[0], c, True)
        ours = objective(wide, y[:, a], found.coef[a], found.intercepts[a], c, True)
        assert ours <= theirs * (1 + 1e-6)
        np.testing.assert_allclose(found.objective[a], ours, rtol=1e-5)
        np.testing.assert_allclose(found.accuracy[a], peer.score(wide, y[:, a]), atol=0.01)


@pytest.mark.parametrize("block_rows", [50, 97, 10_000])
def test_free_intercept_is_a_stationary_point_for_any_blocks(block_rows):
    x, y = problem()
    found = fit_hyperplanes(x, y, block_rows=block_rows, tol=1e-8)
    for a in range(y.shape[1]):
        at_zero = gradient_norm(x, y[:, a], np.zeros(x.shape[1]), 0.0, 1.0)
        here = gradient_norm(x, y[:, a], found.coef[a], found.intercepts[a], 1.0)
        assert here < 1e-6 * at_zero
    np.testing.assert_allclose(np.linalg.norm(found.normals, axis=1), 1)
    sd = (x @ found.normals.T).std(axis=0, ddof=1)
    np.testing.assert_allclose(found.sd, sd, rtol=1e-9)
    decided = np.sign(found.decision_function(x))
    np.testing.assert_allclose(found.accuracy, (decided == y).mean(axis=0))


@pytest.mark.parametrize("penalise", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ["separable", "large c", "rare", "mean 1e3", "scales"])
def test_hard_data_converge(case, dtype, penalise):
    rng = np.random.default_rng(3)
    noise, c, mean = {
        "separable": (0, 1e4, 0),
        "large c": (2, 1e6, 0),
        "mean 1e3": (2, 1, 1e3),
    }.get(case, (2, 1.0, 0))
    x, y = problem(1500, 10, 1, noise, mean)
    if case == "rare":
        y = np.where(np.arange(1500) < 15, 1, -1)[:, None]
        x[:15, 0] += 3
    if case == "scales":
        x = x * np.logspace(-3, 3, 10)
    x = x.astype(dtype)
    found = fit_hyperplanes(x, y, c, penalise_intercept=penalise, block_rows=400)
    assert found.converged.all(), found
    wide, w, b = x.astype(float), found.coef[0], found.intercepts[0]
    best = objective(wide, y[:, 0], w, b, c, penalise)
    for _ in range(40):  # a convex function's minimum: no nearby point is lower
        step = rng.standard_normal(11) * np.append(w, b) * 1e-2
        other = objective(wide, y[:, 0], w + step[:10], b + step[10], c, penalise)
        assert other >= best * (1 - 1e-6)


def test_column_mean_changes_only_the_intercept():
    x, y = problem(mean=0.0)
    near, far = fit_hyperplanes(x, y, tol=1e-9), fit_hyperplanes(x + 1e3, y, tol=1e-9)
    np.testing.assert_allclose(near.coef, far.coef, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(near.objective, far.objective, rtol=1e-9)


def test_unlabelled_rows_do_not_count():
    x, y = problem()
    y[::3, 1] = 0
    found = fit_hyperplanes(x, y, tol=1e-9)
    alone = fit_hyperplanes(x[y[:, 1] != 0], y[y[:, 1] != 0, 1], tol=1e-9)
    np.testing.assert_allclose(found.coef[1], alone.coef[0], rtol=1e-5, atol=1e-8)
    assert found.n_positive[1] + found.n_negative[1] == (y[:, 1] != 0).sum()
    np.testing.assert_allclose(found.accuracy[1], alone.accuracy[0])


def test_attributes_do_not_influence_one_another():
    x, y = problem()
    together = fit_hyperplanes(x, y, tol=1e-9)
    for a in range(y.shape[1]):
        alone = fit_hyperplanes(x, y[:, a], tol=1e-9)
        np.testing.assert_allclose(together.coef[a], alone.coef[0], rtol=1e-5, atol=1e-8)


def test_balanced_equals_scikit_learn():
    x, y = problem(noise=1.0)
    y = np.where(x[:, :1] + x[:, 1:2] > 2.5, 1, -1)
    found = fit_hyperplanes(x, y, penalise_intercept=True, balanced=True, tol=1e-9)
    peer = LinearSVC(dual=False, tol=1e-10, class_weight="balanced", max_iter=10_000)
    peer.fit(x, y[:, 0])
    np.testing.assert_allclose(found.coef, peer.coef_, rtol=1e-4, atol=1e-5)


def test_many_features_without_the_gram(monkeypatch):
    x, y = problem(200, 30, 2)
    exact = fit_hyperplanes(x, y, tol=1e-9)
    monkeypatch.setattr(svm_solver, "GRAM_MAX_FEATURES", 20)
    for penalise in (False, True):
        found = fit_hyperplanes(x, y, tol=1e-9, penalise_intercept=penalise)
        assert found.converged.all()
        sd = (x @ found.normals.T).std(axis=0, ddof=1)
        np.testing.assert_allclose(found.sd, sd, rtol=1e-9)
        if not penalise:
            np.testing.assert_allclose(found.coef, exact.coef, rtol=1e-5, atol=1e-7)


def test_conjugate_gradients_and_exact_hessians_agree(monkeypatch):
    x, y = problem(1500, 10, 1, noise=0.3)
    monkeypatch.setattr(svm_solver, "RARE_ACTIVE", 0.0)
    iterated = fit_hyperplanes(x, y, 10.0, tol=1e-8)
    monkeypatch.setattr(svm_solver, "RARE_ACTIVE", 1.1)
    exact = fit_hyperplanes(x, y, 10.0, tol=1e-8)
    assert iterated.converged.all() and exact.converged.all()
    np.testing.assert_allclose(iterated.coef, exact.coef, rtol=1e-4, atol=1e-6)


def test_fewer_rows_than_features():
    x, y = problem(20, 50, 2)
    found = fit_hyperplanes(x, y)
    assert found.converged.all() and (found.accuracy == 1).all()


def test_equal_class_means_have_no_direction():
    x = np.repeat(np.random.default_rng(0).standard_normal((50, 4)), 2, axis=0)
    y = np.tile([-1, 1], 50)
    found = fit_hyperplanes(x, y)
    assert np.linalg.norm(found.coef) < 1e-6


def test_one_class_is_refused_or_skipped():
    x, y = problem()
    y[:, 2] = 1
    with pytest.raises(DataError, match=r"\[2\]"):
        fit_hyperplanes(x, y)
    found = fit_hyperplanes(x, y, degenerate="skip")
    assert found.converged.tolist() == [True, True, False, True]
    assert np.isnan(found.normals[2]).all() and np.isnan(found.intercepts[2])
    assert np.isfinite(found.normals[[0, 1, 3]]).all()
    with pytest.raises(DataError, match="one class"):
        fit_hyperplanes(x, np.ones(len(x)), degenerate="skip")


def test_bad_input_is_refused():
    x, y = problem(50)
    with pytest.raises(DataError, match="label 2 of attribute 1"):
        fit_hyperplanes(x, np.where(np.arange(4) == 1, 2, y))
    scores = y.astype(float)
    scores[4, 3] = np.nan
    with pytest.raises(DataError, match="label nan"):
        fit_hyperplanes(x, scores)
    x[7, 2] = np.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        fit_hyperplanes(x, y)
    for bad in ({"c": 0}, {"tol": 2}, {"precision": "float16"}, {"degenerate": "ignore"}):
        with pytest.raises(UsageError, match=next(iter(bad))):
            HyperplaneOptions(**bad)
    with pytest.raises(UsageError, match="max_newton"):
        HyperplaneOptions(max_newton=0)


def test_a_stopped_solver_says_so():
    x, y = problem()
    solver = HyperplaneSolver(HyperplaneOptions(max_newton=1))
    found = run_passes(solver, ArrayBlocks({"x": x, "y": y}, 100)).result()
    assert not found.converged.any() and (found.relative_gradient > 1e-5).all()
    with pytest.raises(UsageError, match="no pass"):
        solver.result()


def test_an_attribute_is_given_up_at_its_third_stall():
    x, y = problem()
    solver = HyperplaneSolver(HyperplaneOptions())
    request = solver.request()
    state = solver.step(request.statistic(request.prepare({"x": x, "y": y})))
    stalls = np.where(np.arange(len(state.alive)) == 0, 3.0, 2.0)
    alive = replace(state, facts=state.facts | {"stalls": stalls})._retire().alive
    assert not alive[0] and alive[1:].all() and len(alive) > 1


def test_labelled_moments_round_trip():
    x, y = problem(40)
    whole = LabelledMoments.of(x, y)
    parts = LabelledMoments.of(x[:15], y[:15]).merge(LabelledMoments.of(x[15:], y[15:]))
    again = LabelledMoments.from_arrays(parts.to_arrays())
    np.testing.assert_array_equal(again.counts, whole.counts)
    np.testing.assert_allclose(again.sums, whole.sums, atol=1e-10)
    np.testing.assert_allclose(again.sums[1, 0], x[y[:, 0] == 1].sum(axis=0), atol=1e-10)


def test_line_search_finds_the_minima_of_piecewise_quadratics():
    rng = np.random.default_rng(0)
    kinks, bends = 10 ** rng.uniform(-2, 2.5, (9, 7)), rng.uniform(0.1, 5, (9, 7))

    def evaluate(t):
        beyond = np.maximum(t[:, None] - kinks, 0)
        value = -t * 3 + 1e-4 * t**2 + (bends * beyond**2).sum(axis=1)
        return value, -3 + 2e-4 * t + 2 * (bends * beyond).sum(axis=1)

    def at(lengths):
        found = [evaluate(row) for row in lengths]
        return np.stack([f[0] for f in found]), np.stack([f[1] for f in found])

    value0, slope0 = evaluate(np.zeros(9))
    line = LineSearch.start(slope0, value0, evaluate(np.ones(9))[1])
    while not line.settled:
        line = line.narrow(*at(line.lengths))
    step, improved = line.choice()
    assert improved.all()
    value, slope = evaluate(step)
    assert (np.abs(slope) <= 0.1 * np.abs(slope0)).all() and (value < value0).all()


@pytest.mark.parametrize("balanced", [False, True])
def test_sample_weights_equal_scikit_learn(balanced):
    x, y = problem(300, noise=1.0)
    weight = np.random.default_rng(1).uniform(0.2, 3, 300)
    weight[::7] = 0
    found = fit_hyperplanes(
        x, y, sample_weight=weight, penalise_intercept=True, tol=1e-9, balanced=balanced
    )
    used = weight > 0
    for a in range(y.shape[1]):
        v = weight.copy()
        if balanced:
            sides = [weight[y[:, a] == sign].sum() for sign in (-1, 1)]
            v = v * np.where(y[:, a] > 0, *(weight.sum() / (2 * s) for s in sides[::-1]))
        peer = LinearSVC(dual=False, tol=1e-10, max_iter=10_000)
        peer.fit(x[used], y[used, a], sample_weight=v[used])
        np.testing.assert_allclose(found.coef[a], peer.coef_[0], rtol=1e-4, atol=1e-5)
    assert (found.n_positive + found.n_negative == used.sum()).all()


def test_a_weight_of_two_is_two_rows():
    x, y = problem(200)
    weight = np.arange(200) % 3
    found = fit_hyperplanes(x, y, 0.3, sample_weight=weight, tol=1e-9, block_rows=70)
    rows = np.repeat(np.arange(200), weight)
    twice = fit_hyperplanes(x[rows], y[rows], 0.3, tol=1e-9)
    np.testing.assert_allclose(found.coef, twice.coef, rtol=1e-4, atol=1e-7)
    for bad in (-1.0, np.nan):
        with pytest.raises(DataError, match="weight"):
            fit_hyperplanes(x, y, sample_weight=np.full(200, bad))


@pytest.mark.parametrize("penalise", [False, True])
def test_more_features_than_a_second_moment_can_hold(penalise):
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((90, 2500)) + 5).astype(np.float32)
    y = np.where(x[:, :2] + rng.standard_normal((90, 2)) > 5, 1, -1)
    found = fit_hyperplanes(x, y, 0.01, block_rows=40, penalise_intercept=penalise)
    assert found.converged.all() and (found.accuracy == 1).all() and found.n_passes < 8
    sd = (x.astype(float) @ found.normals.T).std(axis=0, ddof=1)
    np.testing.assert_allclose(found.sd, sd, rtol=1e-5)
    wide = x.astype(float)
    if penalise:
        for a in range(2):
            axes = np.linalg.qr(wide.T)[0]  # the rows' span, where the problem is the same
            peer = LinearSVC(C=0.01, dual=False, tol=1e-10, max_iter=10_000)
            peer.fit(wide @ axes, y[:, a])
            w, b = axes @ peer.coef_[0], peer.intercept_[0]
            theirs = objective(wide, y[:, a], w, b, 0.01, True)
            ours = objective(wide, y[:, a], found.coef[a], found.intercepts[a], 0.01, True)
            assert ours <= theirs * (1 + 1e-6)


def test_a_sample_of_rows_preconditions_and_does_not_depend_on_blocks(monkeypatch):
    monkeypatch.setattr(svm_solver, "GRAM_MAX_FEATURES", 20)
    for name, rows in (("ALL_ROWS", 100), ("SAMPLE_ROWS", 200)):
        monkeypatch.setattr(svm_sample, name, rows)
    x, y = problem(1500, 60, 2)
    exact = fit_hyperplanes(x, y, tol=1e-9)
    whole = fit_hyperplanes(x, y, tol=1e-9, block_rows=77)
    assert whole.converged.all()
    np.testing.assert_allclose(whole.coef, exact.coef, rtol=1e-5, atol=1e-7)
    hashed = svm_sample.hash_rows(x)
    assert abs((hashed < 2**31).mean() - 0.5) < 0.05 and len(set(hashed.tolist())) > 1490


def test_a_restart_at_another_c_is_where_the_last_ended():
    x, y = problem()
    source = ArrayBlocks({"x": x, "y": y}, 200)
    solver = run_passes(HyperplaneSolver(HyperplaneOptions(precision="float64")), source)
    again = run_passes(solver.restart(solver.options.c), source)
    assert again.n_passes == 1  # evaluated once: it has converged already
    other = run_passes(solver.restart(5.0), source).result()
    np.testing.assert_allclose(other.objective, fit_hyperplanes(x, y, 5.0).objective, rtol=1e-6)


def test_a_constant_feature_has_no_part_in_the_normal():
    x, y = problem()
    x = np.c_[x, np.full(len(x), 7.0), np.zeros(len(x))]
    found = fit_hyperplanes(x, y, tol=1e-9)
    assert found.converged.all() and np.abs(found.coef[:, -2:]).max() < 1e-9
