"""Smooth sequences, missing points, robust loss and joint refinement on planted shapes."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.fft import dct

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import ArrayBlocks
from transforms.accumulate.passes import run_passes
from transforms.nrsfm.cameras import rotation_of_angles
from transforms.nrsfm.errors import camera_frame_error, similarity_error
from transforms.nrsfm.fit import NRSfMSolver, factorise
from transforms.nrsfm.frames import fit_frames
from transforms.nrsfm.joint import JointSolver, solve_rank_one
from transforms.nrsfm.sequence import SequenceSolver, cosines, structure_sums, zoom_scales


def moving(n=80, n_points=12, noise=0.0, seed=0):
    """A shape that bends slowly, while the camera goes round it."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, n)
    rigid = rng.standard_normal((3, n_points)) * [[1.0], [1.2], [0.7]]
    bends = 0.3 * rng.standard_normal((2, 3, n_points))
    path = np.stack([np.sin(2 * np.pi * time), np.cos(3 * np.pi * time)], axis=1)
    world = rigid + np.tensordot(path, bends, 1)
    world -= world.mean(axis=2, keepdims=True)
    angles = np.stack([0.4 * np.sin(5 * time), 25 * time, 0.2 * np.cos(7 * time)], axis=1)
    truth = rotation_of_angles(angles) @ world
    shift = rng.standard_normal((n, 2))
    points = truth[:, :2] + shift[:, :, None] + noise * rng.standard_normal((n, 2, n_points))
    return {"points": points, "truth": truth, "shift": shift}


def rank_one(n=90, n_points=12, noise=0.02, seed=0):
    """Frames in no order of a rank-one model with two basis shapes."""
    rng = np.random.default_rng(seed)
    rigid = rng.standard_normal((3, n_points))
    axes = np.array([[0.0, 1, 0], [0.6, 0, 0.8]])
    modes = np.linalg.qr(rng.standard_normal((n_points, 2)))[0].T
    a = rng.standard_normal((n, 2)) * [1.2, 0.8]
    world = rigid + np.einsum("fk,ki,kl->fil", a, axes, modes)
    world -= world.mean(axis=2, keepdims=True)
    truth = rotation_of_angles(rng.uniform(-0.8, 0.8, (n, 3))) @ world
    points = truth[:, :2] + noise * rng.standard_normal((n, 2, n_points))
    return {"points": points, "truth": truth}


def error(found, truth):
    return float(np.nanmean(camera_frame_error(found.shapes(), truth)))


def test_cosines_are_the_orthonormal_dct():
    rows = cosines(np.arange(30), 30, 12)
    np.testing.assert_allclose(rows, dct(np.eye(30), norm="ortho", axis=0).T[:, :12], atol=1e-12)
    np.testing.assert_allclose(cosines(np.array([7, 3]), 30, 12), rows[[7, 3]])


def test_structure_sums_are_the_normal_equations():
    rng = np.random.default_rng(0)
    c, m = rng.standard_normal((8, 2)), rng.standard_normal((8, 2, 3))
    terms = rng.standard_normal((2, 3, 5))
    x = np.einsum("fij,fk,kjl->fil", m, c, terms)
    sums = structure_sums(c, m, x)
    matrix = np.moveaxis(sums["normal"], 2, 1).reshape(6, 6)
    solved = np.linalg.solve(matrix, sums["right"].reshape(6, 5)).reshape(2, 3, 5)
    np.testing.assert_allclose(solved, terms, atol=1e-9)


def test_a_zooming_camera_gets_scales():
    s = moving(noise=0.005)
    zoom = np.geomspace(1, 2, 80)
    zoom /= np.exp(np.log(zoom).mean())
    points, truth = s["points"] * zoom[:, None, None], s["truth"] * zoom[:, None, None]
    plain = factorise(points, 6, temporal=True)
    found = factorise(points, 6, temporal=True, zoom=True, block_rows=32)
    assert found.flags["zoom"] and not plain.flags["zoom"]
    assert error(found, truth) < 0.03
    np.testing.assert_allclose(plain.scale, 1)
    np.testing.assert_allclose(found.scale, zoom, rtol=0.15)
    again = found.model.fit(points[:5], np.arange(5))
    np.testing.assert_allclose(again.cameras, found.cameras[:5], atol=1e-12)
    np.testing.assert_allclose(found.project(), points, atol=0.2)
    unseen = found.model.fit(points[30:33])
    np.testing.assert_allclose(unseen.scale, found.scale[30:33], rtol=0.2)
    with pytest.raises(UsageError, match="only a sequence"):
        factorise(points, 2, zoom=True)


def test_scales_of_a_zoom_have_geometric_mean_one():
    zoom = zoom_scales(np.arange(50), 50, np.array([0.7, -0.2]))
    np.testing.assert_allclose(np.log(zoom).mean(), 0, atol=1e-12)
    np.testing.assert_array_equal(zoom_scales(np.arange(4), 50, np.zeros(0)), 1)


