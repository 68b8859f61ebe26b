"""Maps between paired latent spaces against scipy, scikit-learn and planted structure."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group
from sklearn.linear_model import Ridge

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import ArrayBlocks, sum_blocks
from transforms.accumulate.moments import Moments
from transforms.accumulate.paired import PairedBlocks, image_part, pair_rows
from transforms.accumulate.requests import JointMoments
from transforms.beam.engine import BeamEngine
from transforms.drift.latent_maps import (
    PENALTIES,
    LatentMap,
    choose_map,
    fit_map,
    map_error,
    procrustes,
)


def joint(x, y):
    return Moments.of(np.concatenate([x, y], axis=1))


def spread(rng, n=300, d=6):
    return rng.normal(size=(n, d)) * np.linspace(0.3, 2, d) + rng.normal(size=d) * 5


def test_the_rotation_is_scipy_s(rng):
    x = spread(rng)
    y = x @ ortho_group.rvs(6, random_state=1) + 0.3 * rng.normal(size=x.shape)
    wanted, _ = orthogonal_procrustes(x - x.mean(axis=0), y - y.mean(axis=0))
    found = fit_map("rotation", joint(x, y), 6)
    np.testing.assert_allclose(found.matrix, wanted.T, atol=1e-12)
    residual = y - y.mean(axis=0) - (x - x.mean(axis=0)) @ wanted
    exact = np.linalg.norm(residual) / np.linalg.norm(y - y.mean(axis=0))
    assert map_error([found], [joint(x, y)]) == pytest.approx(exact, rel=1e-10)


def test_a_planted_rotation_is_found_and_needs_no_more(rng):
    turn = ortho_group.rvs(6, random_state=2)
    x, other = spread(rng), spread(rng, 100)
    move = rng.normal(size=6)
    choice = choose_map(
        [joint(x, x @ turn.T + move)], [joint(other, other @ turn.T + move)], (6,), (6,)
    )
    assert choice.relation == "rotation" and choice.error < 1e-7
    assert choice.errors["identity"] > 0.5
    np.testing.assert_allclose(choice.chosen.parts[0].matrix, turn, atol=1e-12)
    np.testing.assert_allclose(choice.chosen.codes(other), other @ turn.T + move, atol=1e-11)
    np.testing.assert_allclose(choice.chosen.direction(np.eye(6)[2]), turn[:, 2], atol=1e-12)


def test_directions_without_rows_are_not_turned(rng):
    x = np.zeros((50, 5))
    x[:, :2] = rng.normal(size=(50, 2))
    y = x.copy()
    y[:, :2] = x[:, [1, 0]]
    wanted = np.eye(5)
    wanted[:2, :2] = [[0, 1], [1, 0]]
    np.testing.assert_allclose(procrustes((y - y.mean(0)).T @ (x - x.mean(0))), wanted, atol=1e-12)
    np.testing.assert_allclose(procrustes(np.zeros((3, 3))), np.eye(3), atol=1e-15)


@pytest.mark.parametrize("penalty", [1e-3, 0.5])
def test_the_linear_map_is_scikit_learn_s_ridge(rng, penalty):
    x = spread(rng)
    y = x @ rng.normal(size=(6, 3)) + 0.2 * rng.normal(size=(300, 3))  # other width: towards zero
    alpha = penalty * x.var(axis=0).mean() * len(x)
    wanted = Ridge(alpha=alpha).fit(x, y).coef_
    np.testing.assert_allclose(fit_map("linear", joint(x, y), 6, penalty).matrix, wanted, rtol=1e-8)
    turned = x @ ortho_group.rvs(6, random_state=3).T + 0.1 * x @ rng.normal(size=(6, 6))
    start = fit_map("rotation", joint(x, turned), 6).matrix
    wanted = start + Ridge(alpha=alpha).fit(x, turned - x @ start.T).coef_
    found = fit_map("linear", joint(x, turned), 6, penalty).matrix
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-12)


def test_the_penalty_is_that_of_generalised_cross_validation(rng):
    x = rng.normal(size=(30, 12))
    y = x @ (0.3 * rng.normal(size=(12, 4))) + rng.normal(size=(30, 4))
    scores = []
    for penalty in PENALTIES:
        alpha = penalty * x.var(axis=0).mean() * len(x)
        model = Ridge(alpha=alpha).fit(x, y)
        centred = x - x.mean(axis=0)
        hat = centred @ np.linalg.solve(centred.T @ centred + alpha * np.eye(12), centred.T)
        error = np.sum((y - model.predict(x)) ** 2)
        scores.append(error / (1 - (np.trace(hat) + 1) / 30) ** 2)
    best = PENALTIES[int(np.argmin(scores))]
    assert PENALTIES[0] < best < PENALTIES[-1]
    np.testing.assert_allclose(
        fit_map("linear", joint(x, y), 12).matrix, fit_map("linear", joint(x, y), 12, best).matrix
    )


def test_held_out_errors_are_those_of_the_rows(rng):
    x, other = spread(rng), spread(rng, 80)
    mix = rng.normal(size=(6, 6))
    y = x @ mix + 0.4 * rng.normal(size=x.shape)
    far = other @ mix + 0.4 * rng.normal(size=other.shape)
    choice = choose_map([joint(x, y)], [joint(other, far)], (6,), (6,))
    assert choice.relation == "linear" and (choice.fitted, choice.held_out) == (300, 80)
    for kind, found in choice.maps.items():
        wrong = np.linalg.norm(far - found.codes(other))
        exact = wrong / np.linalg.norm(far - y.mean(axis=0))
        assert choice.errors[kind] == pytest.approx(exact, rel=1e-9)
    again = LatentMap.from_arrays(choice.chosen.to_arrays(), "linear", (6,), (6,))
    np.testing.assert_array_equal(again.codes(other), choice.chosen.codes(other))


def test_noise_is_unrelated_and_equal_codes_are_identical(rng):
    x, y, other, far = (spread(rng) for _ in range(4))
    choice = choose_map([joint(x, y)], [joint(other, far)], (6,), (6,))
    assert choice.relation == "unrelated" and choice.chosen is None and choice.error > 0.9
    same = choose_map([joint(x, x)], [joint(other, other)], (6,), (6,))
    assert same.relation == "identity" and same.error == 0.0


def test_layers_have_maps_of_their_own(rng):
    x, other = rng.normal(size=(200, 2, 4)), rng.normal(size=(60, 2, 4))
    turns = np.stack([ortho_group.rvs(4, random_state=s) for s in (5, 6)])
    y, far = (np.einsum("lij,nlj->nli", turns, codes) for codes in (x, other))
    moments = [joint(x[:, i], y[:, i]) for i in (0, 1)]
    held = [joint(other[:, i], far[:, i]) for i in (0, 1)]
    choice = choose_map(moments, held, (2, 4), (2, 4))
    assert choice.relation == "rotation" and choice.error < 1e-7
    np.testing.assert_allclose(choice.chosen.codes(other), far, atol=1e-12)
    np.testing.assert_allclose(choice.chosen.direction(x[0]), y[0], atol=1e-12)
    with pytest.raises(UsageError, match=r"\(3, 4\) a row, the map is from \(2, 4\)"):
        choice.chosen.codes(np.zeros((1, 3, 4)))


def test_what_cannot_be_mapped_is_refused(rng):
    x = spread(rng)
    with pytest.raises(UsageError, match="'rotation' from 6 to 3"):
        fit_map("rotation", joint(x, x[:, :3]), 6)
    with pytest.raises(UsageError, match="'shear'"):
        fit_map("shear", joint(x, x), 6)
    with pytest.raises(DataError, match="do not vary"):
        fit_map("linear", joint(np.zeros((9, 2)), x[:9, :2]), 2)
    with pytest.raises(DataError, match="new space do not vary"):
        flat = joint(x, np.zeros_like(x))
        map_error([fit_map("identity", flat, 6)], [flat])
    with pytest.raises(UsageError, match="equal widths"):
        procrustes(np.zeros((2, 3)))


# ---- pairs ---------------------------------------------------------------------------------------


class Missing(ArrayBlocks):
    """Blocks without the rows whose first value is NaN, as a store leaves them out."""

    def read(self, block):
        rows, arrays = super().read(block)
        ok = np.isfinite(arrays["x"]).reshape(len(rows), -1)[:, 0]
        return rows[ok], {k: v[ok] for k, v in arrays.items()}


def test_rows_are_paired_by_image_and_repeats_in_order():
    old, new = ["a", "b", "a", "c"], ["c", "a", "x", "a", "a"]
    assert pair_rows(old, new).tolist() == [3, 0, -1, 2, -1]
    assert pair_rows([], ["a"]).tolist() == [-1] and len(pair_rows(["a"], [])) == 0


def test_the_split_depends_on_the_image_alone(rng):
    ids = [f"{i:064x}" for i in range(1000)]
    order = rng.permutation(1000)
    parts = image_part(ids)
    np.testing.assert_array_equal(image_part([ids[i] for i in order]), parts[order])
    assert np.bincount(parts, minlength=5).min() > 150
    assert (image_part(ids, salt="other") != parts).any()


@pytest.mark.parametrize(("old_rows", "new_rows"), [(7, 16), (64, 5), (3, 3)])
def test_pairs_are_the_same_whatever_the_blocks_and_the_order(rng, old_rows, new_rows):
    n = 60
    ids = [f"i{i}" for i in range(n)]
    x = spread(rng, n, 4).reshape(n, 2, 2)
    order = rng.permutation(n)[:50]
    y = (2 * x)[order].astype(np.float32)
    x[8, 0], y[3, 0] = np.nan, np.nan
    partner = pair_rows(ids, [*(ids[i] for i in order)])
    where = rng.random(50) < 0.7
    source = PairedBlocks(
        Missing({"x": x}, old_rows), Missing({"x": y}, new_rows), old_rows, partner, where
    )
    assert source.n_blocks > 1 or new_rows > 50
    rows, xs, ys = [], [], []
    for block in range(source.n_blocks):
        r, arrays = source.read(block)
        rows, xs, ys = [*rows, *r], [*xs, *arrays["x"]], [*ys, *arrays["targets"]]
    kept = [r for r in range(50) if where[r] and r != 3 and order[r] != 8]
    assert rows == kept
    np.testing.assert_array_equal(np.array(xs), x[order[kept]].reshape(-1, 4))
    np.testing.assert_allclose(np.array(ys), 2 * np.array(xs), rtol=1e-6)


def test_moments_of_pairs_are_the_same_through_beam(rng):
    x = spread(rng, 40, 3)
    partner = rng.permutation(40)
    source = PairedBlocks(
        ArrayBlocks({"x": x}, 8), ArrayBlocks({"x": x[partner] + 1}, 16), 8, partner
    )
    here = sum_blocks(
        source.n_blocks,
        lambda b: JointMoments().statistic(JointMoments().prepare(source.read(b)[1])),
    )
    there = BeamEngine().sum(source, JointMoments())
    assert source.n_blocks == 3 and here.count == 40
    np.testing.assert_array_equal(here.second, there.second)
    exact = joint(x[partner], x[partner] + 1)
    np.testing.assert_allclose(here.second, exact.second, rtol=1e-12)


def test_pairs_that_do_not_fit_are_refused(rng):
    blocks = ArrayBlocks({"x": np.zeros((4, 2))}, 2)
    with pytest.raises(UsageError, match="old_block_rows is 0"):
        PairedBlocks(blocks, blocks, 0, np.arange(4))
    with pytest.raises(UsageError, match="where has 3 rows"):
        PairedBlocks(blocks, blocks, 2, np.arange(4), np.ones(3, bool))
