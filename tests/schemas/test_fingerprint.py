"""Canonical JSON, fingerprints of tensors and files, the hash cache, and atomic small files."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import atomic, fingerprint
from schemas.errors import DataError
from schemas.fingerprint import (
    ContentHashCache,
    canonical_json,
    digest,
    file_sha256,
    tensors_fingerprint,
)

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40)
@given(values)
def test_canonical_json_reads_back_and_ignores_key_order(value):
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == data


def test_canonical_json_is_fixed_for_ever():
    value = {"b": [1, 1.0, True, None, "é"], "a": {"y": (0.1, 1e-300), "x": b"\x00\xff"}}
    expected = '{"a":{"x":"00ff","y":[0.1,1e-300]},"b":[1,1.0,true,null,"é"]}'
    assert canonical_json(value) == expected.encode()
    assert digest(value) == hashlib.sha256(expected.encode()).hexdigest()


def test_numpy_values_count_as_their_plain_ones():
    value = {"i": np.int16(3), "f": np.float64(0.5), "a": np.arange(3), "b": np.bool_(True)}
    assert canonical_json(value) == canonical_json({"i": 3, "f": 0.5, "a": [0, 1, 2], "b": True})


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, float("nan")]}, "$.a[1]"),
        ({"a": float("inf")}, "$.a"),
        ({1: 2}, "$"),
        ({"a": {1, 2}}, "$.a"),
        ([object()], "$[0]"),
        ({"p": Path("x")}, "$.p"),
    ],
)
def test_ambiguous_values_are_refused_with_their_place(value, place):
    with pytest.raises(
        DataError, match="at " + repr(place).replace("$", r"\$").replace("[", r"\[")
    ):
        canonical_json(value)


def test_tensors_fingerprint_matches_an_independent_computation():
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    head = b'["w",[2,3]]'
    arch = b'{"z_dim":4}'
    hasher = hashlib.sha256()
    for part in (arch, head):
        hasher.update(len(part).to_bytes(8, "little") + part)
    hasher.update(b"".join(np.float32(v).tobytes() for v in range(6)))
    assert tensors_fingerprint({"z_dim": 4}, {"w": weight}) == hasher.hexdigest()


def test_tensors_fingerprint_depends_on_content_only():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 4)).astype("f4"), rng.normal(size=5).astype("f4")
    base = tensors_fingerprint({"n": 1}, {"a": a, "b": b})
    assert tensors_fingerprint({"n": 1}, {"b": b, "a": a}) == base
    assert tensors_fingerprint({"n": 1}, {"a": np.asfortranarray(a), "b": b}) == base
    assert tensors_fingerprint({"n": 1}, {"a": a.astype(">f4"), "b": b.astype("f8")}) == base
    others = [
        ({"n": 2}, {"a": a, "b": b}),
        ({"n": 1}, {"a": a.reshape(4, 3), "b": b}),
        ({"n": 1}, {"a": a, "c": b}),
        ({"n": 1}, {"a": a}),
        ({"n": 1}, {"a": np.nextafter(a, 9, dtype="f4"), "b": b}),
        ({"n": 1}, {"a": a.astype("f2"), "b": b}),
    ]
    assert base not in {tensors_fingerprint(*other) for other in others}


def test_tensors_fingerprint_refuses_complex():
    with pytest.raises(DataError, match="'w'.*complex64"):
        tensors_fingerprint({}, {"w": np.zeros(2, np.complex64)})


def old_file(path: Path, data: bytes) -> Path:
    """A file that was last changed long ago, as far as mtime goes."""
    path.write_bytes(data)
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.fixture
def settled(monkeypatch):
    """Let files count as settled at once: ctime cannot be set back by a test."""
    monkeypatch.setattr(fingerprint, "RACY_NS", -(10**18))


def test_cache_knows_what_it_need_not_read(tmp_path, settled):
    files = [tmp_path / name for name in "abc"]
    for file in files[:2]:
        file.write_bytes(file.name.encode())
    with ContentHashCache(tmp_path / "c.sqlite") as cache:
        assert cache.known(files) == [None, None, None]
        wanted = cache.sha256(files[0])
        assert cache.known(files) == [wanted, None, None]
        files[0].write_bytes(b"other")
        assert cache.known(files) == [None, None, None]


def test_cache_hits_after_reopening(tmp_path, settled):
    file = old_file(tmp_path / "a.bin", b"abc")
    with ContentHashCache(tmp_path / "cache.sqlite") as cache:
        assert cache.sha256(file) == hashlib.sha256(b"abc").hexdigest() == file_sha256(file)
        assert (cache.hits, cache.misses) == (0, 1)
    with ContentHashCache(tmp_path / "cache.sqlite") as cache:
        assert cache.sha256(str(file)) == file_sha256(file)
        assert (cache.hits, cache.misses) == (1, 0)


def test_cache_never_answers_for_other_bytes(tmp_path, settled):
    file = old_file(tmp_path / "a.bin", b"abc")
    with ContentHashCache(tmp_path / "cache.sqlite") as cache:
        cache.sha256(file)
        time.sleep(0.02)  # one tick of the file system's clock
        old_file(file, b"xyz")  # same size, same inode, mtime set back
        assert cache.sha256(file) == hashlib.sha256(b"xyz").hexdigest()
        replacement = old_file(tmp_path / "b.bin", b"123")
        replacement.replace(file)
        assert cache.sha256(file) == hashlib.sha256(b"123").hexdigest()


def test_cache_does_not_trust_a_file_that_just_changed(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"abc")
    with ContentHashCache(tmp_path / "cache.sqlite") as cache:
        cache.sha256(file)
        cache.sha256(file)
        assert (cache.hits, cache.misses) == (0, 2)


def test_cache_starts_anew_when_damaged(tmp_path, settled):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"not a database, " * 100)
    file = old_file(tmp_path / "a.bin", b"abc")
    with ContentHashCache(path) as cache:
        assert cache.sha256(file) == file_sha256(file)
    database = sqlite3.connect(path)
    assert database.execute("SELECT count(*) FROM checked_content").fetchone() == (1,)
    database.close()


def test_cache_works_from_threads(tmp_path, settled):
    files = [old_file(tmp_path / f"{i}.bin", bytes([i]) * 1000) for i in range(40)]
    results: dict[int, str] = {}
    with ContentHashCache(tmp_path / "cache.sqlite") as cache:

        def hash_some(start: int) -> None:
            for i in range(start, 40, 4):
                results[i] = cache.sha256(files[i])

        threads = [threading.Thread(target=hash_some, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.misses == 40
    assert results == {i: file_sha256(file) for i, file in enumerate(files)}


def test_a_cache_to_be_read_answers_every_thread_and_writes_nothing(tmp_path, settled):
    path, file = tmp_path / "cache.sqlite", old_file(tmp_path / "a.bin", b"abc")
    other = old_file(tmp_path / "b.bin", b"abcd")
    with ContentHashCache(path) as cache:
        cache.sha256(file)
    before = path.read_bytes()
    with ContentHashCache(path, read_only=True) as cache, ThreadPoolExecutor(1) as pool:
        assert pool.submit(cache.sha256, file).result() == file_sha256(file)
        assert (cache.hits, cache.misses) == (1, 0)
        assert cache.sha256(other) == file_sha256(other)
        assert (cache.hits, cache.misses) == (1, 1)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"not a database, " * 100])
def test_a_cache_to_be_read_that_is_none_remembers_nothing(tmp_path, settled, content):
    path, file = tmp_path / "cache.sqlite", old_file(tmp_path / "a.bin", b"abc")
    if content is not None:
        path.write_bytes(content)
    with ContentHashCache(path, read_only=True) as cache:
        assert cache.sha256(file) == file_sha256(file)
        assert (cache.hits, cache.misses) == (0, 1)
    assert path.exists() is (content is not None)
    assert content is None or path.read_bytes() == content


def test_cache_passes_on_missing_files(tmp_path):
    with ContentHashCache(tmp_path / "cache.sqlite") as cache, pytest.raises(FileNotFoundError):
        cache.sha256(tmp_path / "gone")


def test_atomic_write_replaces_or_leaves_alone(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "run.json"
    atomic.write_json(path, {"b": 1, "a": np.float32(0.5)})
    assert path.read_text() == '{\n  "a": 0.5,\n  "b": 1\n}\n'
    atomic.write_bytes(path, b"second")
    assert path.read_bytes() == b"second"

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        atomic.write_bytes(path, b"third")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]


def test_half_a_character_has_no_canonical_json():
    with pytest.raises(DataError, match="half a character"):
        canonical_json({"name": ["a\ud800"]})
