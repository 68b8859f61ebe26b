"""Conditional projection against the closed form, least squares and orthogonality."""

import numpy as np
import pytest

from schemas.directions.direction import unit_direction
from schemas.errors import DataError, DirectionMismatchError, UsageError
from transforms.directions.algebra import keeping, project_out


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


@pytest.mark.parametrize("layers", [None, [1, 2]])
def test_an_edit_that_keeps_others_is_the_edit_less_its_part_along_them(layers):
    rng = np.random.default_rng(2)
    steered = unit_direction("smile", "w_plus", rng.normal(size=(4, 6)), method="svm", sd=3.0)
    steered = steered if layers is None else only(steered, layers)
    others = [
        unit_direction(name, "w_plus", rng.normal(size=(4, 6)), method="svm", sd=1.0)
        for name in ("age", "glasses")
    ]
    found = keeping(steered, others)
    assert found.layers == layers and found.name == "smile"
    assert found.provenance["keep"] == ["age", "glasses"]
    edit, whole = found.sd * found.vector, steered.sd * steered.vector
    for other in others:
        assert abs((edit * other.vector).sum()) < 1e-14
    inside = slice(None) if layers is None else layers
    table = np.stack([other.vector[inside].ravel() for other in others]).T
    gone = (whole - edit)[inside].ravel()
    combination = table @ np.linalg.lstsq(table, gone, rcond=None)[0]
    np.testing.assert_allclose(gone, combination, atol=1e-14)


def only(direction, layers):
    """A direction in some layers."""
    vector = np.zeros_like(direction.vector)
    vector[layers] = direction.vector[layers]
    return unit_direction("smile", "w_plus", vector, method="svm", sd=3.0, layers=layers)


def test_chosen_layers_keep_the_others_by_themselves():
    rng = np.random.default_rng(3)
    steered = unit_direction("smile", "w_plus", rng.normal(size=(4, 6)), method="svm", sd=3.0)
    other = unit_direction("age", "w_plus", rng.normal(size=(4, 6)), method="svm", sd=1.0)
    found = keeping(steered, [other], layers=[0, 3])
    assert found.layers == [0, 3]
    assert abs((found.vector * other.vector).sum()) < 1e-14


def test_directions_of_two_spaces_and_nothing_left_are_refused():
    a = unit_direction("smile", "w", np.eye(3)[0], method="svm", sd=1.0)
    b = unit_direction("age", "w_plus", np.eye(3), method="svm", sd=1.0)
    with pytest.raises(DirectionMismatchError, match="'smile' and 'age'"):
        keeping(a, [b])
    with pytest.raises(DataError, match=r"'smile' cannot .* \['smile'\] stay: .*nothing is left"):
        keeping(a, [a])
