"""Principal components against scikit-learn and LAPACK."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA as Peer

from schemas.errors import DataError, UsageError
from transforms.moments import Moments
from transforms.pca import PCA, choose_solver, fit_pca, solve_pca

SOLVERS = ["covariance", "gram"]


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
    assert ours.n_rows == n


def test_default_keeps_everything_and_inverts():
    x = rows(50, 8)
    model = fit_pca(x)
    assert model.components.shape == (8, 8)
    np.testing.assert_allclose(model.inverse_transform(model.transform(x)), x, atol=1e-10)
    np.testing.assert_allclose(model.sd, model.transform(x).std(axis=0, ddof=1), rtol=1e-9)
    assert model.noise_variance == 0


def test_more_components_than_rank_stay_orthonormal():
    x = rows(6, 30)
    model = fit_pca(x, 6, solver="gram")
    np.testing.assert_allclose(model.components @ model.components.T, np.eye(6), atol=1e-10)
    assert model.explained_variance[-1] == 0


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


def test_solver_by_cost():
    assert choose_solver(100_000, 512) == "covariance"
    assert choose_solver(100, 512) == "gram"
    assert choose_solver(5000, 9216) == "gram"
    assert choose_solver(50_000, 9216) == "covariance"
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
                fit_pca(x, solver=solver)


def test_constant_rows_have_no_variance():
    model = fit_pca(np.ones((5, 3)))
    assert isinstance(model, PCA)
    assert (model.explained_variance == 0).all() and (model.explained_variance_ratio == 0).all()
