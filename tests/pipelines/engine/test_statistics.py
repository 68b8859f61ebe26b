"""Statistics that outlive a run: the bits of a pass over everything, reading only what is new."""

import os
import shutil

import numpy as np
import pytest
from in_process import InProcess
from stores import W_PLUS, create, flags, fp_of, n_of, values, write_all

from pipelines.analyses.labels import LabelledBlocks, Labels
from pipelines.analyses.mean_difference.fit import LabelSums
from pipelines.engine.saved_sums import (
    SavedStatistics,
    StatisticFolder,
    opened,
    request_key,
    sealed,
)
from schemas.errors import DataError
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Reason, Status
from transforms.accumulate.blocks import ArrayBlocks, Sums
from transforms.accumulate.factor_cells import grid_cells
from transforms.accumulate.moments import Moments
from transforms.accumulate.passes import run_passes
from transforms.accumulate.requests import JointMoments, MomentsAlong, MomentsOfRows, SumsOfCells
from transforms.accumulate.sources import SelectBlocks, StoreBlocks
from transforms.accumulate.stored import statistic_bytes, statistic_of_bytes
from transforms.hosvd.passes import SlabCells
from transforms.hosvd.solve import HOSVDSolver

N, BLOCK = 70, 2  # 35 blocks: two groups of 16, one of 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store that nobody changes."""
    store = create(tmp_path_factory.mktemp("made") / "store", n_rows=N, block_rows=BLOCK)
    write_all(store)
    return store


@pytest.fixture
def store(made, tmp_path):
    """A copy of it."""
    shutil.copytree(made.path, tmp_path / "store")
    return LatentStore.open(tmp_path / "store", "r+")


def source_of(store, layers=None, **columns):
    return SelectBlocks(
        StoreBlocks(store.path, (W_PLUS,), ("invert",), layers), {"x": W_PLUS}, columns
    )


def columns_of(n):
    rng = np.random.default_rng(7)
    return {
        "cells": rng.integers(-1, 5, 200)[:n],
        "targets": rng.normal(size=(200, 2))[:n],
        "scores": rng.random((200, 3))[:n],
    }


def cases(store, n=N):
    """name -> (source, request)."""
    columns = columns_of(n)
    labelled = LabelledBlocks(source_of(store, scores=columns["scores"]), Labels((0, 2), 0.5))
    return {
        "moments": (source_of(store), MomentsOfRows()),
        "one layer": (source_of(store, (1, 2)), MomentsOfRows()),
        "along": (source_of(store), MomentsAlong(np.arange(24.0).reshape(2, 3, 4))),
        "cells": (source_of(store, cells=columns["cells"]), SumsOfCells()),
        "joint": (source_of(store, targets=columns["targets"]), JointMoments()),
        "labels": (labelled, LabelSums()),
    }


NAMES = ("moments", "one layer", "along", "cells", "joint", "labels")


def bits(statistic):
    return {name: np.asarray(a).tobytes() for name, a in statistic.to_arrays().items()}


def rewrite(store, block, value=None, **set_aside):
    """Other codes in a block, under another commit."""
    arrays = values(store, block)
    if value is not None:
        arrays[W_PLUS] = arrays[W_PLUS] + np.float32(value)
    state = flags(n_of(store, block), **set_aside)
    store.write_block("invert", block, arrays, *state, fp_of(store, block, version=2))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_gives_the_bits_of_a_pass_over_everything(store, tmp_path, name):
    def both(n=N):
        source, request = cases(store, n)[name]
        saved = SavedStatistics(InProcess(), tmp_path / "statistics")
        found = saved.sum(source, request)
        assert bits(found) == bits(InProcess().sum(source, request))
        assert saved.blocks_read == saved.engine.blocks
        assert saved.blocks_read + saved.blocks_saved == source.n_blocks
        return saved.blocks_read, saved.take_names()

    assert both()[0] == 35
    read, names = both()
    assert read == 0 and len(names) == 3
    assert sorted(f.stem for f in (tmp_path / "statistics").iterdir()) == names
    rewrite(store, 17, 0.5)
    assert both()[0] == 16
    rewrite(store, 34, quarantined=[1])
    assert both()[0] == 3
    store.grow(N + 3)
    for block in (35, 36):
        rewrite(store, block)
    assert both(N + 3)[0] == 5


def test_rows_that_can_be_read_at_last_are_noticed(store, tmp_path):
    """Such a block is written anew under the commit that it has."""
    status, reason = flags(2)
    status[1], reason[1] = Status.QUARANTINED, Reason.IO_ERROR
    store.write_block("invert", 3, values(store, 3), status, reason, fp_of(store, 3))
    folder = tmp_path / "statistics"
    assert SavedStatistics(InProcess(), folder).sum(source_of(store), MomentsOfRows()).count == 69
    before = store.contents("invert")
    store.write_block("invert", 3, values(store, 3), *flags(2), fp_of(store, 3))
    after = store.contents("invert")
    assert [i for i in range(35) if before[i] != after[i]] == [3]
    saved = SavedStatistics(InProcess(), folder)
    assert saved.sum(source_of(store), MomentsOfRows()).count == 70 and saved.blocks_read == 16


