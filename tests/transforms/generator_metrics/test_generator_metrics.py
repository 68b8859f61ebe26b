"""Metrics of generators against closed forms, brute force, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from conformance.analysis import CarefulEngine
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from sklearn.metrics import mutual_info_score
from sklearn.metrics.pairwise import polynomial_kernel

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import ArrayBlocks
from transforms.accumulate.moments import Moments
from transforms.generator_metrics.frechet import frechet_distance
from transforms.generator_metrics.kernel import Subsets, kernel_distance
from transforms.generator_metrics.path_length import (
    CollectPathLengths,
    PathLengths,
    lerp,
    slerp,
    trimmed_mean,
)
from transforms.generator_metrics.separability import (
    Confusion,
    conditional_entropy,
    separability,
    surest_labels,
)
from transforms.generator_metrics.sets import PairsOfBlocks, SetsSolver, compare_sets


def rows(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((d, d)) / np.sqrt(d)
    return (rng.standard_normal((n, d)) @ mix + shift).astype(np.float32)


# ---- FID


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    """Of diagonal covariances: |m - m'|^2 + sum (s - s')^2."""
    rng = np.random.default_rng(0)
    mean, other = rng.standard_normal((2, 20))
    sd, sd_other = rng.uniform(0.1, 3, (2, 20))
    n = 101
    a = Moments(n, mean, np.diag(sd**2) * (n - 1))
    b = Moments(n, other, np.diag(sd_other**2) * (n - 1))
    expected = ((mean - other) ** 2).sum() + ((sd - sd_other) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_the_frechet_distance_of_rows_is_that_of_a_matrix_root():
    x, y = rows(300, 12, 1), rows(200, 12, 2, 0.3)
    c, d = (np.cov(v.astype(np.float64), rowvar=False) for v in (x, y))
    root = sqrtm(c @ d)
    mean = x.astype(np.float64).mean(0) - y.astype(np.float64).mean(0)
    expected = mean @ mean + np.trace(c + d - 2 * root.real)
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(expected, rel=1e-9)


def test_fewer_rows_than_features_are_as_exact():
    """Covariances of rank 5 and 7 in 40 dimensions: planted in orthogonal bases, in which the
    trace of the root is that of small matrices."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((6, 40)), rng.standard_normal((8, 40))
    a, b = Moments.of(x), Moments.of(y)
    p, q = (v - v.mean(0) for v in (x, y))  # nuclear norm of P Q' over the square root of counts
    shared = np.linalg.svd(p @ q.T, compute_uv=False).sum() / np.sqrt(5 * 7)
    mean = x.mean(0) - y.mean(0)
    expected = mean @ mean + (p**2).sum() / 5 + (q**2).sum() / 7 - 2 * shared
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_merged_moments_give_the_distance_of_a_single_pass():
    x, y = rows(500, 16, 4, 1000.0), rows(400, 16, 5, 1000.0)
    whole = frechet_distance(Moments.of(x), Moments.of(y))
    merged = Moments.zero(16)
    for part in np.array_split(x, 7):
        merged = merged.add(part)
    assert frechet_distance(merged, Moments.of(y)) == pytest.approx(whole, rel=1e-10)


def test_the_frechet_distance_refuses_what_it_cannot_be_of():
    x = rows(10, 4, 0)
    with pytest.raises(DataError, match="1 rows where at least 2 are needed"):
        frechet_distance(Moments.of(x[:1]), Moments.of(x))
    bad = x.copy()
    bad[3, 1] = np.nan
    with pytest.raises(DataError, match="NaN or infinite values"):
        frechet_distance(Moments.of(x), Moments.of(bad))
    with pytest.raises(UsageError, match="whole ones of the same features"):
        frechet_distance(Moments.of(x), Moments.of(x[:, :3]))


# ---- KID