def test_a_smooth_sequence_is_recovered():
    s = moving()
    found = factorise(s["points"], 6, temporal=True, max_rounds=30)
    rigid = factorise(s["points"], 0, temporal=True)
    assert found.cameras.shape == (80, 2, 3) and found.basis.shape == (6, 3, 12)
    gram = found.cameras @ np.swapaxes(found.cameras, 1, 2)
    np.testing.assert_allclose(gram, np.tile(np.eye(2), (80, 1, 1)), atol=1e-9)
    assert error(found, s["truth"]) < 0.03 < 0.1 < error(rigid, s["truth"])
    np.testing.assert_allclose(found.project(), s["points"], atol=0.3)
    np.testing.assert_allclose(found.translation, s["shift"], atol=0.05)
    flat = found.basis.reshape(6, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(6), atol=1e-9)


def test_rounds_of_a_sequence_never_make_the_objective_larger():
    s = moving(noise=0.02)
    source = ArrayBlocks({"points": s["points"], "frame": np.arange(80)}, 40)
    rigid = run_passes(NRSfMSolver(0), source).model().rigid
    costs = [run_passes(SequenceSolver(rigid, 80, max_rounds=m), source).cost for m in (1, 5, 20)]
    assert costs == sorted(costs, reverse=True) and costs[-1] < 0.9 * costs[0]
    errors = [error(factorise(s["points"], 6, temporal=True, max_rounds=m), s["truth"])
              for m in (20, 60)]  # fmt: skip
    assert errors[1] <= 1.1 * errors[0]


def test_every_pass_is_a_round_whether_its_step_is_taken_or_not():
    s = moving(n=30)
    source = ArrayBlocks({"points": s["points"], "frame": np.arange(30)}, 30)
    solver = SequenceSolver(run_passes(NRSfMSolver(0), source).model().rigid, 30)
    sums = solver.request().statistic(solver.request().prepare(source.read(0)[1]))
    taken = replace(solver.step(sums), stride=2.0)
    refused = replace(taken, cost=-1.0).step(sums)
    assert (solver.round_, taken.round_, refused.round_) == (0, 1, 2)
    longer = replace(solver, stride=1.5).step(sums)
    along = solver.terms + longer.stride * (longer.plain - solver.terms)
    np.testing.assert_allclose(longer.terms, along)
    assert (
        longer.stride > 1.5 and refused.stride == 1.0 and np.array_equal(refused.terms, taken.plain)
    )


def test_a_sequence_needs_no_certain_blocks_and_no_rank_one_shapes():
    s = moving(noise=0.02)
    one = factorise(s["points"], 4, temporal=True, max_rounds=5)
    other = factorise(s["points"], 4, temporal=True, max_rounds=5, block_rows=17)
    np.testing.assert_allclose(one.shapes(), other.shapes(), atol=1e-7)
    names, q = one.parameters()
    assert q.shape == (80, 12) and names[6] == "alpha0" and np.isfinite(q).all()


def test_frames_beside_the_sequence_follow_from_its_shapes():
    s = moving(noise=0.01)
    found = factorise(s["points"], 4, temporal=True)
    some = found.model.fit(s["points"][20:30], np.arange(20, 30))
    np.testing.assert_allclose(some.shapes(), found.shapes()[20:30])
    unseen = found.model.fit(s["points"][20:30])
    assert error(unseen, s["truth"][20:30]) < 2 * error(some, s["truth"][20:30]) + 0.02
    with pytest.raises(UsageError, match="one number"):
        found.model.fit(s["points"][:3], [0, 1, 80])


def test_the_shapes_of_a_sequence_are_centred_where_points_are_missing():
    s = moving(noise=0.01, n=40)
    seen = np.random.default_rng(2).random((40, 1, 12)) > 0.15
    source = ArrayBlocks(
        {"points": np.where(seen, s["points"], np.nan), "frame": np.arange(40)}, 40
    )
    solver = SequenceSolver(run_passes(NRSfMSolver(0), source).model().rigid, 40)
    terms = run_passes(solver, source).plain
    assert np.abs(terms.mean(axis=2)).max() < 1e-12 * np.abs(terms).max()


def test_missing_points_of_a_sequence_cost_little():
    s = moving(noise=0.01)
    whole = error(factorise(s["points"], 6, temporal=True), s["truth"])
    rng = np.random.default_rng(1)
    points = np.where(rng.random((80, 1, 12)) < 0.15, np.nan, s["points"])
    points[3] = np.nan
    found = factorise(points, 6, temporal=True)
    assert found.flags["left_out"] == 1 and np.isnan(found.cameras[3]).all()
    assert error(found, s["truth"]) < 1.3 * whole + 0.01


