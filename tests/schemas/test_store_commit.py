"""Commits of the latent store: the same bytes whatever is killed, repeated, raced or grown."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from digests import tree_files
from places import ROOT
from stores import (
    PSNR,
    W_PLUS,
    create,
    flags,
    fp_of,
    values,
    write,
    write_all,
)
from zarr.core.attributes import Attributes

from schemas.store.latent_store import LatentStore

pytestmark = pytest.mark.zarr_loop


def test_the_same_writes_give_the_same_bytes(tmp_path):
    for name, order in (("a", [0, 1, 2]), ("b", [2, 0, 1])):
        store = create(tmp_path / name)
        for block in order:
            write(store, block)
    once = tree_files(tmp_path / "a")
    assert tree_files(tmp_path / "b") == once
    write(store, 1)
    assert tree_files(tmp_path / "b") == once


def test_a_rewrite_does_not_trust_what_lies_there(tmp_path):
    store = create(tmp_path / "s")
    write_all(store)
    clean = tree_files(tmp_path / "s")
    for shard in (tmp_path / "s").glob("*/*/c/2*"):  # of the partial last block
        for file in [shard] if shard.is_file() else shard.rglob("0"):
            if file.is_file():
                file.write_bytes(b"damaged" + file.read_bytes()[7:])
    with pytest.raises(ValueError, match="checksum"):
        store.read_block([W_PLUS], 2, "invert")
    write(store, 2)
    assert tree_files(tmp_path / "s") == clean


KILLED_RUN = """
import os, signal, sys
sys.path.insert(0, "tests")
import stores
from schemas.store.latent_store import LatentStore

store = LatentStore.open(sys.argv[1], "r+")
replace, left = os.replace, [int(sys.argv[2])]
def counted(source, target):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = counted
stores.write(store, 2)
os.kill(os.getpid(), signal.SIGKILL)
"""
# One replace a step: commit zeroed, three arrays, status, reason, commit written.
STEPS = 7


@pytest.mark.parametrize("survived", [0, 2, STEPS - 1, STEPS])
def test_killed_between_steps_and_run_again(tmp_path, survived):
    reference = create(tmp_path / "reference")
    write_all(reference)
    path = tmp_path / "killed"
    store = create(path)
    write(store, 0)
    write(store, 1)
    # block 2 holds other, committed results: a rewrite that dies must not leave them readable
    old = {**values(store, 2), W_PLUS: np.ones((4, 3, 4), "f4")}
    old_fp = fp_of(store, 2, version=9)
    store.write_block("invert", 2, old, *flags(4), old_fp)

    command = [sys.executable, "-c", KILLED_RUN, str(path), str(survived)]
    result = subprocess.run(command, cwd=ROOT, check=False, env={**os.environ, "PYTHONPATH": "."})
    assert result.returncode == -signal.SIGKILL

    store = LatentStore.open(path, "r+")
    committed = store.is_committed("invert", 2, fp_of(store, 2))
    assert committed == (survived == STEPS)
    assert store.is_committed("invert", 2, old_fp) == (survived == 0)
    assert store.delete_partials() == (survived < STEPS)
    if not committed:
        write(store, 2)
    assert tree_files(path) == tree_files(tmp_path / "reference")


class Died(BaseException):
    """Stands for a kill at a point inside this process."""


def test_every_point_of_death_leaves_old_new_or_nothing(tmp_path, monkeypatch):
    store = create(tmp_path / "s")
    write_all(store)
    reference = tree_files(tmp_path / "s")
    replace = os.replace
    outcomes = []
    for survived in range(STEPS + 1):
        count = 0

        def counted(source, target):
            nonlocal count
            if count == survived:  # noqa: B023
                raise Died
            count += 1
            replace(source, target)

        different = {**values(store, 0), PSNR: np.zeros(8)}
        new_fp = fp_of(store, 0, version=2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted)
            try:
                store.write_block("invert", 0, different, *flags(8), new_fp)
            except Died:
                pass
        found = store.commit_of("invert", 0)
        psnr = store.ok_rows([PSNR], 0, ["invert"]).arrays[PSNR]
        if found == fp_of(store, 0):
            outcomes.append("old")
            np.testing.assert_array_equal(psnr, np.arange(8) + 0.5)
        elif found == new_fp:
            outcomes.append("new")
            np.testing.assert_array_equal(psnr, np.zeros(8))
        else:
            outcomes.append("nothing")
            assert len(psnr) == 0
        write(store, 0)
        assert tree_files(tmp_path / "s") == reference
    assert outcomes == ["old"] + ["nothing"] * (STEPS - 1) + ["new"]


def test_the_same_block_may_be_written_by_several_workers_at_once(tmp_path):
    reference = create(tmp_path / "reference")
    write_all(reference)
    create(tmp_path / "s")
    start = threading.Barrier(4)
    failed: list[Exception] = []

    def work(first: int) -> None:
        store = LatentStore.open(tmp_path / "s", "r+")
        start.wait()
        try:
            for block in (0, first, 1, 2, first):
                write(store, block)
        except Exception as e:  # reported below, in the test's own thread
            failed.append(e)

    threads = [threading.Thread(target=work, args=(i % 3,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert tree_files(tmp_path / "s") == tree_files(tmp_path / "reference")


# ---- growing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(20, 21), (20, 24), (20, 40), (16, 20), (3, 70)])
def test_grown_store_equals_one_made_at_once(tmp_path, before, after):
    store = create(tmp_path / "grown", before)
    write_all(store)
    full = before // 8
    store.grow(after)
    assert (store.n_rows, store.n_blocks) == (after, math.ceil(after / 8))
    committed = store.committed("invert").any(axis=1)
    assert committed.tolist() == [block < full for block in range(store.n_blocks)]
    assert store.status("invert")[8 * full :].sum() == 0
    for block in np.flatnonzero(~committed):
        write(store, int(block))
    at_once = create(tmp_path / "once", after)
    write_all(at_once)
    assert tree_files(tmp_path / "grown") == tree_files(tmp_path / "once")


def test_growing_can_be_repeated_after_a_crash(tmp_path, monkeypatch):
    store = create(tmp_path / "s")
    write_all(store)
    with monkeypatch.context() as patch:

        def die(*args):
            raise Died

        patch.setattr(Attributes, "update", die)  # the last step: the number of rows
        with pytest.raises(Died):
            store.grow(30)
    store = LatentStore.open(tmp_path / "s", "r+")
    assert store.n_rows == 20
    assert store.committed("invert").any(axis=1).tolist() == [True, True, False]
    assert len(store.status("invert")) == 20
    store = create(tmp_path / "s", 30)
    write_all(store)
    once = create(tmp_path / "once", 30)
    write_all(once)
    assert tree_files(tmp_path / "s") == tree_files(tmp_path / "once")
