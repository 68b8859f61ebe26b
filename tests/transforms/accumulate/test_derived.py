"""Codes of another space than the stored one, made where they are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from in_process import InProcess
from stores import create, flags, fp_of

from pipelines.engine.saved_sums import SavedStatistics
from schemas.store import ArraySpec, LatentStore
from transforms.accumulate.derived import DerivedBlocks, LayersOf, with_scratch
from transforms.accumulate.requests import MomentsOfRows
from transforms.accumulate.sources import SelectBlocks, StoreBlocks
from transforms.pca.fit import solve_pca
from transforms.pca.gram import GramSolver, RowSlabs

Z, W_PLUS = "latents/z", "latents/w_plus"
N = 21


@dataclass(frozen=True)
class Spread:
    """A row of w_plus from one of z, by sums in a fixed order."""

    log: str
    gain: float = 2.0

    @property
    def key(self) -> str:
        return repr(self.gain)

    def __call__(self, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        with Path(self.log).open("a") as file:
            file.write(f"{len(codes)}\n")
        layers = [np.tanh(codes) * self.gain, codes**2, codes[:, ::-1] - rows[:, None]]
        return np.stack(layers, axis=1).astype("f4")


@pytest.fixture
def change(tmp_path):
    return Spread(str(tmp_path / "made.txt"))


def made(change: Spread) -> int:
    return len(Path(change.log).read_text().splitlines()) if Path(change.log).exists() else 0


def store_of(path: Path, change: Spread, block_rows: int = 8) -> LatentStore:
    """Both spaces, of the same rows."""
    arrays = [ArraySpec("latents", "z", (4,)), ArraySpec("latents", "w_plus", (3, 4))]
    store = create(path, N, block_rows, arrays=arrays)
    codes = np.random.default_rng(3).normal(size=(N, 4)).astype("f4")
    for block in range(store.n_blocks):
        z = codes[store.block_slice(block)]
        status, reason = flags(len(z), quarantined=[0])
        rows = np.arange(N)[store.block_slice(block)]
        both = {Z: z, W_PLUS: change(z, rows)}
        store.write_block("invert", block, both, status, reason, fp_of(store, block))
    Path(change.log).unlink()
    return store


def stored(store: LatentStore, layers: tuple[int, int] | None = None) -> SelectBlocks:
    return SelectBlocks(StoreBlocks(store.path, (W_PLUS,), ("invert",), layers), {"x": W_PLUS})


def derived(
    store: LatentStore, change: Spread, layers: tuple[int, int] | None = None
) -> SelectBlocks:
    source = DerivedBlocks(StoreBlocks(store.path, (Z,), ("invert",)), Z, W_PLUS, change)
    return SelectBlocks(LayersOf(source, (W_PLUS,), layers) if layers else source, {"x": W_PLUS})


def slabs(make, *args) -> RowSlabs:
    return RowSlabs(tuple(make(*args, (i, i + 1)) for i in range(3)), (0, 4, 8, 12))


def same(a, b) -> None:
    for name, value in a.to_arrays().items():
        np.testing.assert_array_equal(value, b.to_arrays()[name])


@pytest.mark.parametrize("block_rows", [2, 8, 32])
@pytest.mark.parametrize("layers", [None, (1, 3)])
def test_rows_and_codes_are_those_of_the_stored_array(tmp_path, change, block_rows, layers):
    store = store_of(tmp_path / "s", change, block_rows)
    a, b = derived(store, change, layers), stored(store, layers)
    for block in range(b.n_blocks):
        (rows, found), (expected_rows, expected) = a.read(block), b.read(block)
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_array_equal(found["x"], expected["x"])


def test_analyses_have_the_bits_of_those_of_the_stored_array(tmp_path, change):
    store, engine = store_of(tmp_path / "s", change), InProcess()
    found = engine.sum(derived(store, change), MomentsOfRows())
    same(solve_pca(found, 3), solve_pca(engine.sum(stored(store), MomentsOfRows()), 3))
    expected = engine.run(GramSolver(3), slabs(stored, store)).result()
    same(engine.run(GramSolver(3), slabs(derived, store, change)).result(), expected)
    kept = with_scratch(slabs(derived, store, change), tmp_path / "scratch")
    assert kept.key == slabs(derived, store, change).key
    same(engine.run(GramSolver(3), kept).result(), expected)


def test_a_block_is_made_once_for_all_passes_and_layers(tmp_path, change):
    store, engine = store_of(tmp_path / "s", change), InProcess(keep=False)
    source = slabs(derived, store, change)
    assert made(change) == 0
    engine.run(GramSolver(3), source)
    assert made(change) > 3 * store.n_blocks
    Path(change.log).unlink()
    engine.run(GramSolver(3), with_scratch(source, tmp_path / "scratch"))
    assert made(change) == store.n_blocks
    files = sorted((tmp_path / "scratch").rglob("*.npy"))
    assert len(files) == store.n_blocks
    # another process finds them; other codes or another change do not
    engine.run(GramSolver(3), with_scratch(source, tmp_path / "scratch"))
    assert made(change) == store.n_blocks
    codes = {Z: np.ones((8, 4), "f4"), W_PLUS: np.ones((8, 3, 4), "f4")}
    store.write_block("invert", 1, codes, *flags(8), fp_of(store, 1, version=2))
    other = Spread(change.log, gain=3.0)
    engine.run(GramSolver(3), with_scratch(slabs(derived, store, change), tmp_path / "scratch"))
    assert made(change) == store.n_blocks + 1
    engine.run(GramSolver(3), with_scratch(slabs(derived, store, other), tmp_path / "scratch"))
    assert made(change) == 2 * store.n_blocks + 1


class Died(BaseException):
    pass


def test_killed_while_a_block_is_kept_the_next_run_goes_on(tmp_path, change, monkeypatch):
    store, engine = store_of(tmp_path / "s", change), InProcess(keep=False)
    expected = engine.run(GramSolver(3), slabs(stored, store)).result()
    source = with_scratch(slabs(derived, store, change), tmp_path / "scratch")
    left = [2]

    def dying(file, array, allow_pickle, save=np.save):
        left[0] -= 1
        save(file, array[left[0] == 0 :], allow_pickle=allow_pickle)
        if not left[0]:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr("transforms.accumulate.derived.np.save", dying)
        with pytest.raises(Died):
            engine.run(GramSolver(3), source)
    assert made(change) == 2 and len(list((tmp_path / "scratch").rglob("*.npy"))) == 1
    same(engine.run(GramSolver(3), source).result(), expected)
    assert made(change) == store.n_blocks + 1


def test_saved_sums_know_what_they_are_of(tmp_path, change):
    store, engine = store_of(tmp_path / "s", change), InProcess()
    kept = SavedStatistics(engine, tmp_path / "statistics")
    first = kept.sum(derived(store, change), MomentsOfRows())
    source = with_scratch(derived(store, change), tmp_path / "scratch")
    blocks = engine.blocks
    same(kept.sum(source, MomentsOfRows()), first)
    assert engine.blocks == blocks  # kept or not, it is the same sum
    kept.sum(derived(store, Spread(change.log, gain=3.0)), MomentsOfRows())
    assert engine.blocks == 2 * blocks


def test_what_is_kept_is_read_without_the_array_that_it_was_made_of(tmp_path, change, monkeypatch):
    store, read = store_of(tmp_path / "s", change), []
    blocks = StoreBlocks(store.path, (Z,), ("invert",))
    named = DerivedBlocks(replace(blocks, unread=(Z,)), Z, W_PLUS, change, blocks)
    expected = DerivedBlocks(blocks, Z, W_PLUS, change, blocks)
    assert named.part_key(range(2)) == expected.part_key(range(2))

    def reading(self, arrays, *args, of=LatentStore.ok_rows, **keywords):
        read.extend(arrays)
        return of(self, arrays, *args, **keywords)

    monkeypatch.setattr(LatentStore, "ok_rows", reading)
    source = with_scratch(named, tmp_path / "scratch")
    for times in (1, 1, 1):
        found = [source.read(block) for block in range(source.n_blocks)]
        assert read == [Z] * times * source.n_blocks
    for block, (rows, arrays) in enumerate(found):
        own_rows, own = expected.read(block)
        np.testing.assert_array_equal(rows, own_rows)
        np.testing.assert_array_equal(arrays[W_PLUS], own[W_PLUS])
        assert Z not in arrays
