"""Conditional projection against the closed form, least squares and orthogonality."""

import numpy as np
import pytest

from schemas.errors import DataError, UsageError
from transforms.directions.conditional import project_out


def test_one_condition_is_the_closed_form():
    rng = np.random.default_rng(0)
    p, c = rng.standard_normal((2, 20))
    unit = c / np.linalg.norm(c)
    expected = p - (p @ unit) * unit
    np.testing.assert_allclose(project_out(p, c[None], normalise=False), expected, atol=1e-14)
    found = project_out(p, c[None])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-14)


def test_many_dependent_conditions_of_any_shape_and_length():
    rng = np.random.default_rng(1)
    p = rng.standard_normal((2, 3, 4, 4))
    conditions = rng.standard_normal((6, 3, 4, 4)) * np.logspace(-6, 6, 6)[:, None, None, None]
    conditions = np.concatenate([conditions, conditions[:1] * 3, np.zeros((1, 3, 4, 4))])
    found = project_out(p, conditions, normalise=False)
    assert found.shape == p.shape
    table = conditions[:6].reshape(6, -1).T
    table = table / np.linalg.norm(table, axis=0)
    for one, direction in zip(found, p, strict=True):
        flat = direction.ravel()
        expected = flat - table @ np.linalg.lstsq(table, flat, rcond=None)[0]
        np.testing.assert_allclose(one.ravel(), expected, atol=1e-12)
        assert np.abs(table.T @ one.ravel()).max() < 1e-14
        single = project_out(direction, conditions, normalise=False)
        np.testing.assert_allclose(single, one, atol=1e-14)


def test_nothing_left_and_bad_shapes_are_refused():
    c = np.eye(3)[:2]
    with pytest.raises(DataError, match="combination of the 2"):
        project_out(np.array([1.0, 2.0, 0.0]), c)
    with pytest.raises(UsageError, match="shape"):
        project_out(np.ones(4), c)
    with pytest.raises(UsageError, match="shape"):
        project_out(np.ones(3), np.ones(3))
    with pytest.raises(DataError, match="NaN"):
        project_out(np.array([np.nan, 0, 0]), c)
    np.testing.assert_array_equal(project_out(np.ones(3), np.zeros((0, 3))), np.ones(3) / 3**0.5)
