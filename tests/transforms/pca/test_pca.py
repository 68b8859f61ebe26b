"""Principal components against scikit-learn and LAPACK."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA as Peer

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import ArrayBlocks
from transforms.accumulate.moments import Moments
from transforms.accumulate.passes import run_passes
from transforms.pca.fit import (
    PCA,
    GramSolver,
    RandomisedSolver,
    RowSlabs,
    choose_solver,
    fit_pca,
    slabs_of,
    solve_pca,
    solver_costs,
)
from transforms.pca.latent import regress_components
from transforms.pca.randomised import MomentProducts
from transforms.pca.result import random_frame

SOLVERS = ["covariance", "gram", "randomised"]


def rows(n, d, mean=0.0, seed=0):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    spread = np.linspace(3, 0.2, d)
    return (rng.standard_normal((n, d)) * spread @ basis + mean).astype(np.float32)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "d", "k"), [(300, 20, 5), (300, 20, 20), (15, 40, 10), (15, 40, 3)])
@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_equals_scikit_learn(solver, n, d, k, mean):
    x = rows(n, d, mean)
    ours = fit_pca(x, k, solver=solver, block_rows=64)
    peer = Peer(k, svd_solver="full").fit(x.astype(np.float64))
    np.testing.assert_allclose(ours.mean, peer.mean_, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ours.explained_variance, peer.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(
        ours.explained_variance_ratio, peer.explained_variance_ratio_, rtol=1e-9
    )
    np.testing.assert_allclose(ours.singular_values, peer.singular_values_, rtol=1e-9)
    np.testing.assert_allclose(ours.noise_variance, peer.noise_variance_, rtol=1e-8, atol=1e-12)
    cosines = np.abs((ours.components * peer.components_).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-8)
    assert ours.n_rows == n and ours.converged
    centred = x.astype(np.float64) - peer.mean_
    baseline = (centred @ random_frame(d)).std(axis=0, ddof=1)
    np.testing.assert_allclose(ours.random_sd, baseline, rtol=1e-9)


def test_default_keeps_everything_and_inverts():
    x = rows(50, 8)
    model = fit_pca(x)
    assert model.components.shape == (8, 8)
    np.testing.assert_allclose(model.inverse_transform(model.transform(x)), x, atol=1e-10)
    np.testing.assert_allclose(model.sd, model.transform(x).std(axis=0, ddof=1), rtol=1e-9)
    assert model.noise_variance == 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_more_components_than_rank_stay_orthonormal(solver):
    x = rows(6, 30)
    model = fit_pca(x, 6, solver=solver)
    np.testing.assert_allclose(model.components @ model.components.T, np.eye(6), atol=1e-10)
    assert model.explained_variance[-1] < 1e-14 * model.explained_variance[0]


@pytest.mark.parametrize("k", [1, 3, 7])
def test_truncate_equals_a_fit_with_fewer_components(k):
    x = rows(40, 10)
    short, long = fit_pca(x, k), fit_pca(x).truncate(k)
    np.testing.assert_allclose(long.components, short.components, atol=1e-10)
    np.testing.assert_allclose(long.noise_variance, short.noise_variance, rtol=1e-9)
    np.testing.assert_allclose(
        long.explained_variance_ratio, short.explained_variance_ratio, rtol=1e-9
    )


def test_saved_moments_solve_to_the_same_bits():
    moments = Moments.of(rows(60, 9))
    again = Moments.from_arrays(moments.to_arrays())
    first, second = solve_pca(moments, 4), solve_pca(again, 4)
    assert (first.components == second.components).all()
    assert (first.explained_variance == second.explained_variance).all()


@settings(max_examples=20, deadline=None)
@given(block=st.integers(3, 130), seed=st.integers(0, 10))
def test_blocks_and_row_order_do_not_flip_signs(block, seed):
    x = rows(120, 6)
    order = np.random.default_rng(seed).permutation(len(x))
    one, other = fit_pca(x, 6), fit_pca(x[order], 6, block_rows=block)
    np.testing.assert_allclose(one.components, other.components, atol=1e-9)


def test_layers_are_flattened():
    x = rows(30, 12)
    np.testing.assert_array_equal(
        fit_pca(x.reshape(30, 3, 4), 2).components, fit_pca(x, 2).components
    )


def test_the_randomised_solver_costs_as_many_products_as_there_are_features():
    few, many = (solver_costs(100, d, 64)["randomised"] for d in (1000, 3000))
    assert many == pytest.approx(3 * few)


def test_solver_by_cost():
    assert choose_solver(100_000, 512) == "covariance"
    assert choose_solver(100, 512) == "gram"
    assert choose_solver(5000, 9216) == "gram"
    assert choose_solver(50_000, 9216) == "covariance"
    assert choose_solver(70_000, 9216, 64) == "randomised"
    assert choose_solver(1_000_000, 512, 80) == "covariance"
    assert choose_solver(1000, 9216, 64) == "gram"
    with pytest.raises(UsageError, match="select"):
        choose_solver(50_000, 100_000)


def test_bad_input_is_refused():
    x = rows(10, 4)
    with pytest.raises(UsageError, match="n_components is 5"):
        fit_pca(x, 5)
    with pytest.raises(UsageError, match="solver"):
        fit_pca(x, solver="magic")
    with pytest.raises(UsageError, match="shape"):
        fit_pca(x[0])
    with pytest.raises(DataError, match="at least 2"):
        fit_pca(x[:1])
    x[3, 2] = np.inf
    with np.errstate(invalid="ignore"):
        for solver in SOLVERS:
            with pytest.raises(DataError, match="NaN or infinite"):
                fit_pca(x, 2, solver=solver)
    with pytest.raises(DataError, match="feature"):
        fit_pca(np.zeros((4, 0)))


def test_constant_rows_have_no_variance():
    model = fit_pca(np.ones((5, 3)))
    assert isinstance(model, PCA)
    assert (model.explained_variance == 0).all() and (model.explained_variance_ratio == 0).all()


# ---- the randomised solver


def planted(n, d, squares, seed=0):
    """Rows (n, d) float64 whose centred second moment has exactly these eigenvalues, and the
    eigenvectors (len(squares), d)."""
    rng = np.random.default_rng(seed)
    left = rng.standard_normal((n, len(squares)))
    left = np.linalg.qr(left - left.mean(axis=0))[0]
    right = np.linalg.qr(rng.standard_normal((d, len(squares))))[0].T
    return left * np.sqrt(squares) @ right + 5.0, right


def test_a_small_gap_is_resolved():
    squares = np.r_[np.geomspace(100, 1, 10), np.geomspace(0.99, 0.2, 90)]
    x, right = planted(300, 150, squares)
    found = fit_pca(x, 10, solver="randomised", block_rows=50)
    assert found.converged
    outside = right[:10] - right[:10] @ found.components.T @ found.components
    assert np.linalg.norm(outside, 2) < 1e-6
    np.testing.assert_allclose(found.singular_values**2, squares[:10], rtol=1e-9)
    np.testing.assert_allclose(found.explained_variance_ratio, squares[:10] / squares.sum())


def test_restarts_keep_the_answer():
    squares = np.r_[1.0, np.linspace(0.999, 0.9, 280)]
    x, _ = planted(400, 300, squares)
    source = ArrayBlocks({"x": x}, 100)
    solver = run_passes(RandomisedSolver(300, 1, oversample=0, tol=1e-7), source)
    assert solver.converged and solver.n_passes > 10
    assert solver.basis.shape[1] < 150
    np.testing.assert_allclose(solver.result().singular_values ** 2, 1.0, rtol=1e-9)


def test_too_few_passes_are_told():
    x = rows(300, 80)
    source = ArrayBlocks({"x": x}, 64)
    solver = run_passes(RandomisedSolver(80, 4, max_passes=1), source)
    assert solver.done and not solver.result().converged
    assert run_passes(RandomisedSolver(80, 4), source).result().converged


def test_the_seed_and_the_blocks_change_nothing_but_rounding():
    x = rows(200, 60)
    one = fit_pca(x, 3, solver="randomised", seed=1)
    other = fit_pca(x, 3, solver="randomised", seed=2, block_rows=17)
    np.testing.assert_allclose(one.components, other.components, atol=1e-7)


def test_products_of_moments_merge_exactly():
    x = rows(90, 12, 1e3)
    directions = np.linalg.qr(np.random.default_rng(3).standard_normal((12, 4)))[0]
    total = MomentProducts.of(x[:0], directions)
    for part in (x[:20], x[20:21], x[21:]):
        total = total.merge(MomentProducts.of(part, directions))
    total = MomentProducts.from_arrays(total.to_arrays())
    whole = Moments.of(x)
    np.testing.assert_allclose(total.products, whole.second @ directions, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(total.total, np.trace(whole.second), rtol=1e-11)
    np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-14)


def test_solvers_refuse_what_makes_no_sense():
    for make, text in (
        (lambda: RandomisedSolver(5, 6), "n_components is 6"),
        (lambda: RandomisedSolver(5, 2, tol=0), "tol"),
        (lambda: RandomisedSolver(5, 2).result(), "no rows"),
        (lambda: GramSolver().result(), "both passes"),
        (lambda: RowSlabs((), (0,)), "at least one"),
    ):
        with pytest.raises(UsageError, match=text):
            make()


def test_slabs_of_any_width_give_the_gram_solution():
    x = rows(20, 33)
    source = ArrayBlocks({"x": x}, 7)
    slabs = slabs_of(source, 33, width=10)
    assert slabs.n_blocks == 4 and slabs.key != slabs_of(source, 33).key
    found = run_passes(GramSolver(5), slabs).result()
    expected = fit_pca(x, 5, solver="covariance")
    np.testing.assert_allclose(found.components, expected.components, atol=1e-9)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-13)


# ---- saved, merged, and by group


def test_results_round_trip_through_arrays():
    found = fit_pca(rows(30, 6), 3)
    again = PCA.from_arrays(found.to_arrays())
    for name, value in found.to_arrays().items():
        np.testing.assert_array_equal(getattr(again, name), value)
    assert again.n_rows == 30 and again.converged is True


@pytest.mark.parametrize("sizes", [(12, 9), (60, 25)])
def test_merged_results_equal_a_fit_of_all_rows(sizes):
    x = rows(sum(sizes), 30, mean=10.0)
    parts = [fit_pca(part) for part in np.split(x, [sizes[0]])]
    found, expected = parts[0].merge(parts[1], 5), fit_pca(x, 5)
    np.testing.assert_allclose(found.components, expected.components, atol=1e-9)
    for name in ("mean", "explained_variance", "explained_variance_ratio", "noise_variance"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9)
    assert found.n_rows == sum(sizes)
    with pytest.raises(UsageError, match="features"):
        parts[0].merge(fit_pca(x[:, :4]))


def test_merging_truncated_results_keeps_the_total_variance():
    x = rows(200, 20)
    x[:100] += 3
    ours = fit_pca(x[:100], 6).merge(fit_pca(x[100:], 6))
    assert ours.total_variance == pytest.approx(x.var(axis=0, ddof=1, dtype=float).sum())
    whole = fit_pca(x, 6)
    assert len(ours.components) == 6
    share = ours.explained_variance[:2] / whole.explained_variance[:2]
    assert ((share > 0.95) & (share <= 1)).all()  # what was left out is missing, nothing is added


# ---- back to the latent


def test_components_lead_back_to_the_latent_that_made_them():
    rng = np.random.default_rng(4)
    z = rng.standard_normal((400, 5)) + 2.0
    mixing = np.linalg.qr(rng.standard_normal((30, 5)))[0] * [9, 7, 5, 3, 2]
    x = z @ mixing.T
    pca = fit_pca(x, 5)
    found = regress_components(pca, x, z, block_rows=64)
    scores = pca.transform(x)
    design = np.linalg.lstsq(scores, z - z.mean(axis=0), rcond=None)[0]
    np.testing.assert_allclose(found.coefficients, design, atol=1e-9)
    assert found.r2 == pytest.approx(1.0)
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1.0)
    np.testing.assert_allclose(found.sd, (z @ found.directions.T).std(axis=0, ddof=1))
    # a step along the latent direction is a step along the component, and along no other
    moved = (found.coefficients @ mixing.T) @ pca.components.T
    np.testing.assert_allclose(moved, np.eye(5), atol=1e-9)
    with pytest.raises(DataError, match="no variance"):
        regress_components(fit_pca(x, 8), x, z)
