"""The InterFaceGAN protocol against a direct transcription of its steps."""

import numpy as np
import pytest
from sklearn.svm import SVC

from schemas.errors import DataError, UsageError
from transforms.svm.interfacegan import train_boundary


def problem(n=600, d=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)).astype(np.float32)
    return x, x @ np.array([2.0, -1, 0, 0, 0.5, 0]) + 0.5 * rng.standard_normal(n)


def test_extremes_split_and_remaining_rows_are_those_of_the_protocol():
    x, scores = problem()
    found = train_boundary(x, scores, chosen=0.1)
    assert (found.n_train, found.n_validation, found.n_remaining) == (84, 36, 480)
    order = np.argsort(-scores)
    high, low, rest = order[:60], order[-60:], order[60:-60]
    normal = found.normal
    assert np.linalg.norm(normal) == pytest.approx(1) and found.validation_accuracy > 0.95
    decided = x @ normal + found.intercept > 0
    middle = (scores.max() + scores.min()) / 2
    assert found.remaining_accuracy == np.mean(decided[rest] == (scores[rest] >= middle))
    assert normal[0] > 0.7 and decided[high].mean() > 0.95 and decided[low].mean() < 0.05


def test_training_on_all_extremes_is_scikit_learn_s_hinge():
    x, scores = problem()
    found = train_boundary(x, scores[:, None], chosen=50, split_ratio=1.0)
    order = np.argsort(-scores)
    chosen = np.concatenate([order[:50], order[-50:]])
    peer = SVC(kernel="linear").fit(x[chosen], np.repeat([1, 0], 50))
    unit = peer.coef_[0] / np.linalg.norm(peer.coef_)
    assert unit @ found.normal > 1 - 1e-6
    assert np.isnan(found.validation_accuracy) and found.n_train == 100


def test_the_seed_decides_the_split_and_invalid_rows_are_left_out():
    x, scores = problem()
    one, again, other = (train_boundary(x, scores, chosen=0.1, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.normal, again.normal)
    assert not np.array_equal(one.normal, other.normal)
    extended = np.concatenate([scores, [np.nan, -1e9, np.inf]])
    more = np.concatenate([x, np.full((3, 6), 9, np.float32)])
    same = train_boundary(more, extended, chosen=0.1, invalid_value=-1e9)
    np.testing.assert_array_equal(same.normal, one.normal)
    assert train_boundary(x, scores, chosen=10_000).n_remaining == 0  # at most half on each side


def test_bad_input_is_refused():
    x, scores = problem(50)
    with pytest.raises(DataError, match="do not vary"):
        train_boundary(x, np.ones(50))
    with pytest.raises(DataError, match="larger share"):
        train_boundary(x, scores)  # 2 % of 50 is one row on either side, 0.7 of it none
    with pytest.raises(UsageError, match="one a row"):
        train_boundary(x, scores[:9])
    with pytest.raises(UsageError, match="split_ratio"):
        train_boundary(x, scores, split_ratio=0)
