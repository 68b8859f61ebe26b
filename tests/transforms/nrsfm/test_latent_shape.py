"""The regressor from codes to landmark parameters, its edits, and the map it is fitted through."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import ArrayBlocks
from transforms.accumulate.passes import run_passes
from transforms.nrsfm.fit import factorise
from transforms.nrsfm.landmark_map import landmark_jacobian, landmarks_of, parameter_names
from transforms.nrsfm.regressor import LatentShapeSolver, fit_latent_shape


def drawn(n=150, d=14, noise=0.0, seed=0):
    """Codes whose landmark parameters are a linear function of them."""
    rng = np.random.default_rng(seed)
    rigid = rng.standard_normal((3, 12)) * [[1.0], [1.2], [0.8]]
    rigid -= rigid.mean(axis=1, keepdims=True)
    basis = (np.array([0.0, 0.8, 0.6])[:, None] * rng.standard_normal(12))[None]
    centre = np.array([1.0, 0, 1, 0, 0, 0, 0, 0, 0])
    spread = np.array([0.08, 0.02, 0.08, 0.15, 0.3, 0.1, 0.4, 0.2, 0.2])
    weights = rng.standard_normal((d, 9)) / np.sqrt(d) * spread
    codes = rng.standard_normal((n, d)) + 3
    points = landmarks_of((codes - 3) @ weights + centre, rigid, basis)
    return codes, points + noise * rng.standard_normal(points.shape)


def rms(x):
    return float(np.sqrt((x**2).mean()))


def test_the_jacobian_is_the_derivative():
    rng = np.random.default_rng(0)
    rigid, basis = rng.standard_normal((3, 5)), rng.standard_normal((2, 3, 5))
    q = rng.standard_normal((3, 10)) * 0.5 + 0.7
    found = landmark_jacobian(q, rigid, basis)
    assert found.shape == (3, 10, 10)
    for row, jacobian in zip(q, found, strict=True):
        peer = approx_fprime(row, lambda v: landmarks_of(v[None], rigid, basis).ravel(), 1e-7)
        np.testing.assert_allclose(jacobian, peer, atol=1e-5)
    with pytest.raises(UsageError, match="10"):
        landmarks_of(q[:, :9], rigid, basis)


def test_the_map_agrees_with_the_factorisation():
    _, points = drawn(noise=0.01)
    found = factorise(points, 2)
    names, q = found.parameters()
    assert tuple(names) == parameter_names(2)
    again = landmarks_of(q, found.rigid, found.basis)
    np.testing.assert_allclose(again, found.project(), atol=1e-9)


def test_reprojection_steps_lower_the_loss_below_ridge_regression():
    codes, points = drawn(n=200, noise=0.01)
    train, test = slice(0, 150), slice(150, None)
    model = factorise(points[train], 2).model
    start = fit_latent_shape(codes[train], points[train], model, ridge=1e-4, max_rounds=0)
    found = fit_latent_shape(codes[train], points[train], model, ridge=1e-4)
    assert found.converged and start.rms == found.rms_start and found.rms < 0.97 * start.rms
    left = [rms(r.landmarks(codes[test]) - points[test]) for r in (found, start)]
    assert left[0] < left[1] < 0.5 * rms(points[test] - points[train].mean(axis=0))
    np.testing.assert_allclose(rms(found.landmarks(codes[train]) - points[train]), found.rms)


def test_the_loss_is_stationary():
    codes, points = drawn(n=80, d=6, noise=0.05)
    model = factorise(points, 1).model
    solver = LatentShapeSolver(model, ridge=0.01, max_rounds=200, tol=1e-14)
    solver = run_passes(solver, ArrayBlocks({"x": codes, "points": points}))
    found = solver.regressor()

    def cost(weights, intercept):
        q = (codes - found.mean) @ weights + intercept
        loss = ((landmarks_of(q, found.rigid, found.basis) - points) ** 2).sum()
        return loss + solver.penalty * np.trace(weights @ solver.shape @ weights.T)

    rng, best = np.random.default_rng(0), cost(found.weights, found.intercept)
    for _ in range(30):
        turn = 1e-4 * rng.standard_normal(found.weights.shape)
        shift = 1e-4 * rng.standard_normal(9)
        assert cost(found.weights + turn, found.intercept + shift) > best * (1 - 1e-7)


def test_blocks_and_missing_points_and_few_rows():
    codes, points = drawn(noise=0.01)
    model = factorise(points, 1).model
    one = fit_latent_shape(codes, points, model)
    other = fit_latent_shape(codes, points, model, block_rows=37)
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-8)
    rng = np.random.default_rng(0)
    holes = np.where(rng.random((150, 1, 12)) < 0.1, np.nan, points)
    holey = fit_latent_shape(codes, holes, model)
    assert rms(holey.landmarks(codes) - points) < 1.3 * one.rms + 0.01
    # codes padded to more coordinates than rows, in a turned frame: the same regression
    turn = np.linalg.qr(rng.standard_normal((200, 14)))[0]
    wide = fit_latent_shape((codes @ turn.T).reshape(150, 2, 100), points, model)
    assert wide.code_shape == (2, 100)
    np.testing.assert_allclose(
        wide.landmarks((codes @ turn.T).reshape(150, 2, 100)), one.landmarks(codes), atol=1e-6
    )


def test_edits_change_what_they_name_and_nothing_else():
    codes, points = drawn(noise=0.01)
    found = fit_latent_shape(codes.reshape(150, 2, 7), points, factorise(points, 1).model)
    some = codes[:5].reshape(5, 2, 7)
    before = found.parameters(some)
    edited = found.edit(some, {"yaw": 0.2, "alpha0": np.arange(5) / 10})
    change = found.parameters(edited) - before
    np.testing.assert_allclose(change[:, found.names.index("yaw")], 0.2, atol=1e-9)
    np.testing.assert_allclose(change[:, found.names.index("alpha0")], np.arange(5) / 10, atol=1e-9)
    rest = [i for i, name in enumerate(found.names) if name not in ("yaw", "alpha0")]
    np.testing.assert_allclose(change[:, rest], 0, atol=1e-9)
    # of all codes with these parameters it is the nearest: eq. 14 moves in the row space of J
    moved = (edited - some).reshape(5, -1)
    within = moved @ found.weights @ np.linalg.pinv(found.weights)
    np.testing.assert_allclose(within, moved, atol=1e-9)
    np.testing.assert_allclose(
        found.edit(some, {"yaw": 1.0}) - some, np.tile(found.direction("yaw"), (5, 1, 1)), atol=1e-9
    )


def test_transfer_takes_pose_and_shape_but_not_the_place():
    codes, points = drawn(noise=0.01)
    found = fit_latent_shape(codes, points, factorise(points, 1).model)
    q, source = (found.parameters(codes[i : i + 4]) for i in (0, 10))
    got = found.parameters(found.transfer(codes[10:14], codes[:4]))
    np.testing.assert_allclose(got[:, :-2], source[:, :-2], atol=1e-9)
    np.testing.assert_allclose(got[:, -2:], q[:, -2:], atol=1e-9)
    pose = found.parameters(found.transfer(codes[10:14], codes[:4], ["pitch", "yaw", "roll"]))
    np.testing.assert_allclose(pose[:, 3:6], source[:, 3:6], atol=1e-9)
    np.testing.assert_allclose(pose[:, 6], q[:, 6], atol=1e-9)


def test_bad_input_is_refused():
    codes, points = drawn(n=40)
    model = factorise(points, 1).model
    found = fit_latent_shape(codes, points, model)
    with pytest.raises(UsageError, match="none of"):
        found.edit(codes[:2], {"smile": 1.0})
    with pytest.raises(UsageError, match="14"):
        found.parameters(codes[:, :5])
    with pytest.raises(UsageError, match="as many"):
        fit_latent_shape(codes[:9], points, model)
    with pytest.raises(UsageError, match="ridge"):
        fit_latent_shape(codes, points, model, ridge=-1.0)
    with pytest.raises(DataError, match="do not vary"):
        fit_latent_shape(np.ones((40, 3)), points, model)
    with pytest.raises(UsageError, match="not done"):
        LatentShapeSolver(model).regressor()
