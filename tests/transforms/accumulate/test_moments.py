"""Blocks, sums in order and centred moments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError, UsageError
from transforms.accumulate.blocks import (
    ArrayBlocks,
    BlockSource,
    NpyBlocks,
    Sums,
    group_blocks,
    iterate_blocks,
    sum_blocks,
)
from transforms.accumulate.moments import Moments, moments_of, row_batches, second_moment
from transforms.accumulate.pinned import PinnedBlocks
from transforms.signs import fix_signs


def rows_with_mean(n=4000, d=12, mean=1e3, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) * np.linspace(0.5, 2, d) + mean).astype(np.float32)


def exact(x):
    """Mean and centred second moment in extended precision."""
    wide = x.astype(np.longdouble)
    mean = wide.mean(axis=0)
    return mean.astype(float), ((wide - mean).T @ (wide - mean)).astype(float)


def test_batches_of_rows_hold_a_million_values_where_that_is_neither_few_rows_nor_many():
    for n_features, rows in ((1, 8192), (128, 8192), (512, 2048), (1000, 1048), (10**6, 1024)):
        found = row_batches(20_000, n_features)
        assert found[0] == slice(0, rows) and found[-1].stop == 20_000
        assert [part.start for part in found] == list(range(0, 20_000, rows))
    assert row_batches(0, 3) == []


def test_column_mean_1e3_keeps_twelve_digits():
    x = rows_with_mean()
    moments = moments_of(ArrayBlocks({"x": x}, 300))
    mean, second = exact(x)
    assert moments.count == len(x)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-14)
    assert np.linalg.norm(moments.second - second) / np.linalg.norm(second) < 1e-12
    assert np.linalg.eigvalsh(moments.second)[0] > 0
    assert (moments.second == moments.second.T).all()


def test_rows_that_repeat_with_the_shift_s_period_keep_their_digits():
    x = rows_with_mean(4000, 6)
    x[::16] += 1e4  # the rows whose mean is the shift are nothing like the others
    mean, second = exact(x)
    for diagonal in (False, True):
        moments = Moments.of(x, diagonal)
        expected = np.diag(second) if diagonal else second
        np.testing.assert_allclose(moments.mean, mean, rtol=1e-12)
        assert np.linalg.norm(moments.second - expected) / np.linalg.norm(expected) < 1e-11


@settings(deadline=None)
@given(
    cuts=st.lists(st.integers(0, 50), min_size=0, max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_any_split_in_any_order_merges_to_the_same(cuts, order):
    x = rows_with_mean(50, 4, 100.0)
    edges = [0, *sorted(cuts), 50]
    parts = [Moments.of(x[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    order.shuffle(parts)
    total = Moments.zero(4)
    for part in parts:
        total = total.merge(part)
    mean, second = exact(x)
    assert total.count == 50
    np.testing.assert_allclose(total.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(total.second, second, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("diagonal", [False, True])
def test_add_equals_all_at_once_and_arrays_round_trip(diagonal):
    x = rows_with_mean(300, 5)
    total = Moments.zero(5, diagonal).add(x[:100]).add(x[100:100]).add(x[100:])
    whole = Moments.of(x, diagonal)
    assert total.count == whole.count == 300
    np.testing.assert_allclose(total.second, whole.second, rtol=1e-10)
    again = Moments.from_arrays(total.to_arrays())
    assert again.count == total.count
    assert (again.mean == total.mean).all() and (again.second == total.second).all()


@pytest.mark.parametrize("diagonal", [False, True])
def test_without_undoes_merge(diagonal):
    x = np.random.default_rng(3).standard_normal((90, 4)) + 1e3
    first, second = Moments.of(x[:70], diagonal), Moments.of(x[70:], diagonal)
    left = first.merge(second).without(second)
    assert left.count == 70
    np.testing.assert_allclose(left.mean, first.mean, rtol=1e-13)
    np.testing.assert_allclose(left.second, first.second, rtol=1e-8, atol=1e-8)
    nothing = Moments.zero(4, diagonal)
    assert first.without(nothing) is first and first.without(first).count == 0


def test_diagonal_is_the_diagonal():
    x = rows_with_mean(200, 6)
    whole = np.diag(Moments.of(x).second)
    np.testing.assert_allclose(Moments.of(x, diagonal=True).second, whole, rtol=1e-12)


def test_variance_along_directions():
    x = rows_with_mean(500, 4).astype(float)
    directions = np.random.default_rng(1).standard_normal((3, 4))
    expected = (x @ directions.T).var(axis=0, ddof=1)
    np.testing.assert_allclose(Moments.of(x).variance_along(directions), expected, rtol=1e-9)
    with pytest.raises(UsageError, match="diagonal"):
        Moments.of(x, diagonal=True).variance_along(directions)


def test_second_moment_of_nothing():
    assert second_moment(np.zeros((3, 0))).shape == (0, 0)


def test_bad_rows_are_named():
    x = rows_with_mean(10, 3)
    x[4, 1] = np.nan
    with pytest.raises(DataError, match=r"features \[1\]"):
        Moments.of(x).check()
    with pytest.raises(DataError, match="at least 2"):
        Moments.of(x[:1]).check(2)
    with pytest.raises(UsageError, match="reshape"):
        Moments.of(x[0])
    with pytest.raises(UsageError, match="merge"):
        Moments.zero(3).merge(Moments.zero(4))


def test_groups_are_fixed():
    assert [list(g) for g in group_blocks(18)] == [list(range(16)), [16, 17]]
    assert group_blocks(0) == []


def test_sums_run_in_ascending_order_within_and_over_groups():
    seen = []

    def statistic(block):
        seen.append(block)
        return Sums({"a": np.array(float(block))})

    assert sum_blocks(40, statistic)["a"] == sum(range(40))
    assert seen == list(range(40))
    with pytest.raises(DataError, match="no blocks"):
        sum_blocks(0, statistic)


def test_sums_refuse_other_names():
    one = Sums.zero().add(a=1.0)
    assert one.merge(Sums.zero()) is one
    assert Sums.from_arrays(one.to_arrays())["a"] == 1.0
    with pytest.raises(UsageError, match="one analysis"):
        one.add(b=2.0)


def test_sources_agree(tmp_path):
    x = rows_with_mean(25, 3)
    y = np.arange(25)
    paths = {}
    for name, array in {"x": x, "y": y}.items():
        paths[name] = str(tmp_path / f"{name}.npy")
        np.save(paths[name], array)
    memory, files = ArrayBlocks({"x": x, "y": y}, 7), NpyBlocks(paths, 7)
    assert isinstance(memory, BlockSource) and isinstance(files, BlockSource)
    assert memory.n_blocks == files.n_blocks == 4
    assert files.key == NpyBlocks(paths, 7).key
    for (_, rows, arrays), (_, file_rows, file_arrays) in zip(
        iterate_blocks(memory), iterate_blocks(files), strict=True
    ):
        np.testing.assert_array_equal(rows, file_rows)
        for name in arrays:
            np.testing.assert_array_equal(arrays[name], file_arrays[name])


def test_sources_refuse_unequal_lengths():
    with pytest.raises(UsageError, match="equal lengths"):
        ArrayBlocks({"x": np.zeros((3, 2)), "y": np.zeros(4)})
    with pytest.raises(UsageError, match="block_rows"):
        ArrayBlocks({"x": np.zeros((3, 2))}, 0)
    with pytest.raises(UsageError, match="no arrays"):
        ArrayBlocks({})


def test_signs_follow_the_first_of_the_largest():
    vectors = np.array([[0.1, -1.0, 1.0 - 1e-9], [0.5, 2.0, -1.0], [0.0, 0.0, 0.0]])
    fixed = fix_signs(vectors)
    assert fixed[0, 1] == 1.0 and fixed[1, 1] == 2.0 and (fixed[2] == 0).all()
    np.testing.assert_array_equal(fix_signs(-vectors), fixed)


def test_pinned_blocks_first_come_first_kept():
    loads = []

    def load(block):
        def inner():
            loads.append(block)
            return {"x": np.zeros(100)}

        return inner

    pinned = PinnedBlocks()
    for _ in range(3):
        for block in range(4):
            pinned.get("source", "raw", block, 1600, load(block))
    assert pinned.n_bytes == 1600
    assert loads == [0, 1, 2, 3, 2, 3, 2, 3]
    pinned.get("source", "other", 0, 1600, load(0))  # another preparation replaces the first
    assert pinned.n_bytes == 1600
    pinned.get("second", "raw", 0, 1600, load(0))  # a source not in use gives way
    assert pinned.n_bytes == 800
    pinned.release("second")
    assert pinned.n_bytes == 0
