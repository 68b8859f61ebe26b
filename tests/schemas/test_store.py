"""The latent store: layout, blocks, commits, crashes, growth, and what readers may see."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from digests import tree_digest, tree_files
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN, ROOT
from stores import (
    ARRAYS,
    COUNT,
    IDENTITY,
    PSNR,
    W_PLUS,
    create,
    flags,
    fp_of,
    n_of,
    values,
    write,
    write_all,
)

from schemas.errors import NewerLayoutError, StoreError, UnalignedWriteError
from schemas.fingerprint import canonical_json
from schemas.store.check import strangers
from schemas.store.latent_store import LAYOUT_VERSION, ArraySpec, LatentStore, block_rows_for
from schemas.store.layout import read_small

pytestmark = pytest.mark.zarr_loop

# ---- block arithmetic ---------------------------------------------------------------------------


@given(st.integers(1, 2**22))
def test_block_rows_is_the_nearest_power_of_two(row_bytes):
    rows = block_rows_for(row_bytes)
    least = 64 if row_bytes <= 2**18 else 1
    assert least <= rows <= 8192
    assert rows & (rows - 1) == 0
    distance = abs(rows * row_bytes - 32 * 2**20)
    for other in (rows // 2, rows * 2):
        if least <= other <= 8192:
            assert distance <= abs(other * row_bytes - 32 * 2**20)


def test_block_rows_of_known_spaces():
    assert block_rows_for(18 * 512 * 4) == 1024  # w_plus at 1024 pixels
    assert block_rows_for(512 * 4) == 8192  # z and w
    assert block_rows_for(2**18) == 128
    assert block_rows_for(2**20) == 32 and block_rows_for(3 * 2**22) == 2  # pictures as codes
    with pytest.raises(StoreError, match="row_bytes is 0"):
        block_rows_for(0)


@settings(deadline=None, max_examples=20)
@given(n_rows=st.integers(1, 40), log_rows=st.integers(0, 4))
def test_blocks_partition_the_rows(tmp_path_factory, n_rows, log_rows):
    store = create(tmp_path_factory.mktemp("s") / "s", n_rows, 2**log_rows)
    rows = [row for b in range(store.n_blocks) for row in range(n_rows)[store.block_slice(b)]]
    assert rows == list(range(n_rows))
    assert all(n_of(store, b) == store.block_rows for b in range(store.n_blocks - 1))
    for block in (-1, store.n_blocks):
        with pytest.raises(StoreError, match=f"block {block} does not exist"):
            store.block_slice(block)


@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_what_is_written_is_read_in_any_block_order(tmp_path_factory, data):
    store = create(tmp_path_factory.mktemp("s") / "s", data.draw(st.integers(1, 20)), 4)
    order = data.draw(st.permutations(range(store.n_blocks)))
    left = {b: data.draw(st.lists(st.integers(0, n_of(store, b) - 1), unique=True)) for b in order}
    for block in order:
        write(store, block, quarantined=left[block])
    assert store.n_blocks >= 1
    seen = 0
    for block in range(store.n_blocks):
        rows, arrays, left_out = store.ok_rows([W_PLUS, COUNT], block, ["invert"])
        keep = [i for i in range(n_of(store, block)) if i not in left[block]]
        np.testing.assert_array_equal(rows, np.array(keep, "i8") + block * 4)
        np.testing.assert_array_equal(arrays[W_PLUS], values(store, block)[W_PLUS][keep])
        np.testing.assert_array_equal(arrays[COUNT], rows)
        assert left_out == {"pending": 0, "quarantined": len(left[block]), "removed": 0}
        seen += len(rows) + sum(left_out.values())
    assert seen == store.n_rows


# ---- layout -------------------------------------------------------------------------------------


def test_layout_is_the_documented_one(tmp_path):
    spec = [ArraySpec("latents", "w_plus", (18, 512)), ArraySpec("quality", "psnr")]
    store = create(tmp_path / "s", 3000, None, arrays=spec)
    store.add_arrays("lm", [ArraySpec("landmarks", "lm@render", (68, 2))])
    assert (store.block_rows, store.n_blocks) == (1024, 3)
    meta = json.loads((tmp_path / "s/latents/w_plus/zarr.json").read_text())
    assert meta["zarr_format"] == 3
    assert meta["dimension_names"] == ["row", "w_plus_layer", "w_plus_channel"]
    assert meta["fill_value"] == "NaN"
    assert meta["chunk_grid"]["configuration"]["chunk_shape"] == [1024, 18, 512]
    (sharding,) = meta["codecs"]
    assert sharding["name"] == "sharding_indexed"
    inner = sharding["configuration"]
    assert inner["chunk_shape"] == [256, 1, 512]
    assert [codec["name"] for codec in inner["codecs"]] == ["bytes", "zstd", "crc32c"]
    assert [codec["name"] for codec in inner["index_codecs"]] == ["bytes", "crc32c"]
    landmarks = store.array("landmarks/lm@render")
    assert landmarks.metadata.dimension_names == ("row", "lm_point", "xy")
    assert (landmarks.shards, landmarks.chunks) == ((1024, 68, 2), (256, 68, 2))
    commit = store.array("commit/invert")
    assert (commit.shape, commit.chunks) == ((3, 32), (1, 32))
    assert store.array("reason/invert").attrs["values"]["corrupt"] == 1
    assert store.stages() == ["invert", "lm"]
    assert store.arrays("invert") == [W_PLUS, PSNR]
    for file in (tmp_path / "s").rglob("zarr.json"):
        node = json.loads(file.read_text())
        if node["node_type"] == "group":
            assert node["attributes"]["layout_version"] == LAYOUT_VERSION


def test_path_and_identity(tmp_path):
    store = create(tmp_path / "s")
    expected = LatentStore.store_fp_of(**IDENTITY, block_rows=8)
    assert store.store_fp == expected
    assert LatentStore.path_for("stores", "faces", expected) == f"stores/faces-{expected[:12]}"
    changes = [
        {"name": "cars"},
        {"generator_fp": "cd"},
        {"method": {"method": "encoder"}},
        {"seed": 4},
        {"block_rows": 16},
        {"dtype": "float64"},
        {"preprocess_version": 2},
    ]
    others = {LatentStore.store_fp_of(**{**IDENTITY, "block_rows": 8, **c}) for c in changes}
    assert len(others | {expected}) == len(changes) + 1


def test_flags_are_remembered_until_the_handle_writes_or_is_refreshed(tmp_path):
    store, other = create(tmp_path / "s"), LatentStore.open(tmp_path / "s")
    assert not other.committed("invert").any() and not other.status("invert").any()
    write(store, 0)
    assert store.committed("invert")[0].any() and store.status("invert")[:4].all()
    assert not other.committed("invert").any() and other.is_committed("invert", 0, fp_of(store, 0))
    with pytest.raises(ValueError, match="read-only"):
        store.committed("invert")[0] = 0
    other.refresh()
    for name in ("commit/invert", "status/invert", "reason/invert"):  # as Zarr itself reads them
        assert np.array_equal(read_small(tmp_path / "s" / name, other.array(name)),
                              other.array(name)[:])  # fmt: skip
    for read in (LatentStore.committed, LatentStore.status, LatentStore.reason):
        assert np.array_equal(read(other, "invert"), read(store, "invert"))
    assert other.contents("invert") == store.contents("invert")


def test_create_again_opens_and_keeps(tmp_path):
    store = create(tmp_path / "s")
    write(store, 0)
    before = tree_files(tmp_path / "s")
    assert create(tmp_path / "s").is_committed("invert", 0, fp_of(store, 0))
    assert tree_files(tmp_path / "s") == before
    with pytest.raises(StoreError, match=r"made with {'seed': 3.*not with {'seed': 4"):
        create(tmp_path / "s", seed=4)
    with pytest.raises(StoreError, match="cannot shrink"):
        create(tmp_path / "s", n_rows=19)


def test_create_finishes_what_a_crash_left(tmp_path):
    create(tmp_path / "whole")
    complete = tree_files(tmp_path / "whole")
    in_order = sorted(complete, key=lambda name: (tmp_path / "whole" / name).stat().st_mtime_ns)
    assert in_order[0] == "zarr.json"
    for kept in range(1, len(in_order)):
        path = tmp_path / f"crash-{kept}"
        for name in in_order[:kept]:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(complete[name])
        create(path)
        assert tree_files(path) == complete


def test_bad_layouts_are_refused(tmp_path):
    small = ArraySpec("latents", "w", (4,))
    for bad, message in [
        (
            {"arrays": [small, ArraySpec("latents", "z", (4,), "f8")]},
            "one",
        ),
        (
            {"arrays": [small, ArraySpec("latents", "h", (2**17,))]},
            "sibl",
        ),
        ({"block_rows": 48}, "power of two"),
        ({"block_rows": 16384}, "power of two"),
        ({"n_rows": 0}, "at least one"),
        ({"stages": []}, "no stages"),
        ({"name": "../faces"}, "not allowed"),
    ]:
        with pytest.raises(StoreError, match=message):
            create(tmp_path / "s", **{"n_rows": 5, **bad})
    assert not (tmp_path / "s").exists()
    for bad_spec, message in [
        ({"group": "status", "name": "x"}, "group 'status'"),
        ({"group": "latents", "name": "a/b"}, "not allowed"),
        ({"group": "latents", "name": "w", "dtype": "uint8"}, "no fill value"),
        ({"group": "latents", "name": "w", "row_shape": (0,)}, "positive"),
        ({"group": "latents", "name": "w", "row_shape": (4,), "dims": ("row",)}, "dimensions"),
        (
            {"group": "annotations", "name": "m", "row_shape": (2,), "attrs": {"names": ["a"]}},
            "1 na",
        ),
    ]:
        with pytest.raises(StoreError, match=message):
            ArraySpec(**bad_spec)


def test_annotations_come_later_and_invalidate_only_their_stage(tmp_path):
    store = create(tmp_path / "s")
    write_all(store)
    scores = ArraySpec("annotations", "attr@render", (2,), attrs={"names": ["smile", "age"]})
    for _ in range(2):
        store.add_arrays("attr@render", [scores])
    fp = fp_of(store, 0, "attr@render")
    store.write_block("attr@render", 0, {scores.path: np.ones((8, 2), "f4")}, *flags(8), fp)
    assert store.array(scores.path).attrs["names"] == ["smile", "age"]

    renamed = ArraySpec("annotations", "attr@render", (2,), attrs={"names": ["smile", "yaw"]})
    store.add_arrays("attr@render", [renamed])
    assert not store.committed("attr@render").any()
    assert store.committed("invert").any(axis=1).all()
    assert store.array(scores.path).attrs["names"] == ["smile", "yaw"]

    with pytest.raises(StoreError, match="exists with row shape"):
        store.add_arrays("attr@render", [ArraySpec("annotations", "attr@render", (3,))])
    with pytest.raises(StoreError, match="belongs to stage 'invert'"):
        store.add_arrays("other", [ARRAYS[0]])
    with pytest.raises(StoreError, match="dimension 'attr_score' has size 5"):
        store.add_arrays("attr", [ArraySpec("annotations", "attr", (5,))])


def test_opening_what_is_not_a_store(tmp_path):
    with pytest.raises(StoreError, match="no store at"):
        LatentStore.open(tmp_path / "none")
    zarr.create_group(tmp_path / "foreign", zarr_format=3)
    with pytest.raises(StoreError, match="not a latent store"):
        LatentStore.open(tmp_path / "foreign")
    (tmp_path / "foreign/zarr.json").write_text("{")
    with pytest.raises(StoreError, match="not a readable"):
        LatentStore.open(tmp_path / "foreign")
    with pytest.raises(StoreError, match="mode 'w'"):
        LatentStore.open(tmp_path, "w")


@pytest.mark.parametrize("number", ["many", 2.5, -1, None, float("nan")])
def test_a_number_of_rows_that_is_none_is_refused(tmp_path, number):
    file = Path(create(tmp_path / "s").path, "zarr.json")
    node = json.loads(file.read_text())
    node["attributes"]["n_rows"] = number
    file.write_text(json.dumps(node))
    with pytest.raises(StoreError, match="'n_rows'.*no number of rows"):
        LatentStore.open(tmp_path / "s")
    node["attributes"]["m_rows"] = node["attributes"].pop("n_rows")  # one changed byte
    file.write_text(json.dumps(node))
    with pytest.raises(StoreError, match="'n_rows' None.*no number of rows"):
        LatentStore.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n_rows", 1 << 53, "has shape .* its store 9007199254740992 rows"),
        ("n_rows", 21, "has shape .* its store 21 rows"),
        ("block_rows", 1 << 40, "'block_rows'.*no number of rows"),
        ("block_rows", 12, "'block_rows'.*no number of rows"),
        ("block_rows", 4, "has shape .* in blocks of 4"),
    ],
)
def test_arrays_shorter_than_their_store_are_told(tmp_path, key, value, message):
    store = create(tmp_path / "s")
    write_all(store)
    file = Path(store.path, "zarr.json")
    node = json.loads(file.read_text())
    node["attributes"][key] = value
    file.write_text(json.dumps(node))
    with pytest.raises(StoreError, match=message):
        LatentStore.open(store.path).status("invert")


def test_an_array_with_damaged_metadata_is_told(tmp_path):
    store = create(tmp_path / "s")
    write_all(store)
    file = Path(store.path, W_PLUS, "zarr.json")
    file.write_text(file.read_text().replace('"zstd"', '"unknown"'))
    with pytest.raises(StoreError, match="'latents/w_plus'.*damaged.*--repair"):
        LatentStore.open(store.path).ok_rows([W_PLUS], 0, ["invert"])


def test_newer_layout_is_refused(tmp_path):
    store = create(tmp_path / "s")
    file = Path(store.path, "zarr.json")
    node = json.loads(file.read_text())
    node["attributes"]["layout_version"] = LAYOUT_VERSION + 1
    file.write_text(json.dumps(node))
    with pytest.raises(NewerLayoutError, match="install a newer"):
        LatentStore.open(tmp_path / "s")


# ---- writing and reading ------------------------------------------------------------------------


def test_rows_that_are_not_ok_hold_fill_values(tmp_path):
    store = create(tmp_path / "s")
    assert np.isnan(store.array(W_PLUS)[...]).all()
    assert (store.array(COUNT)[...] == -1).all()
    write(store, 0, quarantined=[1], removed=[2], pending=[3])
    raw = store.read_block([W_PLUS, PSNR, COUNT], 0, "invert", fp_of(store, 0))
    for row in (1, 2, 3):
        assert np.isnan(raw[W_PLUS][row]).all()
        assert np.isnan(raw[PSNR][row])
        assert raw[COUNT][row] == -1
    assert raw["status/invert"].tolist() == [1, 2, 3, 0, 1, 1, 1, 1]
    assert raw["reason/invert"].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    rows, arrays, left_out = store.ok_rows([COUNT], 0, ["invert"])
    assert rows.tolist() == arrays[COUNT].tolist() == [0, 4, 5, 6, 7]
    assert left_out == {"pending": 1, "quarantined": 1, "removed": 1}
    assert store.status("invert").tolist() == [1, 2, 3, 0, 1, 1, 1, 1] + [0] * 12
    assert store.reason("invert").tolist() == [0, 1] + [0] * 18


def test_rows_must_be_ok_in_every_stage(tmp_path):
    store = create(tmp_path / "s")
    store.add_arrays("attr", [ArraySpec("annotations", "attr", (2,))])
    write(store, 0, quarantined=[0], removed=[1, 2])
    both = ([W_PLUS, "annotations/attr"], 0, ["invert", "attr"])
    assert store.ok_rows(*both).left_out == {"pending": 6 - 1, "quarantined": 1, "removed": 2}
    fp = fp_of(store, 0, "attr")
    scores = {"annotations/attr": np.ones((8, 2), "f4")}
    store.write_block("attr", 0, scores, *flags(8, quarantined=[2, 3]), fp)
    rows, arrays, left_out = store.ok_rows(*both)
    assert rows.tolist() == [4, 5, 6, 7]
    assert {name: len(array) for name, array in arrays.items()} == {
        W_PLUS: 4,
        "annotations/attr": 4,
    }
    assert left_out == {"pending": 0, "quarantined": 2, "removed": 2}


def test_nothing_is_read_from_an_uncommitted_block(tmp_path):
    store = create(tmp_path / "s")
    write(store, 0)
    store._write_commit("invert", 0, bytes(32))
    rows, arrays, left_out = store.ok_rows([W_PLUS], 0, ["invert"])
    assert (len(rows), arrays[W_PLUS].shape) == (0, (0, 3, 4))
    assert left_out == {"pending": 8, "quarantined": 0, "removed": 0}
    assert store.status("invert").sum() == 0
    with pytest.raises(StoreError, match="not committed"):
        store.read_block([W_PLUS], 0, "invert", fp_of(store, 0))


def test_expected_fingerprints_are_honoured(tmp_path):
    store = create(tmp_path / "s")
    write(store, 0)
    right, other = fp_of(store, 0), fp_of(store, 0, version=2)
    assert store.is_committed("invert", 0, right)
    assert not store.is_committed("invert", 0, other)
    assert not store.is_committed("invert", 1, bytes(32))
    assert len(store.ok_rows([], 0, ["invert"], fps={"invert": right}).rows) == 8
    assert store.ok_rows([], 0, ["invert"], fps={"invert": other}).left_out["pending"] == 8
    assert store.committed("invert")[0].tobytes() == right
    with pytest.raises(StoreError, match="8 rows, but 1 identities"):
        store.block_fp("invert", 0, [("a", "active")], 1)
    names = [(f"image-{i}", "active") for i in range(8)]
    fps = {
        right,
        other,
        fp_of(store, 0, "attr"),
        store.block_fp("invert", 0, [*names[:-1], ("image-7", "removed")], 1),
        store.block_fp("invert", 0, names, 1, extra={"annotator": "x"}),
        store.block_fp("invert", 0, names, 1, extra=right),
    }
    assert len(fps) == 6
    assert store.block_fp("invert", 0, names, 1) == right


def test_the_rows_of_a_block_are_encoded_once_for_all_its_stages(tmp_path, monkeypatch):
    store = create(tmp_path)
    rows = tuple((f"image-{i}", "active") for i in range(8))
    encoded = []

    def counted(value):
        encoded.append(value)
        return canonical_json(value)

    monkeypatch.setattr("schemas.store.latent_store.canonical_json", counted)
    for stage, extra in (("invert", None), ("pose", {"b": 1, "a": b"x"}), ("invert", [2])):
        whole = {"store_fp": store.store_fp, "stage": stage, "stage_version": 3,
                 "rows": rows, "extra": extra}  # fmt: skip
        expected = hashlib.sha256(canonical_json(whole)).digest()
        assert store.block_fp(stage, 0, rows, 3, extra) == expected
    assert encoded.count(rows) == 1
    other = (("image-9", "active"), *rows[1:])
    assert store.block_fp("invert", 0, other, 3) != store.block_fp("invert", 0, rows, 3)


def test_layers_can_be_read_alone(tmp_path):
    store = create(tmp_path / "s")
    write(store, 0, quarantined=[2])
    whole = store.ok_rows([W_PLUS], 0, ["invert"]).arrays[W_PLUS]
    for layers in (0, 2, slice(1, 3)):
        got = store.ok_rows([W_PLUS, PSNR], 0, ["invert"], layers=layers).arrays
        np.testing.assert_array_equal(got[W_PLUS], whole[:, layers])
        assert got[PSNR].shape == (7,)
    assert store.ok_rows([W_PLUS], 1, ["invert"], layers=1).arrays[W_PLUS].shape == (0, 4)


def test_reading_needs_the_stage_that_writes(tmp_path):
    store = create(tmp_path / "s")
    store.add_arrays("attr", [ArraySpec("annotations", "attr", (2,))])
    with pytest.raises(StoreError, match="not written by the stages"):
        store.ok_rows(["annotations/attr"], 0, ["invert"])
    with pytest.raises(StoreError, match="no array 'commit/none'"):
        store.ok_rows([], 0, ["none"])


def test_a_block_rewritten_while_it_is_read_is_noticed(tmp_path, monkeypatch):
    store = create(tmp_path / "s")
    write(store, 0)
    commits = iter([fp_of(store, 0), bytes(32)])
    monkeypatch.setattr(store, "commit_of", lambda stage, block: next(commits))
    with pytest.raises(StoreError, match="rewritten while"):
        store.ok_rows([W_PLUS], 0, ["invert"])


def bad_writes() -> list[tuple[str, type[StoreError], str, Any]]:
    def without(name):
        return lambda a: {k: v for k, v in a.items() if k != name}

    def changed(name, change):
        return lambda a: {**a, name: change(a[name])}

    nan_row = np.zeros((8, 3, 4), "f4")
    nan_row[5, 0, 0] = np.inf
    return [
        ("short", UnalignedWriteError, "write the whole block", changed(PSNR, lambda v: v[:-1])),
        ("long", UnalignedWriteError, "8 rows", changed(W_PLUS, lambda v: np.repeat(v, 2, 0))),
        ("scalar", UnalignedWriteError, "shape ()", changed(PSNR, lambda v: np.float32(0))),
        ("layers", UnalignedWriteError, "whole rows", changed(W_PLUS, lambda v: v[:, :2])),
        ("missing", StoreError, "write them all", without(PSNR)),
        ("foreign", StoreError, "write them all", lambda a: {**a, "quality/x": a[PSNR]}),
        ("kind", StoreError, "convert it", changed(COUNT, lambda v: v + 0.5)),
        ("infinite", StoreError, "row 5.*NOT_FINITE", changed(W_PLUS, lambda v: nan_row)),
    ]


@pytest.mark.parametrize(
    ("error", "message", "change"), [b[1:] for b in bad_writes()], ids=[b[0] for b in bad_writes()]
)
def test_bad_writes_change_nothing(tmp_path, error, message, change):
    store = create(tmp_path / "s")
    write(store, 0, removed=[7])
    before = tree_digest(tmp_path / "s")
    with pytest.raises(error, match=message.replace("()", r"\(\)")):
        store.write_block(
            "invert", 0, change(values(store, 0)), *flags(8), fp_of(store, 0, version=2)
        )
    assert tree_digest(tmp_path / "s") == before


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        (flags(7)[0], flags(8)[1], "write the whole block"),
        (np.ones((8, 1)), np.zeros(8), "one number a row"),
        (np.full(8, 9), np.zeros(8), r"status holds \[9\]"),
        (np.full(8, 2), np.full(8, 77), r"reason holds \[77\]"),
        (np.full(8, 2), np.zeros(8), "quarantined rows need a reason"),
        (np.ones(8), np.ones(8), "OK rows have none"),
    ],
)
def test_bad_flags_are_refused(tmp_path, status, reason, message):
    store = create(tmp_path / "s")
    with pytest.raises(StoreError, match=message):
        store.write_block("invert", 0, values(store, 0), status, reason, fp_of(store, 0))
    assert not store.committed("invert").any()


@pytest.mark.parametrize("fp", [b"", bytes(32), b"x" * 31])
def test_bad_fingerprints_are_refused(tmp_path, fp):
    store = create(tmp_path / "s")
    with pytest.raises(StoreError, match="block_fp"):
        store.write_block("invert", 0, values(store, 0), *flags(8), fp)


def test_reading_mode_does_not_write(tmp_path):
    create(tmp_path / "s")
    store = LatentStore.open(tmp_path / "s")
    for call in (
        lambda: write(store, 0),
        lambda: store.grow(30),
        lambda: store.add_arrays("x", []),
        store.delete_partials,
    ):
        with pytest.raises(StoreError, match=r"open it with 'r\+'"):
            call()


# ---- other ways in ------------------------------------------------------------------------------


def test_store_is_pickled_as_path_and_mode(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = create(Path("s"))
    write(store, 0)
    data = pickle.dumps(store)
    assert len(data) < 300
    monkeypatch.chdir(ROOT)  # a worker has another working directory
    copy = pickle.loads(data)  # noqa: S301 - our own bytes
    assert (copy.path, copy.mode) == (str(tmp_path / "s"), "r+")
    assert len(copy.ok_rows([W_PLUS], 0, ["invert"]).rows) == 8
    assert "s', mode='r+'" in repr(copy)


def test_store_on_a_url(tmp_path):
    url = f"memory://{tmp_path.name}/faces"
    store = create(url)
    write_all(store)
    assert store.delete_partials() == 0
    copy = LatentStore.open(url)
    np.testing.assert_array_equal(
        copy.ok_rows([W_PLUS], 1, ["invert"]).arrays[W_PLUS], values(store, 1)[W_PLUS]
    )
    with pytest.raises(StoreError, match="made with"):
        create(url, seed=4)


def test_xarray_opens_groups_and_the_whole(tmp_path):
    store = create(tmp_path / "s")
    store.add_arrays("lm", [ArraySpec("landmarks", "lm", (5, 2))])
    store.add_arrays("attr", [ArraySpec("annotations", "attr", (2,))])
    store.add_arrays("attr@render", [ArraySpec("annotations", "attr@render", (2,))])
    write_all(store)
    path = store.path
    with xr.open_zarr(path, group="latents", consolidated=False) as latents:
        assert latents.w_plus.dims == ("row", "w_plus_layer", "w_plus_channel")
        expected = np.concatenate([values(store, b)[W_PLUS] for b in range(3)])
        np.testing.assert_array_equal(latents.w_plus.values, expected)
    with xr.open_datatree(path, engine="zarr", consolidated=False) as tree:
        assert set(tree.children) == {
            "latents",
            "quality",
            "landmarks",
            "annotations",
            "status",
            "reason",
            "commit",
        }
        assert tree["status/invert"].values.tolist() == [1] * 20
        assert tree["commit"].sizes["block"] == 3
        dims = {name: set(child.dims) for name, child in tree.children.items()}
        assert dims["latents"] & dims["landmarks"] == {"row"}
    # Without the argument it works too; xarray then says that it looked for consolidated metadata,
    # which is not part of the Zarr v3 specification and is therefore not written.
    with pytest.warns(RuntimeWarning, match="consolidated"):
        xr.open_zarr(path, group="quality").close()


def consolidate(path: Path | str) -> None:
    """What people do before they share a store."""
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        for group in ("", "latents", "commit"):
            zarr.consolidate_metadata(path, path=group)


def test_consolidated_metadata_of_others_is_not_believed(tmp_path):
    store = create(tmp_path / "s")
    write_all(store)
    before = tree_files(tmp_path / "s")
    consolidate(store.path)
    other = LatentStore.open(store.path, "r+")
    other.add_arrays("attr", [ArraySpec("annotations", "attr", (2,))])
    assert LatentStore.open(store.path).stages() == ["attr", "invert"]
    left = tree_files(tmp_path / "s")
    assert {name: left[name] for name in before} == before  # consolidated metadata went again
    consolidate(store.path)
    LatentStore.open(store.path, "r+").grow(31)
    assert LatentStore.open(store.path).array(W_PLUS).shape[0] == 31
    with pytest.warns(RuntimeWarning, match="consolidated"):  # nor do others believe a stale shape
        assert xr.open_zarr(store.path, group="latents").sizes["row"] == 31


def test_foreign_files_beside_ours_change_nothing(tmp_path):
    store = create(tmp_path / "s")
    write_all(store)
    for folder in ("", "commit", "latents", "latents/w_plus", "latents/w_plus/c"):
        for name in (".DS_Store", "._0", ".nfs0001", "Thumbs.db", "desktop.ini", "zarr.json~"):
            (tmp_path / "s" / folder / name).write_bytes(b"somebody else's")
    (tmp_path / "s/commit/folder").mkdir()
    again = create(tmp_path / "s")
    assert again.stages() == ["invert"] and again.committed("invert").any(axis=1).all()
    assert len(strangers(tmp_path / "s")) == 5 * 3 + 1
    assert again.delete_partials() == 0


def test_golden_store_of_every_released_layout_is_read(tmp_path):
    """``store_v1`` was written by ``stores.write_golden`` at layout version 1, for ever."""
    paths = sorted(GOLDEN.glob("store_v*"))
    assert [path.name for path in paths] == [f"store_v{v}" for v in range(1, LAYOUT_VERSION + 1)]
    for path in paths:
        copy = tmp_path / path.name
        shutil.copytree(path, copy)
        store = LatentStore.open(copy, "r+")
        assert store.attrs["name"] == "faces"
        assert (store.n_rows, store.block_rows, store.n_blocks) == (20, 8, 3)
        assert store.stages() == ["attr@render", "invert"]
        for block, n_ok in ((0, 6), (1, 8)):
            assert store.is_committed("invert", block, fp_of(store, block))
            rows, arrays, left_out = store.ok_rows([W_PLUS, PSNR], block, ["invert"])
            assert (len(rows), sum(left_out.values())) == (n_ok, 8 - n_ok)
            keep = rows - block * 8
            np.testing.assert_array_equal(arrays[W_PLUS], values(store, block)[W_PLUS][keep])
        assert store.ok_rows([W_PLUS], 2, ["invert"]).left_out["pending"] == 4
        scores = store.ok_rows(["annotations/attr@render"], 0, ["attr@render"]).arrays
        np.testing.assert_array_equal(*scores.values(), np.arange(16).reshape(8, 2) / 16)
        assert store.array("annotations/attr@render").attrs["names"] == ["smile", "yaw"]
        write(store, 2)  # and a released store can be continued
        assert store.committed("invert").any(axis=1).all()
