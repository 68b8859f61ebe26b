"""Sibling stores: large arrays of a store's rows, in blocks of their own size beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from digests import tree_files
from hypothesis import given
from hypothesis import strategies as st
from places import GOLDEN
from stores import ARRAYS as STORE_ARRAYS
from stores import W_PLUS, create, flags, fp_of, values, write, write_all

from schemas.errors import StoreError, UnalignedWriteError
from schemas.store import sibling
from schemas.store.check import check_block, check_identity, check_metadata, strangers
from schemas.store.latent_store import LatentStore
from schemas.store.layout import MAX_ROW_BYTES, ArraySpec
from schemas.store.reasons import Status
from schemas.store.sibling import (
    GrowingBlocks,
    SiblingStore,
    apart,
    companions_of,
    sibling_block_rows,
    siblings_of,
)
from transforms.accumulate.sources import StoreBlocks

DELTA = ArraySpec("companions", "w_plus.delta", (5,))
SCALE = ArraySpec("companions", "w_plus.scale", (2,), "float64")
ARRAYS = [DELTA, SCALE]


@pytest.fixture(autouse=True)
def blocks_of_two_rows(monkeypatch):
    """As if a row were so large that two of them are nearest to a block."""
    monkeypatch.setattr(sibling, "BLOCK_BYTES", 2 * (DELTA.row_bytes + SCALE.row_bytes))


def beside(parent: LatentStore, **changes) -> SiblingStore:
    return SiblingStore.beside(parent, "w_plus", ARRAYS, stage="invert", **changes)


def large(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Made-up values of some rows: a pure function of their numbers."""
    rows = np.asarray(rows, float)[:, None]
    return {DELTA.path: (rows + np.arange(5) / 8).astype("f4"), SCALE.path: rows * [1, 2]}


def write_both(parent: LatentStore, block: int, last: bool = True, **set_aside: list[int]) -> None:
    """A block of both stores, three rows at a time, the parent's commit last."""
    rows = parent.block_slice(block)
    n = rows.stop - rows.start
    status, reason = flags(n, **set_aside)
    store, commit = beside(parent), fp_of(parent, block)
    writer = GrowingBlocks(store, parent, block, commit)
    for start in range(0, n, 3):
        part = np.arange(start, min(start + 3, n))
        ok = part[status[part] == Status.OK]
        writer.put(large(ok + rows.start), ok)
        writer.finish(status[: part[-1] + 1], reason[: part[-1] + 1])
    if last:
        parent.write_block("invert", block, values(parent, block), status, reason, commit)


