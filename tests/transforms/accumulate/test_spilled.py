"""Columns that lie in files while a source travels."""

import pickle

import numpy as np
from stores import W_PLUS, create, write

from pipelines.engine.scratch import ScratchEngine
from tests.in_process import InProcess
from transforms.accumulate import spilled
from transforms.accumulate.passes import run_passes
from transforms.accumulate.sources import SelectBlocks, StoreBlocks
from transforms.accumulate.spilled import with_columns_in
from transforms.svm.fit import HyperplaneOptions, HyperplaneSolver


def labelled(tmp_path):
    """A store's rows with labels."""
    store = create(tmp_path / "faces")
    write(store, 0, quarantined=[2], removed=[5])
    write(store, 1)
    columns = {"y": np.where(np.arange(20) % 3, 1, -1)[:, None].astype(np.int8)}
    return SelectBlocks(StoreBlocks(store.path, (W_PLUS,), ("invert",)), {"x": W_PLUS}, columns)


def test_blocks_and_keys_are_the_same_and_little_travels(tmp_path, monkeypatch):
    source = labelled(tmp_path)
    assert with_columns_in(source, tmp_path / "columns") is source  # small columns travel
    monkeypatch.setattr(spilled, "SENT_BYTES", 1)
    kept = with_columns_in(source, tmp_path / "columns")
    assert isinstance(kept.columns["y"], spilled.StoredColumn)
    sent = pickle.loads(pickle.dumps(kept))  # noqa: S301 (written here)
    assert sent.key == source.key and sent.part_key(range(1, 2)) == source.part_key(range(1, 2))
    for block in range(source.n_blocks):
        (rows, found), (own_rows, own) = sent.read(block), source.read(block)
        np.testing.assert_array_equal(rows, own_rows)
        assert found.keys() == own.keys()
        for name, array in own.items():
            np.testing.assert_array_equal(found[name], array)
    assert with_columns_in(kept, tmp_path / "columns") is kept
    assert len(list((tmp_path / "columns").iterdir())) == 1


def test_solvers_read_columns_from_files_that_are_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(spilled, "SENT_BYTES", 1)
    source = labelled(tmp_path)
    looked = []

    class Engine(InProcess):
        def run(self, solver, source, seen=None):
            looked.append(type(source.columns["y"]))
            return run_passes(solver, source, seen=seen)

    solver = HyperplaneSolver(HyperplaneOptions())
    scratch = ScratchEngine.beside(Engine(), tmp_path / "set")
    found = scratch.run(solver, source).result()
    assert looked == [spilled.StoredColumn] and not list(scratch.folder.rglob("*.npy"))
    expected = run_passes(solver, source).result()
    np.testing.assert_array_equal(found.coef, expected.coef)
