"""Landmark factorisation on planted shapes and cameras."""

from dataclasses import replace

import numpy as np
import pytest

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import ArrayBlocks
from transforms.accumulate.passes import run_passes
from transforms.nrsfm.cameras import (
    decompose_cameras,
    mean_rotation,
    rotation_of_angles,
)
from transforms.nrsfm.errors import camera_frame_error, similarity_error
from transforms.nrsfm.fit import NRSfMSolver, factorise
from transforms.nrsfm.joint import JointSolver
from transforms.nrsfm.passes import unit_axes


def scene(n=250, n_points=20, n_shapes=2, noise=0.0, seed=0):
    """Frames of a known rank-one model; modes are orthogonal to the rigid rows, as they must be."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(np.c_[np.ones(n_points), rng.standard_normal((n_points, 5 + n_shapes))])[0]
    rigid = np.diag([30.0, 34.0, 20.0]) @ q[:, 1:4].T
    modes = q[:, 4 : 4 + n_shapes].T
    axes = rng.standard_normal((n_shapes, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    coefficients = rng.standard_normal((n, n_shapes)) * np.linspace(5, 2.5, n_shapes)
    angles = rng.uniform(-1, 1, (n, 3)) * [0.4, 0.8, 0.3]
    scale = rng.uniform(0.8, 1.2, n)
    world = rigid + np.einsum("fk,kj,kl->fjl", coefficients, axes, modes)
    truth = scale[:, None, None] * (rotation_of_angles(angles) @ world)
    shift = rng.standard_normal((n, 2)) * 10
    points = truth[:, :2] + shift[:, :, None] + noise * rng.standard_normal((n, 2, n_points))
    front = np.argsort(rigid[2])[-5:]
    return {
        "points": points,
        "truth": truth,
        "angles": angles,
        "scale": scale,
        "shift": shift,
        "front": front,
        "rigid": rigid,
    }


def test_rigid_scene_is_recovered_exactly():
    s = scene(n_shapes=0)
    found = factorise(s["points"], 0, front=s["front"])
    assert found.cameras.shape == (250, 2, 3) and found.basis.shape == (0, 3, 20)
    np.testing.assert_allclose(found.project(), s["points"], atol=1e-8)
    assert camera_frame_error(found.shapes(), s["truth"]).max() < 1e-8
    assert similarity_error(found.shapes(), s["truth"])[0].max() < 1e-8  # the depth sign is right
    np.testing.assert_allclose(found.translation, s["shift"], atol=1e-9)
    np.testing.assert_allclose(found.scale / found.scale.mean(), s["scale"] / s["scale"].mean())
    assert found.flags == {
        "metric_clipped": False,
        "depth_sign": "front",
        "left_out": 0,
        "converged": True,
    }


def test_gauge_mean_rotation_at_zero_and_angles_follow():
    s = scene(n_shapes=0)
    found = factorise(s["points"], 0, front=s["front"])
    rotations = decompose_cameras(found.cameras)[1]
    np.testing.assert_allclose(mean_rotation(rotations.sum(axis=0)), np.eye(3), atol=1e-8)
    np.testing.assert_allclose((found.scale**2).mean(), 1, rtol=1e-8)
    # the recovered yaw differs from the true one by the true mean only
    assert np.corrcoef(found.angles[:, 1], s["angles"][:, 1])[0, 1] > 0.99


@pytest.mark.parametrize("block_rows", [64, 1000])
def test_rank_one_scene_is_recovered(block_rows):
    s = scene(n_shapes=2)
    found = factorise(s["points"], 2, front=s["front"], ridge=0.0, block_rows=block_rows)
    rigid = factorise(s["points"], 0, front=s["front"])
    error = similarity_error(found.shapes(), s["truth"])[0]
    # orthogonal modes leave the first singular vectors rigid only in the limit of many frames
    assert error.mean() < 0.03
    assert error.mean() < 0.3 * similarity_error(rigid.shapes(), s["truth"])[0].mean()
    assert found.coefficients.shape == (250, 2) and found.basis.shape == (2, 3, 20)
    np.testing.assert_allclose(np.linalg.norm(found.model.axes, axis=1), 1)
    np.testing.assert_allclose(found.model.modes @ found.model.modes.T, np.eye(2), atol=1e-9)
    np.testing.assert_allclose(found.model.modes @ found.rigid.T, 0, atol=1e-7)


def test_noise_and_the_estimated_ridge_stay_below_the_rigid_fit():
    s = scene(n_shapes=3, noise=0.5)
    rigid = factorise(s["points"], 0, front=s["front"])
    found = factorise(s["points"], 3, front=s["front"])
    assert found.flags["converged"] and (found.model.ridge > 0).all()
    assert 0.2 < found.model.noise < 0.8
    errors = [similarity_error(m.shapes(), s["truth"])[0].mean() for m in (found, rigid)]
    assert errors[0] < 0.7 * errors[1]


def test_axes_minimise_the_objective():
    s = scene(n_shapes=2, noise=0.3)
    found = factorise(s["points"], 2, front=s["front"], ridge=1.0)
    model = found.model
    centred = s["points"] - s["points"].mean(axis=2, keepdims=True)

    def cost(axes):
        p = np.einsum("fij,kj->fki", found.cameras, axes)
        y = np.einsum("fil,kl->fki", centred, model.modes)
        a = (p * y).sum(axis=2) / ((p**2).sum(axis=2) + 1.0)
        return ((y - a[..., None] * p) ** 2).sum(axis=(0, 2)) + (a**2).sum(axis=0)

    best = cost(model.axes)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        other = model.axes + size * rng.standard_normal((2, 3))
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        assert (cost(other) >= best * (1 - 1e-9)).all()


def test_unseen_frames_get_the_same_parameters():
    s = scene(n_shapes=2, noise=0.2)
    found = factorise(s["points"], 2, front=s["front"])
    again = found.model.fit(s["points"][37:41])
    np.testing.assert_allclose(again.coefficients, found.coefficients[37:41])
    np.testing.assert_allclose(again.shapes(), found.shapes()[37:41])
    names, q = again.parameters()
    assert names[:6] == ["k11", "k12", "k22", "pitch", "yaw", "roll"] and q.shape == (4, 10)
    with pytest.raises(UsageError, match="20"):
        found.model.fit(s["points"][:, :, :7])


def test_frames_with_too_few_points_are_left_out_and_counted():
    s = scene(n_shapes=1)
    s["points"][5, 0, 3:] = np.nan
    found = factorise(s["points"], 1, front=s["front"], refine=False)
    rest = factorise(np.delete(s["points"], 5, axis=0), 1, front=s["front"])
    assert found.flags["left_out"] == 1
    assert np.isnan(found.shapes()[5]).all() and np.isnan(found.coefficients[5]).all()
    np.testing.assert_allclose(found.rigid, rest.rigid, atol=1e-6)


def test_the_shape_is_centred_where_points_are_missing():
    s = scene(n_shapes=1)
    points = s["points"][:80].copy()
    points[np.broadcast_to(np.random.default_rng(3).random((80, 1, 20)) < 0.2, points.shape)] = (
        np.nan
    )
    found = factorise(points, 1, front=s["front"])
    np.testing.assert_allclose(found.rigid.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(found.model.modes.mean(axis=1), 0, atol=1e-12)


def test_the_refinement_ends_where_a_coordinate_gains_less_than_the_tolerance(monkeypatch):
    s, seen, step = scene(n_shapes=1), [], JointSolver.step

    def recorded(self, total):
        seen.append((self, total))
        return step(self, total)

    monkeypatch.setattr(JointSolver, "step", recorded)
    factorise(s["points"][:60], 1, front=s["front"], refine=True)
    solver, total = seen[0]
    n = float(total["seen"])
    cost = float(total["cost"]) + 2 * n * np.log(solver.model_.noise**2)
    for gain, phase in ((1.9, "metric"), (2.1, solver.phase)):  # two coordinates a point
        before = replace(solver, cost=cost + gain * 1e-3 * n, tol=1e-3, max_rounds=9)
        assert step(before, total).phase == phase, gain


def test_depth_sign_follows_the_hint_both_ways():
    s = scene(n_shapes=1)
    back = np.setdiff1d(np.arange(20), s["front"])
    one = factorise(s["points"], 1, front=s["front"])
    other = factorise(s["points"], 1, front=back)
    np.testing.assert_allclose(one.rigid[:2], other.rigid[:2], atol=1e-9)
    np.testing.assert_allclose(one.rigid[2], -other.rigid[2], atol=1e-9)
    np.testing.assert_allclose(one.project(), other.project(), atol=1e-8)
    assert factorise(s["points"], 1).flags["depth_sign"] == "arbitrary"


def test_sixty_eight_points_know_their_nose():
    s = scene(n_points=68, n_shapes=0)
    found = factorise(s["points"], 0)
    nose = np.arange(27, 36)
    assert found.flags["depth_sign"] == "assumed"
    given = factorise(s["points"], 0, front=nose)
    assert given.flags["depth_sign"] == "front"
    assert found.rigid[2, nose].mean() > np.delete(found.rigid[2], nose).mean()


def test_row_order_and_sign_of_the_data_order_do_not_matter():
    s = scene(n_shapes=2, noise=0.2)
    order = np.random.default_rng(1).permutation(250)
    one = factorise(s["points"], 2, front=s["front"])
    other = factorise(s["points"][order], 2, front=s["front"], block_rows=50)
    np.testing.assert_allclose(one.rigid, other.rigid, atol=1e-6)
    np.testing.assert_allclose(one.basis, other.basis, atol=1e-5)


def test_bad_input_is_refused():
    s = scene(n_shapes=0)
    with pytest.raises(UsageError, match="shape"):
        factorise(s["points"][0], 0)
    with pytest.raises(UsageError, match="at most 16"):
        factorise(s["points"], 17)
    with pytest.raises(UsageError, match="n_shapes"):
        factorise(s["points"], -1)
    with pytest.raises(UsageError, match="ridge"):
        factorise(s["points"], 1, ridge=-1.0)
    with pytest.raises(UsageError, match="front"):
        factorise(s["points"], 0, front=[99])
    with pytest.raises(DataError, match="at least 3"):
        factorise(s["points"][:2], 0)
    flat = s["points"][:1].repeat(9, axis=0)
    with pytest.raises(DataError, match="fewer than 3 dimensions"):
        factorise(flat, 0)
    with pytest.raises(UsageError, match="not done"):
        NRSfMSolver(1).model()


def test_a_stopped_solver_says_so():
    s = scene(n_shapes=2, noise=0.3)
    solver = NRSfMSolver(2, max_rounds=1)
    model = run_passes(solver, ArrayBlocks({"points": s["points"]}, 100)).model()
    assert model.flags["converged"] is False


def test_depth_survives_deformation_seen_from_two_sides():
    """Two narrow groups of views and a moving mouth: depth is neither stretched nor lost."""
    rng = np.random.default_rng(2)
    shape = rng.standard_normal((3, 30)) * np.array([[1.0], [0.8], [0.4]])
    shape -= shape.mean(axis=1, keepdims=True)
    angles = np.zeros((400, 3))
    angles[:, 0], angles[:, 2] = rng.normal(0, 0.03, 400), rng.normal(0, 0.05, 400)
    angles[:, 1] = np.where(np.arange(400) % 2, 0.5, -0.5) + rng.normal(0, 0.05, 400)
    moves = np.zeros((3, 30))
    moves[1, :6] = 1.0
    shapes = shape + rng.uniform(0, 1, (400, 1, 1)) * moves
    shapes -= shapes.mean(axis=2, keepdims=True)
    truth = rotation_of_angles(angles) @ shapes
    found = factorise(truth[:, :2], 0)
    error = similarity_error(found.shapes(), truth, reflect=True)[0].mean()
    assert error < 0.12


def test_unit_axes_minimise_on_the_sphere():
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((6, 3, 3))
    normal, right = roots @ np.swapaxes(roots, 1, 2), rng.standard_normal((6, 3))
    d = unit_axes(normal, right)
    np.testing.assert_allclose(np.linalg.norm(d, axis=1), 1)
    sphere = rng.standard_normal((5000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    for h, g, x in zip(normal, right, d, strict=True):
        costs = np.einsum("ni,ij,nj->n", sphere, h, sphere) - 2 * sphere @ g
        assert x @ h @ x - 2 * g @ x <= costs.min() + 1e-9