@given(st.integers(1, 2**28), st.integers(0, 13))
def test_blocks_are_nearest_to_32_mib_and_within_the_parents(row_bytes, log_rows):
    array = ArraySpec("companions", "w_plus.delta", (row_bytes,), "int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sibling, "BLOCK_BYTES", 2**25)
        rows = sibling_block_rows([array], 2**log_rows)
    assert rows in [2**k for k in range(log_rows + 1)]
    distance = abs(rows * row_bytes - 2**25)
    assert all(distance <= abs(2**k * row_bytes - 2**25) for k in range(log_rows + 1))


def test_only_large_companions_lie_apart(tmp_path):
    codes = ArraySpec("latents", "w_plus", (3, 4))
    small = ArraySpec("companions", "w_plus.bias", (8,))
    huge = ArraySpec("companions", "w_plus.delta", (MAX_ROW_BYTES // 4 + 1,))
    assert apart([codes, small, huge]) == ([codes, small], [huge])
    with pytest.raises(StoreError, match="'companions/w_plus.delta' .* sibling store"):
        create(tmp_path / "s", arrays=[codes, huge])
    store = create(tmp_path / "s", arrays=[codes, small])
    with pytest.raises(StoreError, match="sibling store"):
        store.add_arrays("other", [huge])


def test_rows_are_read_back_and_the_store_is_one_like_any_other(tmp_path):
    parent = create(tmp_path / "faces", 20)
    before = tree_files(tmp_path / "faces")
    for block in range(parent.n_blocks):
        write_both(parent, block, quarantined=[1] if block == 0 else [])
    store = beside(parent)
    assert (store.block_rows, store.n_blocks, store.n_rows) == (2, 10, 20)
    assert store.parent_fp == parent.store_fp and store.space == "w_plus"
    assert Path(store.path).name == f"faces.w_plus-{store.store_fp[:12]}"
    assert store.waiting(parent) == []
    rows = [0, 19, 7]
    for name, found in store.rows(parent, rows).items():
        np.testing.assert_array_equal(found, large(rows)[name])
    assert store.rows(parent, [])[DELTA.path].shape == (0, 5)
    with pytest.raises(StoreError, match="row 1 has no"):
        store.rows(parent, [0, 1])
    with pytest.raises(StoreError, match="row 20 has no"):
        store.rows(parent, [20])
    # read by analyses, checked and pickled as any store is
    expected = {"invert": tuple(fp.hex() for fp in store.expected(parent))}
    source = StoreBlocks(store.path, (DELTA.path,), ("invert",), expected=expected)
    found = [source.read(block)[0] for block in range(source.n_blocks)]
    assert np.concatenate(found).tolist() == [0, *range(2, 20)]
    assert check_identity(store) == check_metadata(store, {}, repair=False) == []
    assert not any(check_block(store, "invert", b).problems for b in range(store.n_blocks))
    assert strangers(store.path) == []
    # nothing of the parent's is other than it would be without
    alone = create(tmp_path / "alone", 20)
    assert {k for k in tree_files(tmp_path / "alone")} == {k for k in before}
    for block in range(alone.n_blocks):
        write(alone, block, quarantined=[1] if block == 0 else [])
    assert tree_files(tmp_path / "faces") == tree_files(tmp_path / "alone")


def test_only_the_blocks_that_are_read_are_checked(tmp_path, monkeypatch):
    parent = create(tmp_path / "faces", 20)
    for block in range(parent.n_blocks):
        write_both(parent, block)
    store = beside(parent)
    asked, fp_of = [], SiblingStore.fp_of
    monkeypatch.setattr(SiblingStore, "fp_of", lambda *a: asked.append(a[1]) or fp_of(*a))
    store.rows(parent, [14, 3, 15, 3])
    assert asked == [1, 7]


def test_what_belongs_to_codes_comes_from_the_store_and_its_sibling(tmp_path):
    small = ArraySpec("companions", "w_plus.seed", (2,), "int32")
    other = ArraySpec("companions", "w.seed", (2,), "int32")
    parent = create(tmp_path / "s", 8, arrays=[*STORE_ARRAYS, small, other])
    rows, commit = np.arange(8), fp_of(parent, 0)
    blocks = GrowingBlocks(beside(parent), parent, 0, commit)
    blocks.put(large(rows), rows)
    blocks.finish(*flags(8))
    seeds = np.stack([rows, -rows], axis=1).astype("i4")
    arrays = {**values(parent, 0), small.path: seeds, other.path: seeds}
    parent.write_block("invert", 0, arrays, *flags(8), commit)
    found = companions_of(parent, "invert", "w_plus", np.array([5, 2]))
    assert found.keys() == {"seed", "delta", "scale"}
    np.testing.assert_array_equal(found["seed"], seeds[[5, 2]])
    np.testing.assert_array_equal(found["delta"], large([5, 2])[DELTA.path])
    parent.write_block("invert", 0, arrays, *flags(8), fp_of(parent, 0, version=2))
    with pytest.raises(StoreError, match="run the specification again"):
        companions_of(parent, "invert", "w_plus", np.array([5]))
    write_all(plain := create(tmp_path / "plain" / "s", 8))
    assert companions_of(plain, "invert", "w_plus", rows) == {}


def test_identity_is_of_parent_space_and_parameters(tmp_path):
    parent, other = create(tmp_path / "a" / "s"), create(tmp_path / "b" / "s", seed=4)
    found = {
        beside(parent).store_fp,
        beside(other).store_fp,
        beside(parent, parameters={"steps": 3}).store_fp,
        SiblingStore.beside(parent, "f", ARRAYS, stage="invert").store_fp,
    }
    assert len(found) == 4
    assert beside(parent).store_fp in found  # opened, not made anew
    assert len(siblings_of(parent)) == 3 and len(siblings_of(other)) == 1
    with pytest.raises(StoreError, match="not of"):
        beside(parent).expected(other)
    with pytest.raises(StoreError, match="is no sibling of another"):
        SiblingStore.open(parent.path).expected(parent)
    with pytest.raises(StoreError, match="has no arrays"):
        SiblingStore.beside(parent, "w_plus", [], stage="invert")


def test_a_parent_inverted_anew_makes_exactly_its_rows_stale(tmp_path):
    parent = create(tmp_path / "faces", 20)
    for block in range(parent.n_blocks):
        write_both(parent, block)
    store = beside(parent)
    # the same fingerprint, but a row could be read now that could not before: its block alone
    write_both(parent, 1, quarantined=[5])
    store.refresh()
    assert store.waiting(parent) == []
    write(parent, 1)
    assert store.waiting(parent) == [1]
    assert [b for b, fp in enumerate(store.expected(parent)) if store.commit_of("invert", b) != fp
            ] == [6]  # fmt: skip
    with pytest.raises(StoreError, match="row 12 has no .* run the specification again"):
        store.rows(parent, [12])
    np.testing.assert_array_equal(store.rows(parent, [15])[DELTA.path], large([15])[DELTA.path])
    # another fingerprint: all of the block
    commit = fp_of(parent, 1, version=2)
    parent.write_block("invert", 1, values(parent, 1), *flags(8), commit)
    for row in range(8, 16):
        with pytest.raises(StoreError, match=f"row {row} has no"):
            store.rows(parent, [row])
    store.rows(parent, [*range(8), *range(16, 20)])


class Died(BaseException):
    pass


@pytest.mark.parametrize("writes", [0, 7, 20, 33])
def test_killed_at_any_write_the_next_run_gives_the_same_bytes(tmp_path, monkeypatch, writes):
    whole = create(tmp_path / "whole" / "faces", 14)
    for block in range(whole.n_blocks):
        write_both(whole, block, quarantined=[3])
    parent, left = create(tmp_path / "killed" / "faces", 14), [writes]
    put = LatentStore._put

    def dying(self, key, data):
        if not left[0]:
            raise Died
        left[0] -= 1
        put(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(LatentStore, "_put", dying)
        with pytest.raises(Died):
            for block in range(parent.n_blocks):
                write_both(parent, block, quarantined=[3])
    parent.refresh()
    store = beside(parent)
    committed = parent.committed("invert").any(axis=1)
    assert not set(store.waiting(parent)) & set(np.flatnonzero(committed))  # the parent's are last
    for block in np.flatnonzero(~committed).tolist():
        write_both(parent, block, quarantined=[3])
    assert tree_files(tmp_path / "killed") == tree_files(tmp_path / "whole")


def test_it_grows_with_its_parent(tmp_path):
    parent = create(tmp_path / "faces", 11)
    for block in range(parent.n_blocks):
        write_both(parent, block)
    parent = create(tmp_path / "faces", 21)
    store = SiblingStore.open(beside(parent).path)
    assert store.n_rows == 21 and store.waiting(parent) == []
    store.rows(parent, range(8))
    with pytest.raises(StoreError, match="row 8 has no"):
        store.rows(parent, [8])
    for block in (1, 2):
        write_both(parent, block)
    store.refresh()
    np.testing.assert_array_equal(store.rows(parent, [20])[DELTA.path], large([20])[DELTA.path])


def test_rows_are_written_in_whole_blocks_only(tmp_path):
    parent = create(tmp_path / "faces", 8)
    store, commit = beside(parent), fp_of(parent, 0)
    writer = GrowingBlocks(store, parent, 0, commit)
    writer.put(large([0, 1, 2]), np.array([0, 1, 2]))
    writer.finish(*flags(3))
    assert store.committed("invert").any(axis=1).tolist() == [True, False, False, False]
    with pytest.raises(StoreError, match="written already"):
        writer.put(large([1]), np.array([1]))
    with pytest.raises(StoreError, match="lies elsewhere"):
        writer.put(large([8]), np.array([8]))
    with pytest.raises((StoreError, UnalignedWriteError)):
        store.write_block("invert", 1, large([2]), *flags(1), commit)
    assert store.waiting(parent) == []  # the parent holds nothing yet
    with pytest.raises(StoreError, match="row 0 has no"):
        store.rows(parent, [0])


def write_golden(folder: Path) -> None:
    """How ``tests/golden/sibling_v1`` was made."""
    parent = create(folder / "faces", 12)
    write_both(parent, 0, quarantined=[1], removed=[2])
    write_both(parent, 1)


def test_golden_sibling_is_read_and_written_as_ever(tmp_path):
    """``sibling_v1`` was written by ``write_golden`` at layout version 1, for ever."""
    parent = LatentStore.open(GOLDEN / "sibling_v1/faces")
    (store,) = siblings_of(parent)
    rows = [0, *range(3, 12)]
    for name, found in store.rows(parent, rows).items():
        np.testing.assert_array_equal(found, large(rows)[name])
    write_golden(tmp_path)
    found, expected = tree_files(tmp_path), tree_files(GOLDEN / "sibling_v1")
    assert found.keys() == expected.keys()
    named = "reason/invert/zarr.json"  # a release may know more reasons than the first
    assert [k for k in found if found[k] != expected[k] and not k.endswith(named)] == []
    # a release that knows no siblings reads it as the store that it is
    plain = LatentStore.open(store.path)
    np.testing.assert_array_equal(
        plain.ok_rows([DELTA.path], 2, ["invert"]).arrays[DELTA.path], large([4, 5])[DELTA.path]
    )


def test_a_sibling_beside_changes_no_byte_of_another(tmp_path):
    parent = create(tmp_path / "faces", 8)
    write_all(parent)
    write_both(parent, 0)
    before = tree_files(tmp_path)
    other = SiblingStore.beside(parent, "f", [DELTA], stage="invert", parameters={"steps": 2})
    writer = GrowingBlocks(other, parent, 0, fp_of(parent, 0))
    writer.finish(*flags(8))
    after = tree_files(tmp_path)
    assert {k: after[k] for k in before} == before and len(after) > len(before)
    parent.add_arrays("z", [ArraySpec("latents", "z", (4,))])
    for name in ("zarr.json", *(k for k in before if W_PLUS in k)):
        if name in before:
            assert tree_files(tmp_path)[name] == before[name]