def brute_kid(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimator by scikit-learn's kernel."""
    m, n = len(x), len(y)
    options = {"degree": 3, "gamma": None, "coef0": 1}
    xx, yy, xy = (polynomial_kernel(*v, **options) for v in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - np.trace(xx)) / (m * (m - 1)) + (yy.sum() - np.trace(yy)) / (n * (n - 1))
    return within - 2 * xy.mean()


def test_kid_is_the_mean_over_the_subsets():
    x, y = rows(90, 6, 6).astype(np.float64), rows(70, 6, 7, 0.2).astype(np.float64)
    subsets = Subsets(count=9, size=25, seed=3)
    found = compare_sets(x, y, 0, subsets, block_rows=32)
    members = [subsets.members(side, len(v)).astype(bool) for side, v in enumerate((x, y))]
    assert all((m.sum(axis=0) == 25).all() for m in members)
    each = [brute_kid(x[members[0][:, s]], y[members[1][:, s]]) for s in range(9)]
    mean, sd, whole = kernel_distance(found.sums, (90, 70), subsets)
    assert mean == pytest.approx(np.mean(each), rel=1e-10)
    assert sd == pytest.approx(np.std(each), rel=1e-9)
    assert whole == pytest.approx(brute_kid(x, y), rel=1e-10)
    assert np.isnan(found.precision)  # not asked for


def test_subsets_are_of_the_seed_alone():
    a, b = Subsets(3, 5, 1), Subsets(3, 5, 1)
    assert np.array_equal(a.members(0, 20), b.members(0, 20))
    assert not np.array_equal(a.members(0, 20), a.members(1, 20))
    assert not np.array_equal(a.members(0, 20), Subsets(3, 5, 2).members(0, 20))
    with pytest.raises(DataError, match="0 subsets of 5 rows"):
        Subsets(0, 5)


# ---- precision and recall


def brute_share(covering: np.ndarray, covered: np.ndarray, k: int) -> float:
    own = np.sort(cdist(covering, covering), axis=1)[:, k]  # the first is the row itself
    return float((cdist(covered, covering) <= own).any(axis=1).mean())


@pytest.mark.parametrize("block_rows", [16, 40, 1000])
def test_precision_and_recall_are_those_of_all_distances(block_rows):
    x, y = rows(100, 5, 8).astype(np.float64), rows(75, 5, 9, 0.8).astype(np.float64)
    found = compare_sets(x, y, 3, None, block_rows)
    assert 0 < found.precision < 1
    assert found.precision == brute_share(x, y, 3)
    assert found.recall == brute_share(y, x, 3)


def test_sets_compared_by_a_cluster_are_as_in_one_piece():
    """Requests and statistics travel as bytes, in any order, over blocks of both sets."""
    x, y = rows(100, 5, 10), rows(80, 5, 11, 0.5)
    subsets = Subsets(4, 30)
    whole = compare_sets(x, y, 3, subsets, 1000)
    blocks = [ArrayBlocks({"x": v, "at": np.arange(len(v))}, 16) for v in (x, y)]
    source = PairsOfBlocks((blocks[0], blocks[1]))
    assert source.n_blocks == 28 + 15 + 35
    found = CarefulEngine(0).run(SetsSolver((100, 80), 3, subsets), source)
    assert np.array_equal(found.covered[0], whole.covered[0])
    assert np.array_equal(found.covered[1], whole.covered[1])
    for name, value in whole.sums.items():
        assert np.allclose(found.sums[name], value, rtol=1e-10, atol=0), name
    again = CarefulEngine(5).run(SetsSolver((100, 80), 3, subsets), source)
    assert all(np.array_equal(again.sums[name], found.sums[name]) for name in found.sums)


def test_copies_of_the_rows_cover_each_other():
    x = rows(40, 3, 12)
    found = compare_sets(x, x[::-1].copy(), 1, None)
    assert found.precision == found.recall == 1


def test_too_few_rows_are_refused():
    x = rows(3, 2, 0)
    with pytest.raises(DataError, match="no 3 nearest neighbours"):
        compare_sets(x, x, 3)
    with pytest.raises(DataError, match="cannot be compared: give at least 2"):
        compare_sets(x[:1], x, 0)


# ---- path length


def test_slerp_goes_as_the_official_one_and_keeps_the_length():
    rng = np.random.default_rng(13)
    a, b, t = rng.standard_normal((6, 8)), 3 * rng.standard_normal((6, 8)), rng.uniform(size=6)
    found = slerp(a, b, t)
    for row in range(6):  # the other form of the great circle, by sines
        u, v = a[row] / np.linalg.norm(a[row]), b[row] / np.linalg.norm(b[row])
        angle = np.arccos(u @ v)
        along = (np.sin((1 - t[row]) * angle) * u + np.sin(t[row] * angle) * v) / np.sin(angle)
        length = (1 - t[row]) * np.linalg.norm(a[row]) + t[row] * np.linalg.norm(b[row])
        assert np.allclose(found[row], length * along, rtol=1e-12, atol=1e-12)
    assert np.allclose(slerp(a, b, np.zeros(6)), a)
    assert np.allclose(lerp(a[:, None], b[:, None], np.ones(6)), b[:, None])


def test_the_mean_is_trimmed_at_distances_that_occur():
    x = np.random.default_rng(14).permutation(np.arange(1000.0))
    assert trimmed_mean(x) == np.arange(9, 991).mean()  # positions 9.99 down and 989.01 up
    assert trimmed_mean(np.array([3.0])) == 3
    with pytest.raises(DataError, match="1 of 3 path lengths are not finite"):
        trimmed_mean(np.array([1.0, np.nan, 2.0]))


def test_path_lengths_come_back_in_order():
    request = CollectPathLengths()
    parts = [
        request.statistic(request.prepare({"distance": np.full(2, b), "block": np.array([b])}))
        for b in (2, 0, 1)
    ]
    whole = parts[0].merge(parts[1]).merge(parts[2])
    assert PathLengths.from_arrays(whole.to_arrays()).distances.tolist() == [0, 0, 1, 1, 2, 2]


# ---- separability


def test_the_surest_half_has_labels():
    scores = np.array([[0.9, 0.1], [0.6, np.nan], [0.2, 0.45], [0.55, 0.9], [0.5, 0.8]])
    assert surest_labels(scores, 0.5).tolist() == [[1, -1], [0, 0], [-1, 0], [0, 1], [0, 0]]


def test_conditional_entropy_is_that_of_scikit_learn():
    """H(Y|X) = H(Y) - I(X; Y)."""
    counts = np.array([[30, 10], [5, 55]])
    said, label = np.indices((2, 2))
    x, y = (np.repeat(v.ravel(), counts.ravel()) for v in (said, label))
    expected = mutual_info_score(y, y) - mutual_info_score(x, y)
    assert conditional_entropy(counts) == pytest.approx(expected, rel=1e-12)
    assert separability(np.stack([counts, counts])) == pytest.approx(np.exp(2 * expected))
    assert separability(np.array([[[7, 0], [0, 9]]])) == 1
    with pytest.raises(DataError, match="no row with a label"):
        conditional_entropy(np.zeros((2, 2)))


def test_rows_are_counted_by_hyperplane_and_label():
    x = np.array([[1.0, 0], [2, 0], [-1, 0], [-2, 0]], np.float32)
    y = np.array([[1, 0], [-1, 1], [-1, 1], [-1, 1]], np.int8)
    request = Confusion(np.array([[1.0, 0], [0, 1]]), np.array([0.0, -1]))
    counts = request.statistic(request.prepare({"x": x, "y": y}))["counts"]
    assert counts.tolist() == [[[2, 0], [1, 1]], [[0, 3], [0, 0]]]