def test_a_column_makes_its_own_rows_stale_only(store, tmp_path):
    cells = columns_of(N)["cells"]
    folder = tmp_path / "statistics"
    SavedStatistics(InProcess(), folder).sum(source_of(store, cells=cells), SumsOfCells())
    other = cells.copy()
    other[40] = 4 if cells[40] != 4 else 3
    saved = SavedStatistics(InProcess(), folder)
    source = source_of(store, cells=other)
    assert bits(saved.sum(source, SumsOfCells())) == bits(InProcess().sum(source, SumsOfCells()))
    assert saved.blocks_read == 16


def test_a_store_that_was_moved_keeps_its_statistics(store, tmp_path):
    folder = tmp_path / "statistics"
    SavedStatistics(InProcess(), folder).sum(source_of(store), MomentsOfRows())
    moved = (tmp_path / "store").rename(tmp_path / "elsewhere")
    saved = SavedStatistics(InProcess(), folder)
    source = SelectBlocks(StoreBlocks(str(moved), (W_PLUS,), ("invert",)), {"x": W_PLUS})
    saved.sum(source, MomentsOfRows())
    assert saved.blocks_read == 0


def test_an_uncommitted_block_is_not_taken_for_the_one_before(store, tmp_path):
    folder = tmp_path / "statistics"
    SavedStatistics(InProcess(), folder).sum(source_of(store), MomentsOfRows())
    store._write_commit("invert", 20, bytes(32))
    saved = SavedStatistics(InProcess(), folder)
    assert saved.sum(source_of(store), MomentsOfRows()).count == N - BLOCK
    assert saved.blocks_read == 16


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign", "pickle", "zip"])
def test_a_damaged_file_is_made_again(store, tmp_path, damage):
    folder = tmp_path / "statistics"
    source, request = source_of(store), MomentsOfRows()
    SavedStatistics(InProcess(), folder).sum(source, request)
    files = sorted(folder.iterdir())
    good = [file.read_bytes() for file in files]
    half = len(good[0]) // 2
    files[0].write_bytes(
        {
            "empty": b"",
            "cut": good[0][:half],
            "flipped": good[0][:half] + bytes([good[0][half] ^ 1]) + good[0][half + 1 :],
            "foreign": b"GIF89a" + good[0],
            "pickle": b"\x80\x04cos\nsystem\n",
            "zip": b"PK\x03\x04" + bytes(100),
        }[damage]
    )
    saved = SavedStatistics(InProcess(), folder)
    assert bits(saved.sum(source, request)) == bits(InProcess().sum(source, request))
    assert saved.blocks_read in (3, 16)
    assert [file.read_bytes() for file in sorted(folder.iterdir())] == good


def test_killed_between_any_two_writes(store, tmp_path, monkeypatch):
    """What was written stays; the next run makes the rest, to the same bits."""
    source, request = cases(store)["joint"]
    expected = bits(InProcess().sum(source, request))
    read = []
    for writes in range(3):
        folder = tmp_path / f"statistics{writes}"
        with monkeypatch.context() as patched:
            left = iter(range(writes))
            save = StatisticFolder.save

            def dying(self, name, content, left=left, save=save):
                if next(left, None) is None:
                    raise KeyboardInterrupt
                save(self, name, content)

            patched.setattr(StatisticFolder, "save", dying)
            with pytest.raises(KeyboardInterrupt):
                SavedStatistics(InProcess(), folder).sum(source, request)
        (folder / f"left.npz.{'1' * 32}.partial").parent.mkdir(exist_ok=True)
        (folder / f"left.npz.{'1' * 32}.partial").write_bytes(b"half")
        saved = SavedStatistics(InProcess(), folder)
        assert bits(saved.sum(source, request)) == expected
        read.append(saved.blocks_read)
    assert read == [35, 19, 3]


def test_the_folder_is_bounded_and_the_oldest_go(tmp_path):
    content = statistic_bytes(Moments.of(np.ones((3, 4))))
    a, b, c, d, e = (letter * 32 for letter in "abcde")
    folder = StatisticFolder(tmp_path, limit=3 * len(sealed(content)))
    (tmp_path / ".0.npz").write_bytes(bytes(10**6))  # somebody else's: neither counted nor removed
    for i, name in enumerate((a, b, c)):
        folder.save(name, content)
        stamp = 10**18 + i * 10**9
        os.utime(tmp_path / f"{name}.npz", ns=(stamp, stamp))
    assert folder.load(a) is not None  # used now, so b is the oldest
    folder.save(d, content)
    assert sorted(f.stem for f in tmp_path.iterdir()) == [".0", a, c, d]
    folder.save(e, bytes(4 * len(content)))
    assert sorted(f.stem for f in tmp_path.iterdir()) == [".0", a, c, d]
    assert folder.load(e) is None and folder.load(b) is None


