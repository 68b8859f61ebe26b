"""The gradient edit on a generator whose optimum is known in closed form."""

import numpy as np
import pytest
import torch

from generators.gradient_edit import gradient_edit
from schemas.errors import UsageError


def setting(seed=0):
    rng = np.random.default_rng(seed)
    picture = rng.standard_normal((12, 6)) / 2  # images are linear in the codes
    regressor = {
        "mean": rng.standard_normal(6),
        "weights": rng.standard_normal((6, 2)),
        "intercept": rng.standard_normal(2),
        "scale": np.array([0.5, 2.0]),
    }
    codes = rng.standard_normal((4, 6))
    target = rng.standard_normal((4, 2))
    matrix = torch.as_tensor(picture.T, dtype=torch.float32)
    return picture, regressor, codes, target, lambda w: (w.flatten(1) @ matrix).reshape(-1, 3, 2, 2)


def phi(codes, r):
    return (codes - r["mean"]) @ r["weights"] + r["intercept"]


@pytest.mark.parametrize("weight", [0.5, 5.0])
def test_the_edit_is_the_minimum(weight):
    picture, r, codes, target, draw = setting()
    found = gradient_edit(draw, codes, target, **r, weight=weight, steps=300, learning_rate=0.05)
    a = r["weights"] / r["scale"]
    b = (target - phi(codes, r)) / r["scale"]
    hessian = a @ a.T + weight / 12 * picture.T @ picture
    exact = codes + np.linalg.solve(hessian, a @ b.T).T
    value = (((phi(exact, r) - target) / r["scale"]) ** 2).sum(1)
    value += weight * (((exact - codes) @ picture.T) ** 2).mean(1)
    np.testing.assert_allclose(found.value_after, value, rtol=2e-2, atol=1e-4)
    assert (found.value_after < found.value_before).all()


def test_a_larger_weight_keeps_the_image_nearer():
    picture, r, codes, target, draw = setting()
    moved = [
        (((gradient_edit(draw, codes, target, **r, weight=w).codes - codes) @ picture.T) ** 2).sum()
        for w in (0.1, 100.0)
    ]
    assert moved[1] < 0.2 * moved[0]


def test_no_row_gets_worse_even_at_a_wild_learning_rate():
    _, r, codes, target, draw = setting()
    found = gradient_edit(draw, codes, target, **r, steps=5, learning_rate=100.0)
    assert (found.value_after <= found.value_before).all()
    from_analytic = codes + (target - phi(codes, r)) @ np.linalg.pinv(r["weights"])
    near = gradient_edit(draw, codes, target, **r, weight=1e-3, start=from_analytic, steps=3)
    assert np.abs(phi(near.codes, r) - target).max() < 0.2


def test_bad_settings_are_refused():
    _, r, codes, target, draw = setting()
    with pytest.raises(UsageError, match="weight"):
        gradient_edit(draw, codes, target, **r, weight=-1.0)
    with pytest.raises(UsageError, match="target"):
        gradient_edit(draw, codes, target[:2], **r)
