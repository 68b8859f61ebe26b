"""SeFa, Jacobian subspaces and robust PCA against closed forms, LAPACK and planted structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from generators.affine import affine_layers
from generators.protocols import Code
from schemas.errors import DataError, UsageError
from tests.stylegan2_layouts import tiny
from transforms.directions.algebra import principal_angles
from transforms.directions.jacobian import (
    JacobianGram,
    gram_diagonal,
    jacobian_gram,
    jacobian_subspace,
    rectangle_mask,
)
from transforms.directions.sefa import sefa
from transforms.directions.subspaces import region_subspace, robust_pca, subspace_iteration


def symmetric(rng, values):
    q = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
    return (q * values) @ q.T, q


# ---- SeFa ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [False, True])
def test_sefa_is_the_eigenvectors_of_the_stacked_weights(rng, normalise):
    weights = [rng.normal(size=(n, 6)) * scale for n, scale in [(9, 1.0), (4, 30.0)]]
    found = sefa(weights, 3, normalise=normalise)
    stacked = np.concatenate(weights)
    if normalise:
        stacked /= np.linalg.norm(stacked, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(stacked.T @ stacked)
    np.testing.assert_allclose(found.eigenvalues, values[::-1][:3], rtol=1e-12)
    np.testing.assert_allclose(np.abs((found.vectors @ vectors[:, ::-1][:, :3]).diagonal()), 1)
    assert found.explained_ratio[0] == pytest.approx(values[-1] / values.sum())
    first = np.argmax(np.abs(found.vectors), axis=1)
    assert (found.vectors[np.arange(3), first] > 0).all()
    wide = sefa([rng.normal(size=(2, 6))])  # fewer channels than coordinates
    assert wide.vectors.shape == (6, 6) and np.count_nonzero(wide.eigenvalues) == 2


def test_sefa_refuses_what_it_cannot_factorise(rng):
    with pytest.raises(UsageError, match="one latent"):
        sefa([np.ones((2, 3)), np.ones((2, 4))])
    with pytest.raises(UsageError, match="one latent"):
        sefa([np.ones(2), np.ones(3)])
    with pytest.raises(UsageError, match="1 to 3"):
        sefa([np.ones((2, 3))], 4)
    with pytest.raises(DataError, match="1 channels have zero"):
        sefa([np.array([[1.0, 2], [0, 0]])])


def test_affine_layers_are_the_generator_s_own():
    g = tiny()
    codes = torch.randn(
        3, *g.facts.space("w_plus").shape, generator=torch.Generator().manual_seed(0)
    )
    layers = affine_layers(g)
    parts = [codes[:, a.ws_index].numpy() @ a.weight.T + a.bias for a in layers]
    np.testing.assert_allclose(
        np.concatenate(parts, axis=1),
        g.convert(Code("w_plus", codes), "s").main,
        rtol=1e-4,
        atol=1e-5,
    )
    assert [a.name for a in affine_layers(g, [0], to_rgb=False)] == ["b4.conv1"]
    with pytest.raises(UsageError, match="layers"):
        affine_layers(g, [99])
    with pytest.raises(UsageError, match="no affine layers"):
        affine_layers(object())


# ---- subspaces -----------------------------------------------------------------------------------


def test_subspace_iteration_finds_leading_eigenvectors(rng):
    matrix, q = symmetric(rng, np.array([9.0, 5, 4.9, 1, 0.5, 0.1, 0, 0, 0, 0]))
    found = subspace_iteration(lambda v: v @ matrix, 10, 3, tolerance=1e-8)
    assert found.converged and found.residual <= 1e-8
    np.testing.assert_allclose(found.eigenvalues, [9, 5, 4.9], rtol=1e-8)
    np.testing.assert_allclose(principal_angles(found.vectors, q[:, :3].T), 0, atol=1e-7)
    rest = subspace_iteration(lambda v: v @ matrix, 10, 1, avoid=q[:, :1].T, tolerance=1e-8)
    np.testing.assert_allclose(np.abs(rest.vectors[0] @ q[:, 1]), 1, rtol=1e-6)
    short = subspace_iteration(lambda v: v @ matrix, 10, 3, max_iterations=1)
    assert not short.converged
    with pytest.raises(UsageError, match="dimensions left"):
        subspace_iteration(lambda v: v, 10, 10, avoid=q[:, :1].T)
    with pytest.raises(DataError, match="not finite"):
        subspace_iteration(lambda v: v * np.nan, 10, 1)


def test_a_region_s_directions_leave_the_background_alone(rng):
    background, qb = symmetric(rng, np.r_[50.0, 20, 10, np.full(9, 1e-3)])
    foreground = rng.normal(size=(12, 12))
    foreground = foreground @ foreground.T
    front, behind = region_subspace(
        lambda v: v @ foreground, lambda v: v @ background, 12, 2,
        background_rank=3, tolerance=1e-9, max_iterations=500,
    )  # fmt: skip
    np.testing.assert_allclose(principal_angles(behind.vectors, qb[:, :3].T), 0, atol=1e-6)
    null = qb[:, 3:]
    values, vectors = np.linalg.eigh(null.T @ foreground @ null)
    expected = (null @ vectors[:, ::-1][:, :2]).T
    np.testing.assert_allclose(principal_angles(front.vectors, expected), 0, atol=1e-5)
    np.testing.assert_allclose(front.eigenvalues, values[::-1][:2], rtol=1e-6)
    changed = np.einsum("kd,de,ke->k", front.vectors, background, front.vectors)
    assert (changed <= 1e-3 * (1 + 1e-6)).all()
    # the paper's projected vector changes the foreground less
    top = np.linalg.eigh(foreground)[1][:, -1]
    projected = null @ (null.T @ top)
    projected /= np.linalg.norm(projected)
    assert front.eigenvalues[0] > projected @ foreground @ projected


def test_robust_pca_recovers_a_low_rank_matrix_under_sparse_errors(rng):
    low = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 50))
    sparse = np.zeros((60, 50))
    hit = rng.random((60, 50)) < 0.05
    sparse[hit] = rng.choice([-20.0, 20.0], hit.sum())
    found = robust_pca(low + sparse)
    assert found.converged
    assert np.linalg.norm(found.low_rank - low) < 1e-4 * np.linalg.norm(low)
    assert np.linalg.matrix_rank(found.low_rank, tol=1e-3) == 3
    np.testing.assert_allclose(found.low_rank + found.sparse, low + sparse, atol=1e-4)
    assert not robust_pca(low + sparse, max_iterations=2).converged
    assert robust_pca(np.zeros((3, 3))).converged
    with pytest.raises(UsageError, match="positive"):
        robust_pca(low, -1.0)
    with pytest.raises(DataError, match="finite matrix"):
        robust_pca(np.array([[np.nan]]))


# ---- Jacobians -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setting():
    g = tiny()
    g.network.double()
    codes = torch.randn(2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def draw(w):
        images = g.network.synthesis(w[:, None].expand(-1, g.config.num_ws, -1))
        return torch.nn.functional.avg_pool2d(images, images.shape[-1] // 4)

    shape = draw(codes[:1]).shape[1:]
    exact = []
    for code in codes:  # one backward pass with a row for every output value
        x = code.expand(shape.numel(), 8).clone().requires_grad_()
        every = torch.eye(shape.numel(), dtype=torch.float64).reshape(-1, *shape)
        exact.append(torch.autograd.grad(draw(x), x, every)[0].numpy())
    return draw, codes, exact, tuple(shape)


def test_the_gram_is_that_of_the_exact_jacobian(setting):
    draw, codes, exact, shape = setting
    expected = sum(j.T @ j for j in exact) / 2
    for batch_size in (3, 8):
        gram = jacobian_gram(JacobianGram(draw, codes, batch_size=batch_size))
        np.testing.assert_allclose(gram, expected, rtol=1e-9, atol=1e-9 * expected.max())
    mask = rectangle_mask(shape[-2:], 0.0, 0.0, 0.5, 1.0).double()
    rows = np.broadcast_to(mask.numpy(), shape).ravel()
    masked = sum((rows[:, None] * j).T @ (rows[:, None] * j) for j in exact) / 2
    found = jacobian_gram(JacobianGram(draw, codes, mask))
    np.testing.assert_allclose(found, masked, rtol=1e-9, atol=1e-9 * expected.max())


def test_jacobian_subspace_is_the_top_singular_vectors(setting):
    draw, codes, exact, shape = setting
    found = jacobian_subspace(JacobianGram(draw, codes[:1]), 3, tolerance=1e-6)
    _, values, vectors = np.linalg.svd(exact[0], full_matrices=False)
    np.testing.assert_allclose(np.sqrt(found.eigenvalues), values[:3], rtol=1e-7)
    np.testing.assert_allclose(np.abs((found.vectors @ vectors[:3].T).diagonal()), 1, rtol=1e-7)
    left = rectangle_mask(shape[-2:], 0.0, 0.0, 0.5, 1.0).double()
    region = jacobian_subspace(
        JacobianGram(draw, codes[:1], left), 1, background=1 - left, background_rank=3,
        tolerance=1e-5, max_iterations=100,
    )  # fmt: skip
    rows = np.broadcast_to(left.numpy(), shape).ravel()
    change = np.abs(exact[0] @ region.vectors[0]) ** 2
    free = np.abs(exact[0] @ found.vectors[0]) ** 2
    inside, outside = change @ rows, change @ (1 - rows)
    assert inside / outside > (free @ rows) / (free @ (1 - rows))
    bound = np.linalg.svd(exact[0] * (1 - rows)[:, None], compute_uv=False)[3] ** 2
    assert outside <= bound * (1 + 1e-6)
    with pytest.raises(UsageError, match="needs a foreground"):
        jacobian_subspace(JacobianGram(draw, codes), 1, background=left)


def test_random_probes_estimate_every_coordinate_s_effect(setting):
    draw, codes, exact, shape = setting
    mask = rectangle_mask(shape[-2:], 0.0, 0.0, 0.5, 1.0).double()
    rows = np.broadcast_to(mask.numpy(), shape).ravel()
    expected = sum(((rows[:, None] * j) ** 2).sum(axis=0) for j in exact) / 2
    found = gram_diagonal(JacobianGram(draw, codes, mask, batch_size=64), n_probes=96)
    np.testing.assert_allclose(found, expected, rtol=6 * np.sqrt(2 / 192))


def test_each_code_may_be_drawn_in_its_own_way(rng):
    """Two linear drawings: the mean of their J'J."""
    first, second = (torch.from_numpy(rng.normal(size=(5, 3))) for _ in range(2))
    draws = [lambda x, m=m: x @ m.T for m in (first, second)]
    gram = JacobianGram(draws, torch.zeros(2, 3, dtype=torch.float64))
    expected = (first.T @ first + second.T @ second) / 2
    np.testing.assert_allclose(jacobian_gram(gram), expected, rtol=1e-12)


def test_masks_cover_partial_pixels():
    wide = rectangle_mask((2, 4), 0.25, 0.0, 0.5, 0.5)[0]
    assert wide.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    mask = rectangle_mask((4, 4), 0.125, 0.5, 1.0, 1.0)
    assert mask.shape == (1, 4, 4)
    np.testing.assert_allclose(mask[0, 3], [0.5, 1, 1, 1])
    np.testing.assert_allclose(mask[0, 1], 0)
    with pytest.raises(UsageError, match="not a rectangle"):
        rectangle_mask((4, 4), 0.5, 0, 0.5, 1)
    with pytest.raises(DataError, match="codes have shape"):
        JacobianGram(lambda x: x, torch.zeros(3))
