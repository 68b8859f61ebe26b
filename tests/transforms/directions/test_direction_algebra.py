"""The algebra of directions against planted angles, least squares and its own edits."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.directions.direction import apply, unit_direction
from schemas.errors import DataError, DirectionMismatchError, UsageError
from transforms.directions.algebra import (
    combine,
    cosines,
    normalise,
    orthonormal_basis,
    principal_angles,
)


def test_normalise_keeps_direction_at_any_scale(rng):
    x = rng.normal(size=(3, 2, 5)) * np.array([1e-200, 1.0, 1e200])[:, None, None]
    unit = normalise(x)
    np.testing.assert_allclose(np.linalg.norm(unit.reshape(3, -1), axis=1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(unit[1] * np.linalg.norm(x[1]), x[1], rtol=1e-13)
    with pytest.raises(DataError, match="vector 1 is zero"):
        normalise(np.array([[1.0, 2], [0, 0]]))
    with pytest.raises(DataError, match="not finite"):
        normalise(np.array([[np.nan, 2]]))
    with pytest.raises(DataError, match="give a stack"):
        normalise(np.ones(3))


def test_principal_angles_find_planted_ones(rng):
    q = np.linalg.qr(rng.normal(size=(10, 10)))[0].T
    planted = np.array([1e-9, 0.3, np.pi / 2])
    a = q[:3]
    b = np.cos(planted)[:, None] * q[:3] + np.sin(planted)[:, None] * q[3:6]
    mixed = rng.normal(size=(3, 3)) @ b
    np.testing.assert_allclose(principal_angles(a, mixed), planted, rtol=1e-6, atol=1e-13)
    np.testing.assert_allclose(principal_angles(a, a[:2] * 5), [0, 0], atol=1e-12)
    assert len(principal_angles(np.concatenate([a, a]), b)) == 3
    assert orthonormal_basis(np.concatenate([a, 2 * a])).shape == (3, 10)
    np.testing.assert_allclose(np.diag(cosines(a, b)), np.cos(planted), atol=1e-12)


def test_a_combination_edits_as_its_parts_do(rng):
    codes = rng.normal(size=(7, 3, 4))
    parts = [
        unit_direction(n, "w_plus", rng.normal(size=(3, 4)), method="svm", sd=sd, layers=layers)
        for n, sd, layers in [("age", 2.0, [0, 1]), ("smile", 0.5, [1])]
    ]
    both = combine("young-smile", parts, [-1.5, 2.0])
    expected = apply(apply(codes, parts[0], -1.5), parts[1], 2.0)
    np.testing.assert_allclose(apply(codes, both, 1.0), expected, atol=1e-12)
    assert both.layers == [0, 1] and both.method == "combined"
    assert both.provenance["parts"] == [["age", -1.5], ["smile", 2.0]]
    measured = combine("m", parts, [1, 1], codes=codes)
    assert measured.sd == pytest.approx(np.std(measured.project(codes)))
    other = unit_direction("x", "w", rng.normal(size=(3, 4)), method="svm", sd=1.0)
    with pytest.raises(DirectionMismatchError, match=r"'w_plus' .* and 'w' .*directions of one"):
        combine("m", [parts[0], other], [1, 1])
    with pytest.raises(UsageError, match="one strength"):
        combine("m", parts, [1])
    with pytest.raises(DataError, match="cancel"):
        combine("m", [parts[0], parts[0]], [1, -1])
