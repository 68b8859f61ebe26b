"""Reading rows for analyses from a latent store."""

import pickle

import numpy as np
import pytest
from stores import PSNR, W_PLUS, create, fp_of, values, write

from schemas.errors import UsageError
from transforms.accumulate.blocks import ArrayBlocks, BlockSource, iterate_blocks
from transforms.accumulate.landmarks import points_of_landmarks
from transforms.accumulate.requests import MomentsOfRows
from transforms.accumulate.sources import ColumnBlocks, SelectBlocks, StoreBlocks
from transforms.pca.fit import fit_pca, solve_pca


@pytest.fixture
def store(tmp_path):
    store = create(tmp_path / "faces")  # 20 rows in blocks of 8
    write(store, 0, quarantined=[2], removed=[5])
    write(store, 1)
    return store


def blocks(store, **more):
    return StoreBlocks(str(store.path), (W_PLUS, PSNR), ("invert",), **more)


def test_only_ok_rows_of_committed_blocks_are_read(store):
    source = blocks(store)
    assert isinstance(source, BlockSource)
    assert (source.n_rows, source.n_blocks) == (20, 3)
    rows = np.concatenate([rows for _, rows, _ in iterate_blocks(source)])
    assert rows.tolist() == [0, 1, 3, 4, 6, 7, *range(8, 16)]
    np.testing.assert_array_equal(source.read(1)[1][W_PLUS], values(store, 1)[W_PLUS])
    assert source.left_out() == {"quarantined": 1, "removed": 1, "pending": 4}


def test_layers_are_read_alone(store):
    whole, one = blocks(store).read(0)[1], blocks(store, layers=(1, 2)).read(0)[1]
    np.testing.assert_array_equal(one[W_PLUS], whole[W_PLUS][:, 1:2])
    np.testing.assert_array_equal(one[PSNR], whole[PSNR])


def test_blocks_with_another_fingerprint_are_pending(store):
    right = tuple(fp_of(store, block).hex() for block in range(3))
    wrong = (right[0], "00" * 31 + "01", right[2])
    assert len(blocks(store, expected={"invert": right}).read(1)[0]) == 8
    assert len(blocks(store, expected={"invert": wrong}).read(1)[0]) == 0


def test_keys_follow_the_content_and_sources_travel(store):
    source = blocks(store)
    again = pickle.loads(pickle.dumps(source))  # noqa: S301  (our own bytes)
    assert again.key == source.key == blocks(store).key
    assert blocks(store, layers=(0, 1)).key != source.key
    write(store, 2)
    assert blocks(store).key != source.key
    np.testing.assert_array_equal(again.read(0)[0], source.read(0)[0])


def test_columns_are_joined_by_row(store):
    labels = np.arange(20)
    where = labels != 3
    source = SelectBlocks(blocks(store), {"x": W_PLUS}, {"y": labels}, where)
    rows, arrays = source.read(0)
    assert arrays["y"].tolist() == rows.tolist() == [0, 1, 4, 6, 7]
    assert set(arrays) == {"x", "y"} and arrays["x"].shape == (5, 3, 4)
    other = SelectBlocks(blocks(store), {"x": W_PLUS}, {"y": labels + 1}, where)
    assert other.key != source.key
    moments = MomentsOfRows()
    total = moments.statistic(moments.prepare(source.read(0)[1]))
    for block in (1, 2):
        total = total.merge(moments.statistic(moments.prepare(source.read(block)[1])))
    used = np.concatenate([source.read(b)[1]["x"] for b in range(3)]).reshape(-1, 12)
    found, expected = solve_pca(total, 3), fit_pca(used, 3)
    np.testing.assert_allclose(found.components, expected.components, atol=1e-9)


def test_landmarks_are_turned_upright():
    landmarks = np.random.default_rng(0).standard_normal((6, 5, 2))
    source = SelectBlocks(
        ArrayBlocks({"marks": landmarks}, 4), {"points": "marks"}, landmarks=("points",)
    )
    np.testing.assert_array_equal(source.read(0)[1]["points"], points_of_landmarks(landmarks[:4]))


def test_column_ranges_are_slabs():
    x = np.arange(24.0).reshape(4, 2, 3)
    source = ArrayBlocks({"x": x, "cells": np.arange(4)}, 3)
    slab = ColumnBlocks(source, 2, 5)
    assert slab.n_blocks == 2 and slab.key != ColumnBlocks(source, 0, 5).key
    np.testing.assert_array_equal(slab.read(0)[1]["x"], x.reshape(4, 6)[:3, 2:5])
    np.testing.assert_array_equal(slab.read(0)[1]["cells"], [0, 1, 2])


def test_bad_selections_are_refused(store):
    with pytest.raises(UsageError, match="name what to read"):
        StoreBlocks(str(store.path), (), ("invert",))
    with pytest.raises(UsageError, match="layers"):
        blocks(store, layers=(2, 2))
    with pytest.raises(UsageError, match="rename"):
        SelectBlocks(blocks(store), {"x": W_PLUS}, {"x": np.zeros(20)})
    with pytest.raises(UsageError, match="one value a row"):
        SelectBlocks(blocks(store), {"x": W_PLUS}, {"y": np.zeros(20)}, np.ones(3, bool))
