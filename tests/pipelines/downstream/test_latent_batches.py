"""Batches for torch: every row once an epoch, the same batches whatever the number of workers."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from pipelines.downstream.latent_batches import LatentBatches
from schemas.errors import UsageError
from tests import stores
from transforms.accumulate.sources import SelectBlocks, StoreBlocks

N_ROWS, BLOCK = 44, 8  # 6 blocks, the last one short
MISSING = {3, 20}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> SelectBlocks:
    path: Path = tmp_path_factory.mktemp("batches") / "store"
    store = stores.create(path, n_rows=N_ROWS, block_rows=BLOCK)
    for block in range(store.n_blocks):
        start = store.block_slice(block).start
        aside = [row - start for row in MISSING if start <= row < start + stores.n_of(store, block)]
        stores.write(store, block, quarantined=aside)
    blocks = StoreBlocks(store.path, (stores.W_PLUS, stores.COUNT), ("invert",))
    arrays = {name: name for name in (stores.W_PLUS, stores.COUNT)}
    return SelectBlocks(blocks, arrays, {"label": np.arange(N_ROWS) * 10.0})


def epoch_of(batches: LatentBatches, workers: int = 0) -> list[tuple[int, ...]]:
    """Row numbers of every batch, whose contents are checked."""
    found = []
    for batch in DataLoader(batches, batch_size=None, num_workers=workers):
        rows = batch["row"].tolist()
        codes = [np.random.default_rng(r).normal(size=(3, 4)).astype("f4") for r in rows]
        np.testing.assert_array_equal(batch[stores.W_PLUS], np.stack(codes))
        assert batch[stores.COUNT].tolist() == rows
        assert batch["label"].tolist() == [row * 10.0 for row in rows]
        found.append(tuple(rows))
    return found


def test_every_row_once_in_the_same_batches_for_any_number_of_workers(source):
    batches = LatentBatches(source, 5, seed=1, window=2)
    alone, shared = epoch_of(batches), epoch_of(batches, workers=2)
    rows = sorted(row for batch in alone for row in batch)
    assert rows == sorted(set(range(N_ROWS)) - MISSING)
    assert sorted(alone) == sorted(shared)
    assert max(map(len, alone)) == 5
    blocks = {frozenset(row // BLOCK for row in batch) for batch in alone}
    assert max(map(len, blocks)) == 2  # rows of both blocks of a window are mixed


def test_batches_may_hold_one_row_of_one_block(source):
    rows = epoch_of(LatentBatches(source, 1, window=1, shuffle=False))
    assert rows == [(row,) for row in range(N_ROWS) if row not in MISSING]


def test_order_depends_on_seed_and_epoch_only(source):
    batches = LatentBatches(source, 6, seed=3)
    first = epoch_of(batches)
    assert epoch_of(batches) == first == epoch_of(pickle.loads(pickle.dumps(batches)))  # noqa: S301
    batches.set_epoch(1)
    second = epoch_of(batches)
    assert second != first and epoch_of(LatentBatches(source, 6, seed=4)) != first
    batches.set_epoch(0)
    assert epoch_of(batches) == first
    in_order = [row for batch in epoch_of(LatentBatches(source, 7, shuffle=False)) for row in batch]
    assert in_order == sorted(set(range(N_ROWS)) - MISSING)


def test_persistent_workers_see_the_epoch(source):
    batches = LatentBatches(source, 6, seed=3)
    loader = DataLoader(batches, batch_size=None, num_workers=1, persistent_workers=True)
    seen = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        seen.append([tuple(batch["row"].tolist()) for batch in loader])
    assert seen[0] == seen[2] != seen[1]
    assert seen[0] == epoch_of(batches)


def test_each_block_is_read_once_an_epoch(source, monkeypatch):
    read, blocks = SelectBlocks.read, []

    def counted(self, block):
        blocks.append(block)
        return read(self, block)

    monkeypatch.setattr(SelectBlocks, "read", counted)
    assert len(list(LatentBatches(source, 4, window=4))) == 11  # 32 - 1 or 2 rows, and the rest
    assert sorted(blocks) == list(range(6))


def test_short_batches_can_be_dropped_and_none_is_refused(source):
    sizes = [len(b["row"]) for b in LatentBatches(source, 8, window=6, drop_last=True)]
    assert sizes == [8] * 5
    for wrong in ({"batch_size": 0}, {"batch_size": 1, "window": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            LatentBatches(source, **wrong)
