"""Landmark factorisation on planted shapes and cameras."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from schemas.errors import DataError, UsageError
from transforms.blocks import ArrayBlocks
from transforms.cameras import (
    angles_of_rotation,
    decompose_cameras,
    mean_rotation,
    metric_conditions,
    metric_upgrade,
    points_of_landmarks,
    rotation_of_angles,
)
from transforms.nrsfm import NRSfMSolver, factorise
from transforms.nrsfm_passes import unit_axes
from transforms.passes import run_passes
from transforms.shape_errors import camera_frame_error, similarity_error


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


def test_frames_with_missing_points_are_left_out_and_counted():
    s = scene(n_shapes=1)
    s["points"][5, 0, 3] = np.nan
    found = factorise(s["points"], 1, front=s["front"])
    rest = factorise(np.delete(s["points"], 5, axis=0), 1, front=s["front"])
    assert found.flags["left_out"] == 1
    assert np.isnan(found.shapes()[5]).all() and np.isnan(found.coefficients[5]).all()
    np.testing.assert_allclose(found.rigid, rest.rigid, atol=1e-9)


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
    assert found.flags["depth_sign"] == "front"
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


# ---- cameras


def test_angles_and_rotations_are_inverse_and_equal_scipy():
    rng = np.random.default_rng(0)
    angles = rng.uniform(-1, 1, (50, 3)) * [3.0, 1.5, 3.0]
    rotations = rotation_of_angles(angles)
    np.testing.assert_allclose(angles_of_rotation(rotations), angles, atol=1e-10)
    peer = Rotation.from_euler("xyz", angles).as_matrix()  # extrinsic x, y, z: Rz Ry Rx
    np.testing.assert_allclose(rotations, peer, atol=1e-12)


def test_positive_yaw_turns_to_the_images_right():
    nose = np.array([0.0, 0.0, 1.0])
    turned = rotation_of_angles(np.array([[0.0, 0.5, 0.0]]))[0] @ nose
    assert turned[0] > 0 and turned[2] > 0


def test_cameras_decompose_as_in_algorithm_2():
    rng = np.random.default_rng(0)
    cameras = rng.standard_normal((30, 2, 3))
    k, rotations = decompose_cameras(cameras)
    np.testing.assert_allclose(k @ rotations[:, :2], cameras, atol=1e-12)
    assert (k[:, 0, 0] > 0).all() and (k[:, 1, 1] > 0).all() and (k[:, 1, 0] == 0).all()
    np.testing.assert_allclose(
        rotations @ np.swapaxes(rotations, 1, 2), np.broadcast_to(np.eye(3), (30, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    for camera, upper in zip(cameras[:5], k[:5], strict=True):  # thesis Algorithm 2, step by step
        q, r = np.linalg.qr(np.flipud(camera).T)
        kk = np.fliplr(np.flipud(r.T))
        np.testing.assert_allclose(kk @ np.diag(np.sign(np.diag(kk))), upper, atol=1e-12)
        assert q.shape == (3, 2)
    with pytest.raises(UsageError, match="shape"):
        decompose_cameras(cameras[0])


def test_metric_upgrade_undoes_an_affine_map_and_flags_indefinite_ones():
    rng = np.random.default_rng(0)
    rotations = rotation_of_angles(rng.uniform(-1, 1, (40, 3)))[:, :2]
    distorted = rotations @ (np.diag([1.0, 0.5, 0.2]) + 0.1 * rng.standard_normal((3, 3)))
    upgrade, clipped = metric_upgrade(*metric_conditions(distorted, np.ones(40)))
    metric = distorted @ upgrade
    gram = metric @ np.swapaxes(metric, 1, 2)
    np.testing.assert_allclose(gram / gram[:, :1, :1], np.tile(np.eye(2), (40, 1, 1)), atol=1e-8)
    assert not clipped
    indefinite = np.eye(6) - 0.9 * np.outer(c := np.array([1, 0, 0, 1, 0, -1.0]), c) / 3
    assert metric_upgrade(indefinite, np.eye(6))[1]


def test_metric_upgrade_does_not_depend_on_the_affine_basis():
    rng = np.random.default_rng(1)
    rotations = rotation_of_angles(rng.uniform(-0.5, 0.5, (60, 3)))[:, :2]
    noisy = rotations + 0.02 * rng.standard_normal(rotations.shape)
    basis = np.diag([1.0, 0.7, 0.05]) @ rotation_of_angles(np.ones((1, 3)))[0]
    ways = [b @ metric_upgrade(*metric_conditions(noisy @ b, np.ones(60)))[0] for b in
            (np.eye(3), basis)]  # fmt: skip
    one, other = (w @ w.T / np.trace(w @ w.T) for w in ways)
    np.testing.assert_allclose(one, other, atol=1e-7)


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


def test_landmarks_turn_upright_once():
    landmarks = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    np.testing.assert_array_equal(points_of_landmarks(landmarks), [[[1, 3], [-2, -4]]])


# ---- errors


def test_similarity_error_ignores_similarities_and_minds_mirrors():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((5, 3, 12))
    moved = 2.5 * (rotation_of_angles(rng.uniform(-1, 1, (5, 3))) @ truth) + 4
    error, aligned = similarity_error(moved, truth)
    np.testing.assert_allclose(error, 0, atol=1e-12)
    np.testing.assert_allclose(aligned, truth, atol=1e-10)
    mirrored = moved * np.array([1, 1, -1])[:, None]
    assert similarity_error(mirrored, truth)[0].min() > 0.1
    assert similarity_error(mirrored, truth, reflect=True)[0].max() < 1e-12
    noisy = truth + 0.1 * rng.standard_normal(truth.shape)
    assert 0.03 < similarity_error(noisy, truth)[0].mean() < 0.15
    with pytest.raises(UsageError, match="frames"):
        similarity_error(truth, truth[:, :2])


def test_camera_frame_error_fits_nothing_but_the_mirror():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((4, 3, 9))
    truth -= truth.mean(axis=2, keepdims=True)
    assert camera_frame_error(truth * np.array([1, 1, -1])[:, None] + 3, truth).max() < 1e-12
    np.testing.assert_allclose(camera_frame_error(1.1 * truth, truth), 0.1)