def test_every_byte_of_a_saved_sum_counts(tmp_path):
    folder = StatisticFolder(tmp_path)
    name = "a" * 32
    folder.save(name, statistic_bytes(Moments.of(np.arange(12.0).reshape(3, 4))))
    path = tmp_path / f"{name}.npz"
    data = path.read_bytes()
    with np.load(path) as arrays:  # still an npz file like any other
        assert arrays.files and opened(data) == statistic_bytes(folder.load(name))
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        assert opened(bytes(changed)) is None
    path.write_bytes(bytes(changed))
    assert folder.load(name) is None
    for other in (b"", data[:-1], data + b"x", data[:70]):
        assert opened(other) is None


def test_a_request_is_known_by_all_its_parameters():
    vectors = np.arange(6.0).reshape(2, 3)
    keys = [
        request_key(request)
        for request in (
            MomentsOfRows(),
            MomentsOfRows(diagonal=True),
            SumsOfCells(),
            MomentsAlong(vectors),
            MomentsAlong(vectors.reshape(3, 2)),
            MomentsAlong(vectors.astype(np.float32)),
            MomentsAlong(vectors + 1e-16 * (vectors == 0)),
        )
    ]
    assert len(set(keys)) == len(keys)
    assert request_key(MomentsAlong(vectors.copy())) == keys[3]
    with pytest.raises(DataError, match="canonical JSON"):
        request_key(MomentsAlong(print))


def test_a_source_without_a_lasting_identity_is_summed_and_not_kept(tmp_path):
    saved = SavedStatistics(InProcess(), tmp_path / "statistics")
    source = ArrayBlocks({"x": np.ones((5, 2))}, 2)
    assert saved.sum(source, MomentsOfRows()).count == 5
    assert saved.take_work()["blocks_read"] == 3 and saved.take_work()["blocks_read"] == 0
    assert not (tmp_path / "statistics").exists() and saved.take_names() == []


def tensor_of(store, cells):
    """Slabs of the store's codes as a tensor of 7 x 5 cells."""
    slabs = tuple(source_of(store, (i, i + 1), cells=cells) for i in range(3))
    return SlabCells(slabs, (7, 5))


def model_of(solver):
    model = solver.model()
    return {
        "mean": model.mean.tobytes(),
        "core": model.core.tobytes(),
        **{f"factor{i}": u.tobytes() for i, u in enumerate(model.factors)},
    }


def test_ranks_of_a_tensor_cost_no_pass(store, tmp_path):
    codes = np.arange(N) % 35
    grid = grid_cells(["a", "b"], {"a": codes // 5, "b": codes % 5})
    source = tensor_of(store, grid.cells)
    folder = tmp_path / "statistics"

    def fit(source, **keys):
        saved = SavedStatistics(InProcess(keep=False), folder)
        found = saved.run(HOSVDSolver(**keys), source)
        assert model_of(found) == model_of(run_passes(HOSVDSolver(**keys), source))
        work = saved.take_work()
        assert len(saved.take_names()) == 2
        return work["passes"], work["passes_saved"]

    assert fit(source) == (2, 0)
    assert fit(source) == (0, 2)
    assert fit(source, energy=0.5) == (1, 1)  # a smaller core is another one
    assert fit(source, standardise=True) == (2, 0)
    rewrite(store, 5, 1.0)
    assert fit(tensor_of(store, grid.cells)) == (2, 0)


def test_a_solver_whose_passes_depend_on_its_state_runs_as_it_is(store, tmp_path):
    class Once:
        done = False

        def request(self):
            return MomentsOfRows()

        def step(self, total):
            self.done, self.total = True, total
            return self

    saved = SavedStatistics(InProcess(), tmp_path / "statistics")
    assert saved.run(Once(), source_of(store)).total.count == N
    assert saved.take_work() == {
        "blocks_read": 0, "blocks_saved": 0, "passes": 1, "passes_saved": 0,
    }  # fmt: skip
    assert not (tmp_path / "statistics").exists()


def test_through_beam_to_the_same_bits(store, tmp_path):
    from transforms.beam.engine import BeamEngine

    source, request = cases(store)["cells"]
    saved = SavedStatistics(BeamEngine(), tmp_path / "beam")
    first = saved.sum(source, request)
    assert bits(first) == bits(InProcess().sum(source, request))
    rewrite(store, 33, 0.25)
    source, request = cases(store)["cells"]
    assert bits(saved.sum(source, request)) == bits(InProcess().sum(source, request))
    assert saved.blocks_read == 35 + 3
    slabs = tensor_of(store, np.arange(N) % 35)
    found = saved.run(HOSVDSolver(), slabs)
    assert model_of(found) == model_of(run_passes(HOSVDSolver(), slabs))
    assert model_of(saved.run(HOSVDSolver(), slabs)) == model_of(found)
    assert saved.passes == 2 and saved.passes_saved == 2


def test_bytes_that_are_no_statistic_are_refused():
    with pytest.raises(DataError, match="not a statistic"):
        statistic_of_bytes(b"nothing")
    wrong = statistic_bytes(Sums({"a": np.ones(2)})).replace(b"S\x00\x00\x00u", b"M\x00\x00\x00u")
    with pytest.raises(DataError):
        statistic_of_bytes(wrong)
