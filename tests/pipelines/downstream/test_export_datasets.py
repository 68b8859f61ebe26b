"""The dataset folder is read by the library that it is for, and by duckdb, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np

from pipelines.downstream.annotation_table import RowTables
from pipelines.downstream.export import export_rows
from pipelines.downstream.export_rows import ExportRows
from pipelines.downstream.shards import write_shards
from tests.pipelines.downstream.test_export import KEPT, codes_of, made_index, made_store

READ = """
import json, sys
import datasets
folder = sys.argv[1]
by_card = datasets.load_dataset(folder, split="train")
files = folder + "/data/train-*.parquet"
by_files = datasets.load_dataset("parquet", data_files=files, split="train")
streamed = datasets.load_dataset(folder, split="train", streaming=True)
assert list(streamed)[3]["row"] == by_card[3]["row"] == by_files[3]["row"]
by_card.set_format("numpy", columns=["row", "latents.w_plus"])
json.dump({
    "rows": [int(row["row"]) for row in by_card],
    "codes": [row["latents.w_plus"].tolist() for row in by_card],
    "columns": by_files.column_names,
    "types": {name: str(kind) for name, kind in by_card.features.items()},
    "mood": by_files["mood"][:5],
}, sys.stdout)
"""


def test_datasets_reads_the_folder_by_its_card_and_by_its_files(tmp_path: Path) -> None:
    store, index = made_store(tmp_path / "store"), made_index()
    export_rows(store, index, "huggingface", tmp_path / "set")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "set")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **offline},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"] == KEPT and found["mood"] == ["sad", "sad", "glad", None, "glad"]
    codes = np.array(found["codes"], "f4").reshape(-1, 3, 4)
    np.testing.assert_array_equal(codes, codes_of(KEPT))
    assert found["columns"] == RowTables(ExportRows.of(store, index, ["invert"])).schema.names
    assert "float32" in found["types"]["latents.w_plus"]
    assert "12" in found["types"]["latents.w_plus"]


def test_duckdb_queries_the_shards(tmp_path: Path) -> None:
    tables = RowTables(ExportRows.of(made_store(tmp_path / "store"), made_index(), ["invert"]))
    write_shards(tables, tmp_path, shard_rows=5)
    query = """
        select count(*), sum("latents.w_plus"[1]), avg("attributes.yaw"), count("attributes.yaw")
        from read_parquet($files)
    """
    files = str(tmp_path / "data" / "*.parquet")
    n, first, yaw, measured = duckdb.execute(query, {"files": files}).fetchall()[0]
    assert n == len(KEPT) and measured == 12
    assert abs(first - float(codes_of(KEPT)[:, 0, 0].sum(dtype="f8"))) < 1e-5
    assert yaw == -np.mean([row for row in KEPT if row < 16 and row != 5])
