"""Cells, mean differences and regressions against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from schemas.errors import DataError, UsageError
from transforms.accumulate.factor_cells import CellSums, grid_cells
from transforms.accumulate.moments import Moments, join_targets
from transforms.directions.mean_difference import (
    fit_regressions,
    mean_differences,
    r2_on,
    solve_regressions,
)


def rows(n=400, d=6, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, d)) + 1e3).astype(np.float32)
    return x, rng.integers(-1, 4, n), rng.integers(0, 9, n), rng.integers(0, 2, n)


@pytest.mark.parametrize("block_rows", [37, 1000])
def test_plain_differences_equal_group_means(block_rows):
    x, codes, _, _ = rows()
    found = mean_differences(x, codes, block_rows=block_rows)
    wide = x.astype(float)
    for i in range(4):
        rest = (codes != i) & (codes >= 0)
        expected = wide[codes == i].mean(axis=0) - wide[rest].mean(axis=0)
        np.testing.assert_allclose(found.vectors[i], expected, atol=1e-9)
        assert found.n_level[i] == (codes == i).sum()
        assert found.n_reference[i] == rest.sum()
    assert np.isnan(found.agreement).all() and (found.n_pairs == 0).all()
    np.testing.assert_allclose(found.norms, np.linalg.norm(found.vectors, axis=1))


def test_reference_level_is_subtracted_and_has_no_vector_itself():
    x, codes, _, _ = rows()
    found = mean_differences(x, codes, reference=2)
    expected = x[codes == 0].mean(axis=0, dtype=float) - x[codes == 2].mean(axis=0, dtype=float)
    np.testing.assert_allclose(found.vectors[0], expected, atol=1e-9)
    assert np.isnan(found.vectors[2]).all()


@pytest.mark.parametrize("reference", [None, 0])
def test_paired_differences_equal_brute_force(reference):
    x, codes, person, view = rows()
    found = mean_differences(x, codes, pair_by=[person, view], reference=reference)
    wide = x.astype(float)
    for level in range(4):
        if level == reference:
            continue
        pairs = []
        for p in range(9):
            for v in range(2):
                here = (person == p) & (view == v)
                own = wide[here & (codes == level)]
                others = [0] if reference == 0 else [c for c in range(4) if c != level]
                sides = [wide[here & (codes == c)] for c in others]
                sides = [s.mean(axis=0) for s in sides if len(s)]
                if len(own) and sides:
                    pairs.append(own.mean(axis=0) - np.mean(sides, axis=0))
        np.testing.assert_allclose(found.vectors[level], np.mean(pairs, axis=0), atol=1e-9)
        assert found.n_pairs[level] == len(pairs)


def test_pairs_remove_what_plain_means_mix_in():
    rng = np.random.default_rng(1)
    person = np.repeat(np.arange(40), 6)
    happy = (np.arange(240) % 6 < np.where(person % 2, 5, 1)).astype(int)  # unbalanced by person
    effect, person_effect = np.array([1.0, 0, 0, 0]), rng.standard_normal((40, 4)) * 5
    person_effect[1::2, 1] += 20
    x = person_effect[person] + happy[:, None] * effect
    paired = mean_differences(x, happy, pair_by=[person], reference=0)
    np.testing.assert_allclose(paired.vectors[1], effect, atol=1e-9)
    np.testing.assert_allclose(paired.agreement[1], 1, atol=1e-9)
    assert abs(mean_differences(x, happy, reference=0).vectors[1][1]) > 5


def test_composite_modes_hold_the_combinations_that_occur():
    expression = np.array([0, 1, 1, 2, 2, -1])
    intensity = np.array([0, 1, 2, 1, 2, 1])
    grid = grid_cells(
        [["expression", "intensity"], "view"],
        {"expression": expression, "intensity": intensity, "view": np.zeros(6, int)},
    )
    assert grid.shape == (5, 1)
    assert grid.cells.tolist() == [0, 1, 2, 3, 4, -1]
    categories = {"expression": ["neutral", "happy", "sad"]}
    assert grid.level_names(0, categories)[1] == "happy/1"
    assert grid.mode_index(["expression", "intensity"]) == 0
    with pytest.raises(UsageError, match="mode"):
        grid.mode_index("intensity")


def test_incomplete_levels_are_dropped():
    person, view = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 0, 0, 1])
    grid = grid_cells(["person", "view"], {"person": person, "view": view})
    sums = CellSums.of(np.ones((5, 1)), grid.cells)
    smaller = grid.drop_incomplete(sums.dense(grid.n_cells)[1])
    assert smaller.levels[0].ravel().tolist() == [0, 2]
    assert smaller.cells.tolist() == [0, 1, -1, 2, 3]
    with pytest.raises(DataError, match="complete"):
        grid.drop_incomplete(np.array([1, 1, 0, 1, 0, 1]))


@settings(deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=30), st.integers(0, 30))
def test_cell_sums_of_any_split_agree(cells, cut):
    cells = np.array(cells)
    x = np.arange(2.0 * len(cells)).reshape(-1, 2)
    parts = CellSums.zero(2).add(x[:cut], cells[:cut]).add(x[cut:], cells[cut:])
    whole = CellSums.of(x, cells)
    again = CellSums.from_arrays(parts.to_arrays())
    np.testing.assert_array_equal(again.cells, whole.cells)
    np.testing.assert_array_equal(again.counts, whole.counts)
    np.testing.assert_array_equal(again.sums, whole.sums)


def test_bad_factors_are_refused():
    x, codes, _, _ = rows(20)
    with pytest.raises(UsageError, match="'mood' is not one of"):
        grid_cells(["mood"], {"expression": codes})
    with pytest.raises(UsageError, match="twice"):
        grid_cells(["e", ["e", "v"]], {"e": codes, "v": codes})
    with pytest.raises(UsageError, match="categorical"):
        grid_cells(["yaw"], {"yaw": x[:, 0]})
    with pytest.raises(DataError, match="no row"):
        grid_cells(["e"], {"e": np.full(20, -1)})
    with pytest.raises(UsageError, match="no modes"):
        grid_cells([], {})
    with pytest.raises(UsageError, match="reference level 9"):
        mean_differences(x, codes, reference=9)
    with pytest.raises(DataError, match="at least 2"):
        mean_differences(x, np.zeros(20, int))
    x[0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        mean_differences(x, np.arange(20) % 2)


def test_regression_recovers_planted_slopes_and_predicts():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((3000, 2)) @ np.array([[1, 0.6], [0, 1]]) + [0, 30]
    slopes = rng.standard_normal((2, 8))
    x = targets @ slopes + 0.01 * rng.standard_normal((3000, 8)) + 1e3
    found = fit_regressions(x, targets, ridge=1e-8, block_rows=500)
    np.testing.assert_allclose(found.slopes, slopes, atol=2e-3)
    predicted = x @ found.coefficients.T + found.intercepts
    np.testing.assert_allclose(predicted, targets, atol=0.1)
    residual = ((predicted - targets) ** 2).sum(axis=0)
    spread = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(found.r2, 1 - residual / spread, atol=1e-6)


def test_regression_equals_least_squares_and_leaves_out_missing_targets():
    rng = np.random.default_rng(1)
    x, yaw = rng.standard_normal((200, 5)), rng.standard_normal(200)
    yaw[::7] = np.nan
    there = np.isfinite(yaw)
    design = np.c_[x[there], np.ones(there.sum())]
    expected = np.linalg.lstsq(design, yaw[there], rcond=None)[0]
    found = fit_regressions(x, yaw, ridge=0.0)
    np.testing.assert_allclose(found.coefficients[0], expected[:-1], atol=1e-10)
    np.testing.assert_allclose(found.intercepts[0], expected[-1], atol=1e-10)
    assert found.n_rows == there.sum()


def test_r2_on_rows_that_the_fit_has_not_seen_is_scikit_learn_s():
    """The fit to the others comes of the moments of all less theirs."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((400, 6)) + 50
    targets = np.c_[x @ rng.standard_normal(6), rng.standard_normal(400)] + rng.normal(
        size=(400, 2)
    )
    joint, unseen = (
        Moments.of(join_targets(x[r], targets[r])) for r in (slice(0, 400), slice(300, 400))
    )
    found = solve_regressions(joint.without(unseen), 2, ridge=0.0)
    model = LinearRegression().fit(x[:300], targets[:300])
    np.testing.assert_allclose(found.coefficients, model.coef_, atol=1e-10)
    expected = r2_score(targets[300:], model.predict(x[300:]), multioutput="raw_values")
    np.testing.assert_allclose(r2_on(unseen, found), expected, atol=1e-10)
    still = Moments.of(join_targets(x[:9], np.ones((9, 2))))
    assert np.isnan(r2_on(still, found)).all()


def test_degenerate_targets_are_refused():
    x, codes, _, _ = rows(50)
    with pytest.raises(DataError, match="do not vary"):
        fit_regressions(x, np.full(50, 3.0))
    with pytest.raises(DataError, match="linearly"):
        fit_regressions(x, np.c_[codes, 2 * codes].astype(float))
    with pytest.raises(DataError, match="every target"):
        fit_regressions(x, np.full(50, np.nan))
    with pytest.raises(UsageError, match="ridge"):
        fit_regressions(x, codes.astype(float), ridge=-1)
