"""Every export is read again by the library or format it is for."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from places import ROOT
from safetensors import safe_open

from generators.unpickle.writer import tensor_head, torch_file
from pipelines.downstream import annotation_table
from pipelines.downstream import arrays as export_arrays
from pipelines.downstream.annotation_table import METADATA_KEY, RowTables
from pipelines.downstream.export import export_rows, row_exports
from pipelines.downstream.export_rows import ExportRows
from pipelines.downstream.shards import write_shards
from schemas.errors import DataError, FileSystemError, StoreError, UsageError
from schemas.index import DatasetIndex, NewRow, continuous_column, encode_categories
from schemas.names import MAX_NAME
from schemas.store.latent_store import ArraySpec, LatentStore
from tests import stores

N_ROWS = 20  # blocks of 8, 8 and 4 rows
QUARANTINED, REMOVED, GONE = 1, 10, 12  # GONE: removed from the index, not yet from the store
UNMEASURED = 5  # by the attributes model
KEPT = [row for row in range(N_ROWS) if row not in (QUARANTINED, REMOVED, GONE)]
LABELS = ["smile", "yaw"]


def made_index() -> DatasetIndex:
    ids = [f"{row:02x}" * 32 for row in range(N_ROWS)]
    index = DatasetIndex.empty().append([NewRow(d, f"{i}.png", 64, 64) for i, d in enumerate(ids)])
    moods = ["glad" if row % 2 else None if row == 4 else "sad" for row in range(N_ROWS)]
    ages = [np.nan if row == 6 else row / 2 for row in range(N_ROWS)]
    factors = {
        "mood": encode_categories(moods, None, "string"),
        "head/size": continuous_column(ages),
        "status": encode_categories(["x"] * N_ROWS, None, "string"),
    }
    return index.with_factors(factors).remove([GONE])


def scores_of(store: LatentStore, block: int) -> dict[str, np.ndarray]:
    rows = np.arange(store.block_slice(block).start, store.block_slice(block).stop)
    points = rows[:, None, None] + np.arange(6).reshape(3, 2) / 10
    return {
        "annotations/attributes": np.stack([rows / 20, -rows], 1).astype("f4"),
        "landmarks/attributes": points.astype("f4"),
    }


def made_store(path: Path) -> LatentStore:
    """20 rows; the last block is measured by no model."""
    store = stores.create(path)
    names = {"names": LABELS}
    specs = [
        ArraySpec("annotations", "attributes", (2,), attrs=names),
        ArraySpec("landmarks", "attributes", (3, 2), attrs={"names": ["a", "b", "c"]}),
    ]
    store.add_arrays("attributes", specs)
    stores.write(store, 0, quarantined=[QUARANTINED])
    stores.write(store, 1, removed=[REMOVED - 8])
    stores.write(store, 2)
    for block, aside in ((0, [QUARANTINED, UNMEASURED]), (1, [])):
        n = stores.n_of(store, block)
        fp = stores.fp_of(store, block, "attributes")
        flags = stores.flags(n, quarantined=aside)
        store.write_block("attributes", block, scores_of(store, block), *flags, fp)
    return store


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[LatentStore, DatasetIndex]:
    return made_store(tmp_path_factory.mktemp("export") / "store"), made_index()


def codes_of(rows: list[int]) -> np.ndarray:
    """What the store holds, made again."""
    return np.stack([np.random.default_rng(r).normal(size=(3, 4)).astype("f4") for r in rows])


def lists(column) -> np.ndarray:
    return np.stack(column.to_list())


def measured(rows: list[int]) -> np.ndarray:
    return np.array([row < 16 and row != UNMEASURED for row in rows])


# ---- tables -------------------------------------------------------------------------------------


def check_frame(frame: pd.DataFrame) -> None:
    """A table of the rows kept, against the formulas that made the store."""
    assert frame.row.tolist() == KEPT
    assert frame.image_id.tolist() == [f"{row:02x}" * 32 for row in KEPT]
    codes = lists(frame["latents.w_plus"]).reshape(-1, 3, 4)
    np.testing.assert_array_equal(codes, codes_of(KEPT))
    assert frame["quality.psnr"].dtype.kind == "f"
    np.testing.assert_array_equal(frame["quality.psnr"], np.array(KEPT) + 0.5)
    ok = measured(KEPT)
    assert frame["attributes.smile"].isna().tolist() == (~ok).tolist()
    assert frame["attributes.yaw"][ok].tolist() == [-row for row in np.array(KEPT)[ok]]
    points = lists(frame["attributes"]).reshape(-1, 3, 2)
    assert np.isnan(points[~ok]).all() and points[2, 1, 0] == np.float32(3.2)
    assert frame.mood[KEPT.index(4)] is None or pd.isna(frame.mood[KEPT.index(4)])
    assert frame.mood[KEPT.index(7)] == "glad"
    assert frame["factor.status"].eq("x").all()


def test_parquet_is_read_by_pandas_and_says_its_shapes(made, tmp_path):
    out = tmp_path / "rows.parquet"
    done = export_rows(*made, "parquet", out)
    assert done.rows == len(KEPT) == 17
    assert done.left_out == {"pending": 0, "quarantined": 1, "removed": 2}
    assert done.not_measured == {"attributes": 5}
    check_frame(pd.read_parquet(out))
    schema = pq.read_schema(out)
    facts = json.loads(schema.metadata[METADATA_KEY])
    assert facts["left_out"] == done.left_out and facts["generator_fp"] == "ab" * 32
    field = schema.field("latents.w_plus")
    assert str(field.type) == "fixed_size_list<element: float>[12]"
    assert json.loads(field.metadata[b"shape"]) == [3, 4]
    assert json.loads(field.metadata[b"dims"]) == ["w_plus_layer", "w_plus_channel"]
    assert json.loads(schema.field("attributes").metadata[b"names"]) == ["a", "b", "c"]
    first = out.read_bytes()
    export_rows(*made, "parquet", out, overwrite=True)
    assert out.read_bytes() == first


@pytest.mark.parametrize(("shard_rows", "sizes"), [(None, [17]), (5, [5, 4, 4, 4]), (1, [1] * 17)])
def test_shards_together_are_the_table(made, tmp_path, shard_rows, sizes):
    tables = RowTables(ExportRows.of(*made, ["invert"]))
    names = write_shards(tables, tmp_path, shard_rows)
    assert names[0] == f"data/train-00000-of-{len(sizes):05d}.parquet"
    assert [pq.read_metadata(tmp_path / name).num_rows for name in names] == sizes
    check_frame(pd.read_parquet(tmp_path / "data").reset_index(drop=True))


def test_the_card_describes_what_the_shards_hold(made, tmp_path):
    export_rows(*made, "huggingface", tmp_path / "set")
    text = (tmp_path / "set" / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    (files,) = head["configs"][0]["data_files"]
    shards = sorted((tmp_path / "set").glob(files["path"]))
    assert [path.name for path in shards] == ["train-00000-of-00001.parquet"]
    features = {f["name"]: f for f in head["dataset_info"]["features"]}
    schema = pq.read_schema(shards[0])
    assert list(features) == schema.names
    assert features["latents.w_plus"] == {
        "name": "latents.w_plus",
        "list": "float32",
        "length": 12,
    }
    assert features["head/size"]["dtype"] == "float64" and features["row"]["dtype"] == "int64"
    assert head["dataset_info"]["splits"] == [{"name": "train", "num_examples": 17}]
    assert "1 quarantined, 2 removed" in text
    facts = json.loads((tmp_path / "set" / "export.json").read_text())
    assert facts["export"] == "huggingface" and facts["rows"] == 17


# ---- arrays -------------------------------------------------------------------------------------


def check_arrays(arrays, facts) -> None:
    np.testing.assert_array_equal(arrays["row"], KEPT)
    assert bytes(arrays["image_id"][3]).hex() == "04" * 32
    np.testing.assert_array_equal(arrays["latents/w_plus"], codes_of(KEPT))
    assert arrays["latents/w_plus"].dtype == np.float32
    np.testing.assert_array_equal(arrays["quality/steps"], KEPT)
    ok = measured(KEPT)
    scores = arrays["annotations/attributes"]
    assert np.isnan(scores[~ok]).all()
    np.testing.assert_array_equal(scores[ok, 1], -np.array(KEPT)[ok])
    assert arrays["landmarks/attributes"].shape == (17, 3, 2)
    mood = [facts["categories"]["mood"][c] if c >= 0 else None for c in arrays["factors/mood"]]
    assert mood[:5] == ["sad", "sad", "glad", None, "glad"]
    sizes = arrays["factors/head%2Fsize"]
    assert sizes[0] == 0 and np.isnan(sizes[KEPT.index(6)]) and sizes[-1] == 9.5
    assert facts["names"]["annotations/attributes"] == LABELS
    assert facts["left_out"]["quarantined"] == 1 and facts["rows"] == 17


def test_npz_is_read_by_numpy(made, tmp_path):
    export_rows(*made, "npz", tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz", allow_pickle=False) as archive:
        check_arrays(archive, json.loads(str(archive["facts"])))


def test_safetensors_is_read_by_its_library(made, tmp_path):
    export_rows(*made, "safetensors", tmp_path / "rows.safetensors")
    head = int.from_bytes((tmp_path / "rows.safetensors").read_bytes()[:8], "little")
    assert head % 8 == 0  # arrays begin at a multiple of their items' size, as the format asks
    with safe_open(tmp_path / "rows.safetensors", "np") as file:
        facts = json.loads(file.metadata()["facts"])
        check_arrays({name: file.get_tensor(name) for name in file.keys()}, facts)
    with safe_open(tmp_path / "rows.safetensors", "pt") as file:
        part = file.get_slice("latents/w_plus")[2:4]
    np.testing.assert_array_equal(part.numpy(), codes_of(KEPT[2:4]))


# ---- other projects -----------------------------------------------------------------------------


def test_interfacegan_files_hold_rows_that_everything_measured(made, tmp_path):
    store, index = made
    done = export_rows(store, index, "interfacegan_latents", tmp_path / "i")
    rows = [row for row, ok in zip(KEPT, measured(KEPT), strict=True) if ok]
    assert done.rows == len(rows) and done.not_measured == {}
    assert sum(done.left_out.values()) == N_ROWS - len(rows)
    codes = np.load(tmp_path / "i" / "wp.npy", allow_pickle=False)
    np.testing.assert_array_equal(codes, codes_of(rows))
    # train_boundary.py: scores (n, 1) beside codes (n, ...), sorted to take the extremes
    scores = np.load(tmp_path / "i" / "attributes.yaw_scores.npy", allow_pickle=False)
    assert scores.shape == (len(rows), 1) and scores.dtype == np.float32
    assert rows[int(np.argsort(scores[:, 0])[::-1][0])] == 0
    with open(tmp_path / "i" / "rows.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(line["row"]) for line in table] == rows
    assert table[1]["uri"] == f"{rows[1]}.png" and table[1]["image_id"] == f"{rows[1]:02x}" * 32


def test_scores_of_any_name_have_files(tmp_path):
    labels = ["East Asian", "a/b", "年" * 60, "x" * 300]
    store = stores.create(tmp_path / "store", 8)
    store.add_arrays("who", [ArraySpec("annotations", "who", (4,), attrs={"names": labels})])
    stores.write(store, 0)
    scores = {"annotations/who": np.arange(32.0).reshape(8, 4).astype("f4")}
    store.write_block("who", 0, scores, *stores.flags(8), stores.fp_of(store, 0, "who"))
    rows = [NewRow(f"{row:02x}" * 32, f"{row}.png") for row in range(8)]
    export_rows(store, DatasetIndex.empty().append(rows), "interfacegan_latents", tmp_path / "i")
    names = [f.name.removesuffix("_scores.npy") for f in (tmp_path / "i").glob("who*_scores.npy")]
    assert len(names) == 4 and {"who.East Asian", "who.a%2Fb"} < set(names)
    assert max(map(len, names)) <= MAX_NAME


def test_e4e_latents_are_one_tensor(made, tmp_path):
    export_rows(*made, "e4e_latents", tmp_path / "e")
    latents = torch.load(tmp_path / "e" / "latents.pt", weights_only=True)
    assert latents.dtype == torch.float32 and latents.is_contiguous()
    np.testing.assert_array_equal(latents.numpy(), codes_of(KEPT))
    assert len((tmp_path / "e" / "rows.csv").read_text().splitlines()) == len(KEPT) + 1


def test_each_image_has_a_file_of_its_own_or_a_line_in_a_list(made, tmp_path):
    uris = made[1].uris
    kept = [Path(uris[row]) for row in KEPT]
    for kind, template in (("pti_embeddings", "PTI/{}/0.pt"), ("ganinverter_codes", "code/{}.pt")):
        export_rows(*made, kind, tmp_path / kind)
        for path, code in zip(kept, codes_of(KEPT), strict=True):
            file = tmp_path / kind / template.format(path.stem)
            found = torch.load(file, weights_only=True).numpy()
            np.testing.assert_array_equal(found, code[None] if kind[0] == "p" else code)
    export_rows(*made, "idinvert_codes", tmp_path / "i")
    np.testing.assert_array_equal(np.load(tmp_path / "i" / "inverted_codes.npy"), codes_of(KEPT))
    assert (tmp_path / "i" / "image_list.txt").read_text().split() == list(map(str, kept))
    export_rows(*made, "rosinality_projected", tmp_path / "r")
    found = torch.load(tmp_path / "r" / "projected.pt", weights_only=True)
    np.testing.assert_array_equal(found[str(kept[0])]["latent"], codes_of(KEPT)[0])
    table = made[1].table
    same = [f"{'ab'[row % 2]}/{row // 2}.png" for row in range(made[1].n_rows)]
    twice = DatasetIndex(table.set_column(2, "uri", [same]), made[1].factors)
    with pytest.raises(UsageError, match="a file for each image.* 2 images are called"):
        export_rows(made[0], twice, "pti_embeddings", tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("shape", [(5,), (1, 3, 4), (7, 1, 2)])
def test_a_tensor_s_head_and_values_are_the_torch_file(shape, rng):
    values = rng.normal(size=shape).astype("f4")
    assert tensor_head(shape) + values.tobytes() == torch_file(values)


def test_codes_of_other_spaces_are_refused_by_peers(tmp_path):
    arrays = [ArraySpec("latents", "s", (5,))]
    store = stores.create(tmp_path / "store", n_rows=2, arrays=arrays)
    fp = stores.fp_of(store, 0)
    store.write_block("invert", 0, {"latents/s": np.ones((2, 5), "f4")}, *stores.flags(2), fp)
    table = made_index().table.slice(0, 2).select(["row", "image_id", "uri", "width", "height",
                                                   "state"])  # fmt: skip
    for kind in ("e4e_latents", "interfacegan_latents"):
        with pytest.raises(UsageError, match="'npz'"):
            export_rows(store, DatasetIndex(table), kind, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


# ---- rows ---------------------------------------------------------------------------------------


def test_block_size_does_not_change_the_rows(made, tmp_path):
    store, index = made
    big = stores.create(tmp_path / "big", block_rows=32)
    stores.write(big, 0, quarantined=[QUARANTINED], removed=[REMOVED])
    assert (store.n_blocks, big.n_blocks) == (3, 1)
    for s, name in ((store, "a.npz"), (big, "b.npz")):
        export_rows(s, index, "npz", tmp_path / name)
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        for name in ("row", "image_id", "latents/w_plus", "quality/psnr", "factors/mood"):
            np.testing.assert_array_equal(a[name], b[name])


def test_uncommitted_blocks_are_left_out_and_nothing_at_all_is_an_error(made, tmp_path):
    index = made[1]
    store = stores.create(tmp_path / "store")
    with pytest.raises(DataError, match="no row .* is finished"):
        export_rows(store, index, "npz", tmp_path / "x.npz")
    aside = stores.create(tmp_path / "aside")
    for block in range(aside.n_blocks):
        stores.write(aside, block, quarantined=list(range(stores.n_of(aside, block))))
    with pytest.raises(DataError, match="no row .* is finished.*annotations' says why"):
        export_rows(aside, index, "npz", tmp_path / "x.npz")
    stores.write(store, 1)
    done = export_rows(store, index, "npz", tmp_path / "x.npz")
    assert done.rows == 7 and done.left_out == {"pending": 12, "quarantined": 0, "removed": 1}
    with pytest.raises(StoreError, match="20 rows, the index 21"):
        export_rows(store, index.append([NewRow("ff" * 32, "new.png")]), "npz", tmp_path / "y.npz")


def test_a_block_rewritten_meanwhile_is_noticed(made, tmp_path):
    store = made_store(tmp_path / "store")
    rows = ExportRows.of(store, made[1], ["invert"])
    rows.read(stores.W_PLUS, 0)
    status, reason = stores.flags(8)
    values = stores.values(store, 0)
    store.write_block("invert", 0, values, status, reason, stores.fp_of(store, 0, version=2))
    with pytest.raises(StoreError, match="rewritten during the export"):
        rows.read(stores.W_PLUS, 0)


# ---- targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", row_exports())
def test_a_target_is_replaced_only_when_asked_and_only_whole(made, tmp_path, kind, monkeypatch):
    out = tmp_path / "out"
    export_rows(*made, kind, out)

    def contents() -> dict[str, bytes]:
        return {
            p.relative_to(tmp_path).as_posix(): p.read_bytes()
            for p in tmp_path.rglob("*")
            if p.is_file()
        }

    before = contents()
    with pytest.raises(UsageError, match="--overwrite"):
        export_rows(*made, kind, out)
    export_rows(*made, kind, out, overwrite=True)
    assert contents() == before

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ExportRows, "read", full)
        with pytest.raises(FileSystemError, match="no space left on device; free space"):
            export_rows(*made, kind, out, overwrite=True)
    assert contents() == before


def test_a_folder_that_is_no_export_is_never_replaced(made, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="is not an export"):
        export_rows(*made, "huggingface", tmp_path / "mine", overwrite=True)
    with pytest.raises(UsageError, match="is a folder, this export writes a file"):
        export_rows(*made, "npz", tmp_path / "mine", overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file, this export writes a folder"):
        export_rows(*made, "e4e_latents", tmp_path / "file", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.downstream.export import export_rows
from pipelines.downstream.export_rows import ExportRows
from schemas.index import DatasetIndex
from schemas.store.latent_store import LatentStore
read = ExportRows.read
def reads(self, array, block):
    if block == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, array, block)
ExportRows.read = reads
store, index, out = sys.argv[1:]
export_rows(LatentStore.open(store), DatasetIndex.load(index), "huggingface", Path(out))
"""