def test_a_robust_sequence_ignores_points_that_jumped():
    s = moving(noise=0.01)
    rng = np.random.default_rng(2)
    jumped = s["points"] + 2 * rng.standard_normal((80, 2, 12)) * (rng.random((80, 1, 12)) < 0.06)
    plain = error(factorise(jumped, 6, temporal=True), s["truth"])
    robust = factorise(jumped, 6, temporal=True, robust=True)
    assert robust.flags["robust"] and error(robust, s["truth"]) < 0.6 * plain


def test_rank_one_structure_is_solved_from_sums():
    rng = np.random.default_rng(0)
    c = np.c_[np.ones(30), rng.standard_normal((30, 2))]
    m = rng.standard_normal((30, 2, 3))
    rigid, modes = rng.standard_normal((3, 8)), rng.standard_normal((2, 8))
    axes = np.array([[1.0, 0, 0], [0, 0.6, 0.8]])
    terms = np.concatenate([rigid[None], axes[:, :, None] * modes[:, None]])
    sums = structure_sums(c, m, np.einsum("fij,fk,kjl->fil", m, c, terms))
    start = axes + 0.1 * rng.standard_normal((2, 3))
    for _ in range(15):
        b0, start, b = solve_rank_one(sums["normal"], sums["right"], start, modes)
    np.testing.assert_allclose(start[:, :, None] * b[:, None], terms[1:], atol=1e-5)
    np.testing.assert_allclose(b0, rigid, atol=1e-5)


def test_frames_fits_are_stationary():
    s = rank_one()
    model = factorise(s["points"], 2).model
    fit = fit_frames(s["points"][:4], model.rigid, model.basis, model.ridge, rounds=2000)

    def cost(cameras, a, t):
        shapes = model.rigid + np.tensordot(a, model.basis, 1)
        left = s["points"][:4] - cameras @ shapes - t[:, :, None]
        return (left**2).sum(axis=(1, 2)) + (model.ridge * a**2).sum(axis=1)

    best = cost(fit.cameras, fit.coefficients, fit.translation)
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = [x + 1e-3 * rng.standard_normal(x.shape)
                 for x in (fit.cameras, fit.coefficients, fit.translation)]  # fmt: skip
        assert (cost(*moved) >= best * (1 - 1e-6)).all()


def test_refinement_raises_the_likelihood_and_lowers_the_error():
    s = rank_one()
    source = ArrayBlocks({"points": s["points"]}, 70)
    start = run_passes(NRSfMSolver(2), source).model()
    solvers = [run_passes(JointSolver(start, max_rounds=m), source) for m in (1, 3, 10)]
    costs = [solver.cost for solver in solvers]
    assert costs == sorted(costs, reverse=True) and costs[-1] < costs[0] - 10
    plain = similarity_error(start.fit(s["points"]).shapes(), s["truth"], reflect=True)[0].mean()
    refined = solvers[-1].model()
    joint = similarity_error(refined.fit(s["points"]).shapes(), s["truth"], reflect=True)[0].mean()
    assert joint < 0.8 * plain
    assert 0.01 < refined.noise < 0.04  # planted 0.02
    np.testing.assert_allclose(np.linalg.norm(refined.axes, axis=1), 1)


@pytest.mark.parametrize("share", [0.3])
def test_missing_points_of_a_rank_one_model(share):
    s = rank_one()
    rng = np.random.default_rng(1)
    lost = rng.random((90, 1, 12)) < share
    points = np.where(lost, np.nan, s["points"])
    found = factorise(points, 2, max_rounds=10)
    whole = factorise(s["points"], 2, refine=True, max_rounds=10)
    errors = [similarity_error(m.shapes(), s["truth"], reflect=True)[0].mean()
              for m in (found, whole)]  # fmt: skip
    assert errors[0] < 1.5 * errors[1] + 0.02
    left = (found.project() - s["truth"][:, :2]) * lost
    filled = np.sqrt((left**2).sum() / (2 * lost.sum()))
    assert filled < 0.25 * s["points"].std()  # the points that were not seen are predicted


def test_a_robust_loss_ignores_outliers():
    s = rank_one()
    rng = np.random.default_rng(2)
    wild = s["points"] + 3 * rng.standard_normal((90, 2, 12)) * (rng.random((90, 1, 12)) < 0.04)
    robust, plain = (
        similarity_error(factorise(wild, 2, robust=r).shapes(), s["truth"], reflect=True)[0].mean()
        for r in (True, False)
    )
    assert robust < 0.6 * plain


def test_bad_settings_are_refused():
    s = moving(n=12)
    with pytest.raises(UsageError, match="smoothness"):
        factorise(s["points"], 2, temporal=True, smoothness=-1.0)
    with pytest.raises(UsageError, match="max_rounds"):
        factorise(s["points"], 2, temporal=True, max_rounds=0)
    with pytest.raises(UsageError, match="max_rounds"):
        factorise(s["points"], 2, refine=True, max_rounds=0)
    with pytest.raises(UsageError, match="n_shapes"):
        factorise(s["points"], -1, temporal=True)
    with pytest.raises(DataError, match="at least 3"):
        factorise(np.full((9, 2, 8), np.nan), 1)
