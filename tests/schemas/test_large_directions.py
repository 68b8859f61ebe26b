"""Directions above 1 MB: float32, one chunk a step, read where they are used."""

import copy
import os
import pickle
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import zarr
from digests import tree_files
from places import GOLDEN, ROOT

from schemas.directions.check import check_directions, drop_damaged
from schemas.directions.direction import Direction, apply, unit_direction
from schemas.directions.direction_set import DirectionSet
from schemas.directions.large import StoredVector
from schemas.errors import DataError, StoreError

FP = "ab" * 32
MAP, STEPPED = (33, 64, 64), (3, 11, 64, 64)


def vector_of(seed, shape=MAP):
    return np.random.default_rng(seed).normal(size=shape)


def made(name, space="h", shape=MAP, seed=0, **facts):
    facts = {"method": "imported", "sd": 2.0, **facts}
    return unit_direction(name, space, vector_of(seed, shape), **facts)


def small():
    return unit_direction("smile", "w_plus", np.arange(12.0).reshape(3, 4), method="svm", sd=1.0)


@pytest.fixture
def path(tmp_path):
    directions = [small(), made("a"), made("b", "h_t", STEPPED, 1, layers=[0, 2])]
    DirectionSet(FP, "w_plus", directions).save(tmp_path / "set")
    return tmp_path / "set"


def test_they_are_read_when_used_and_not_before(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(StoredVector, "read", lambda self: pytest.fail("read"))
        found = DirectionSet.load(path)
        assert found.names() == ["smile", "a", "b"]
        assert [d.shape for d in found] == [(3, 4), MAP, STEPPED]
        assert (found["b"].layers, found["b"].space, found["b"].sd) == ([0, 2], "h_t", 2.0)
        before = tree_files(path)
        found.save(path)
        assert tree_files(path) == before
    wanted = vector_of(0) / np.linalg.norm(vector_of(0))
    vector = copy.deepcopy(found["a"]).vector
    assert (
        len(pickle.dumps(found["a"])) < 2000
        and vector.dtype == np.float32
        and not vector.flags.writeable
    )
    np.testing.assert_array_equal(vector, wanted.astype("f4"))
    codes = np.random.default_rng(3).normal(size=(2, *MAP))
    np.testing.assert_allclose(apply(codes, found["a"], 1.5), codes + 3.0 * wanted, atol=1e-7)
    np.testing.assert_allclose(found["a"].project(codes), codes.reshape(2, -1) @ wanted.ravel())
    only = apply(np.zeros((1, *STEPPED)), found["b"], 1.0, layers=[2])[0]
    np.testing.assert_array_equal(only[2], 2.0 * found["b"].vector[2].astype("f8"))
    assert not only[:2].any()


def test_a_set_that_was_saved_is_the_one_that_is_read(path, tmp_path):
    made_now = DirectionSet(FP, "h", [made("a")])
    digest, vector = made_now["a"].vector_sha256, np.array(made_now["a"].vector)
    made_now.save(tmp_path / "again")
    assert isinstance(made_now["a"].held, StoredVector)
    for found in (made_now, DirectionSet.load(tmp_path / "again")):
        assert found["a"].vector_sha256 == digest
        np.testing.assert_array_equal(found["a"].vector, vector)


def test_one_chunk_a_step(path):
    group = zarr.open_group(path, mode="r")
    assert group["directions/b"].chunks == (1, *STEPPED[1:])
    assert group["directions/a"].chunks == MAP
    assert [group[f"directions/{n}"].dtype.name for n in ("smile", "a", "b")] == [
        "float64", "float32", "float32",
    ]  # fmt: skip
    assert group.attrs["layout_version"] == 2


def test_small_ones_are_written_as_before(tmp_path):
    found = DirectionSet.load(GOLDEN / "directions_v1")
    found.save(tmp_path / "again")
    there, here = tree_files(GOLDEN / "directions_v1"), tree_files(tmp_path / "again")
    mine = {name: data for name, data in there.items() if not name.startswith("models/")}
    assert mine.keys() <= here.keys() and "directions/smile/c/0/0" in mine
    assert {n for n in mine if n != "zarr.json" and here[n] != mine[n]} == set()
    assert zarr.open_group(tmp_path / "again").attrs["layout_version"] == 1


def test_one_that_was_stored_as_float64_is_read_and_kept_as_it_is(tmp_path):
    unit = vector_of(0) / np.linalg.norm(vector_of(0))
    old = Direction(name="a", space="h", vector=unit, layers=None, method="imported", sd=1.0)
    DirectionSet(FP, "h", [old]).save(tmp_path / "set")
    before = tree_files(tmp_path / "set")
    found = DirectionSet.load(tmp_path / "set")
    np.testing.assert_array_equal(found["a"].vector, unit)
    found.save(tmp_path / "set")
    assert tree_files(tmp_path / "set") == before
    assert not check_directions(tmp_path / "set").directions["a"]


@pytest.mark.parametrize("spoil", ["bytes", "values", "missing", "attributes"])
def test_what_is_damaged_is_told_and_taken_out(path, spoil):
    chunk = path / "directions/b/c/1/0/0/0"
    if spoil == "bytes":
        chunk.write_bytes(chunk.read_bytes()[:-9] + bytes(9))
    elif spoil == "missing":
        chunk.unlink()
    elif spoil == "values":
        shutil.copy(path / "directions/b/c/0/0/0/0", chunk)
    else:
        array = zarr.open_group(path, mode="r+")["directions/b"]
        array.attrs.put({**dict(array.attrs), "sd": 3.0})
    if spoil == "attributes":
        with pytest.raises(StoreError, match="direction 'b'.*verify RUN --repair"):
            DirectionSet.load(path)
    else:
        with pytest.raises(StoreError, match="direction 'b'.*verify RUN --repair"):
            _ = DirectionSet.load(path)["b"].vector
    found = check_directions(path)
    assert found.directions["b"] and not found.directions["a"] and not found.directions["smile"]
    drop_damaged(path, found)
    left = DirectionSet.load(path)
    assert left.names() == ["smile", "a"] and left["a"].vector.shape == MAP


def test_a_vector_that_is_not_unit_to_float32_is_refused():
    unit = (vector_of(0) / np.linalg.norm(vector_of(0))).astype("f4")
    facts = {"name": "a", "space": "h", "layers": None, "method": "m", "sd": 1.0}
    assert Direction(vector=unit, **facts).single
    with pytest.raises(DataError, match="has norm"):
        Direction(vector=unit * np.float32(1.0001), **facts)


KILLED = """
import os, signal, sys
from schemas.directions import direction_set as module
from schemas.directions.direction import unit_direction
import numpy as np
path = sys.argv[1]
found = module.DirectionSet.load(path)
vector = np.random.default_rng(9).normal(size=(3, 11, 64, 64))
found.add(unit_direction("c", "h_t", vector, method="imported", sd=1.0))
write = module.Layout.create
def killed(self, *args, **more):
    array = write(self, *args, **more)
    array[0] = 1.0
    os.kill(os.getpid(), signal.SIGKILL)
module.Layout.create = killed
found.save(path)
"""


def test_a_kill_while_one_is_written_costs_no_other(path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(StoreError, match="half-written"):
        DirectionSet.load(path)
    whole = DirectionSet.foreign_in(path)
    assert sorted(d.name for d in whole) == ["a", "b"]
    again = DirectionSet(FP, "w_plus", [small(), *whole])
    again.save(path)
    np.testing.assert_array_equal(DirectionSet.load(path)["a"].vector, made("a").vector)
