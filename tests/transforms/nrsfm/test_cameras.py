"""Cameras, angles, the metric upgrade, rotations to known shapes, and measures of shape errors."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from schemas.errors import UsageError
from transforms.accumulate.landmarks import points_of_landmarks
from transforms.nrsfm.cameras import (
    angles_of_rotation,
    decompose_cameras,
    fit_views,
    metric_conditions,
    metric_upgrade,
    nearest_scaled_rotation,
    rotation_of_angles,
)
from transforms.nrsfm.errors import camera_frame_error, similarity_error, structure_error


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


def test_views_are_the_least_squares_rotations():
    rng = np.random.default_rng(0)
    shapes = rng.standard_normal((6, 3, 9))
    true = rotation_of_angles(rng.uniform(-0.8, 0.8, (6, 3)))
    exact = true[:, :2] @ shapes
    noisy = exact + 0.3 * rng.standard_normal(exact.shape)
    gram = shapes @ np.swapaxes(shapes, 1, 2)
    found = fit_views(gram, exact @ np.swapaxes(shapes, 1, 2))
    np.testing.assert_allclose(found, true, atol=1e-9)
    found = fit_views(gram, noisy @ np.swapaxes(shapes, 1, 2), rounds=40)
    np.testing.assert_allclose(np.linalg.det(found), 1)
    for x, shape, start, rotation in zip(noisy, shapes, true, found, strict=True):

        def cost(turn, x=x, shape=shape, start=start):
            return ((x - (Rotation.from_rotvec(turn).as_matrix() @ start)[:2] @ shape) ** 2).sum()

        peer = minimize(cost, np.zeros(3), tol=1e-10).fun
        assert ((x - rotation[:2] @ shape) ** 2).sum() <= peer * (1 + 1e-6)


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


def test_structure_error_is_free_of_one_orthogonal_map_only():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((6, 3, 11))
    turn = rotation_of_angles(np.array([[0.3, -1.0, 2.0]]))[0] * np.array([1, 1, -1])
    assert structure_error(turn @ truth + 2, truth) < 1e-12
    centred = truth - truth.mean(axis=2, keepdims=True)
    sigma = centred.std(axis=2).mean()
    expected = 0.1 * np.linalg.norm(centred, axis=1).mean() / sigma
    np.testing.assert_allclose(structure_error(1.1 * truth, truth), expected)
    each = rotation_of_angles(rng.uniform(-1, 1, (6, 3)))
    assert structure_error(each @ truth, truth) > 0.1


def test_nearest_scaled_rotations_are_those_of_the_svd():
    rng = np.random.default_rng(0)
    cameras = rng.standard_normal((40, 2, 3))
    cameras[3, 1] = 2 * cameras[3, 0]  # rank one
    scale, rotations = nearest_scaled_rotation(cameras)
    u, s, vt = np.linalg.svd(cameras, full_matrices=False)
    np.testing.assert_allclose(scale, s.mean(axis=1))
    np.testing.assert_allclose(rotations[:, :2], u @ vt, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