def test_a_killed_export_leaves_nothing_under_the_name_and_the_next_one_cleans_up(made, tmp_path):
    store, index = made
    index.save(tmp_path / "index.parquet")
    arguments = [store.path, tmp_path / "index.parquet", tmp_path / "out"]
    command = [sys.executable, "-c", KILLED, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    (left,) = [p for p in tmp_path.iterdir() if p.name != "index.parquet"]
    assert left.name.startswith("out.") and left.name.endswith(".partial")
    export_rows(store, index, "huggingface", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.parquet", "out"]


def test_memory_is_that_of_a_block_and_a_row_group(made, tmp_path, monkeypatch):
    """No reader asks for more than one block's rows at a time, no table is larger than a group."""
    store, index = made
    rows = ExportRows.of(store, index, ["invert"])
    for member in export_arrays.members(rows):
        if member.name.startswith(("latents", "annotations", "landmarks", "quality")):
            assert max(len(chunk) for chunk in member.chunks()) <= store.block_rows
    tables = RowTables(rows)
    monkeypatch.setattr(annotation_table, "GROUP_BYTES", 6 * tables.row_bytes)
    annotation_table.write_parquet(tables, tmp_path / "groups.parquet")
    groups = pq.read_metadata(tmp_path / "groups.parquet")
    sizes = [groups.row_group(k).num_rows for k in range(groups.num_row_groups)]
    assert sizes == [6, 6, 5] and store.block_rows == 8  # of any block size
    check_frame(pd.read_parquet(tmp_path / "groups.parquet"))
