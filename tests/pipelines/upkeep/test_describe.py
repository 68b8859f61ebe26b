"""`latentflow inspect` names files of every kind and says what takes them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import generators
from generators.annotators.card import resolve_uri
from generators.encoders.files import encoder_path
from pipelines.cli import app
from pipelines.upkeep.inspect import describe
from schemas.directions import Direction, DirectionSet
from schemas.errors import CheckpointError, InputError

FACES = generators.BUNDLED / "faces64"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    (root / "table.csv").write_text("Größe,file\n3,a.png\n4,b.png\n", encoding="utf-8")
    pq.write_table(pa.table({"file": ["a.png"], "age": [3]}), root / "table.parquet")
    np.save(root / "age.npy", np.ones((1, 64), np.float32))
    np.savez(root / "named.npz", smile=np.ones((10, 64)), age=np.ones((10, 64)))
    torch.save(torch.ones(1, 64), root / "age.pt")
    np.savez(root / "network.npz", weight=np.ones((3, 4, 5, 6)), bias=np.ones(3))
    np.save(root / "pictures.npy", np.zeros((4, 8, 8, 3), np.uint8))
    (root / "damaged.pkl").write_bytes(b"\x80\x04nothing")
    (root / "notes.md").write_text("Übersicht")
    (root / "spec.yaml").write_text("name: x\n")
    (root / "shards").mkdir()
    with tarfile.open(root / "shards" / "0.tar", "w") as tar:
        tar.add(root / "table.csv", "a.csv")
    (root / "parts").mkdir()
    pq.write_table(pa.table({"image": [b"png"]}), root / "parts" / "0.parquet")
    (root / "zips").mkdir()
    (root / "zips" / "0.zip").write_bytes(b"PK")
    (root / "pictures").mkdir()
    (root / "pictures" / "a.png").write_bytes(b"")
    (root / "empty").mkdir()
    return root


@pytest.mark.parametrize(
    ("name", "kind", "used"),
    [
        ("table.csv", "table", "'dataset.factors'"),
        ("table.parquet", "table", "'dataset.factors'"),
        ("age.npy", "file of directions", "latentflow import"),
        ("named.npz", "file of directions", "latentflow import"),
        ("age.pt", "file of directions", "latentflow import"),
        (str(FACES / "pose.onnx"), "ONNX model", "'annotate[].model'"),
        ("spec.yaml", "specification", "latentflow run"),
        ("pictures", "folder of images", "'dataset.path'"),
        ("pictures/a.png", "image", "'dataset.path'"),
        ("shards", ".tar folder", "'kind: webdataset'"),
        ("shards/0.tar", ".tar file", "'kind: webdataset'"),
        ("parts", ".parquet folder", "'kind: parquet'"),
        ("zips", ".zip folder", "'kind: zip'"),
    ],
)
def test_a_file_of_every_kind_is_named_with_what_takes_it(files, name, kind, used):
    facts = describe(files / name)
    assert facts["kind"].startswith(kind) and used in facts["used"]


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("network.npz", InputError, "network.npz' is an archive of NumPy arrays"),
        ("pictures.npy", InputError, "pictures.npy' is a single NumPy array"),
        ("damaged.pkl", CheckpointError, "damaged.pkl': pickle cannot be read"),
        ("notes.md", CheckpointError, "notes.md' is text that begins with 'Übersicht'"),
        ("empty", InputError, "empty' is a folder without images: it is empty"),
    ],
)
def test_what_nothing_takes_is_named_with_its_whole_path(files, name, error, text):
    with pytest.raises(error, match=text) as caught:
        describe(files / name)
    assert str(caught.value).startswith(repr(str(files / name)))


def test_of_a_folder_of_stores_one_is_named(tmp_path):
    (tmp_path / "stores" / "mine-0").mkdir(parents=True)
    (tmp_path / "stores" / "mine-0" / "zarr.json").write_text("{}")
    with pytest.raises(InputError, match="it holds 'mine-0': inspect that"):
        describe(tmp_path / "stores")


def test_columns_of_a_table_and_shapes_of_directions_are_shown(files):
    assert describe(files / "table.csv")["columns"] == "Größe, file"
    assert describe(files / "named.npz")["  smile"] == "float64 (10, 64)"


def test_a_direction_of_another_space_than_its_set_tells_its_own(tmp_path):
    found = DirectionSet(generator_fp="a" * 64, space="w")
    for space in ("w", "z"):
        vector = np.full(4, 0.5)
        found.add(Direction(f"pca.{space}", space, vector, None, "pca", 1.0))
    found.save(tmp_path / "set")
    facts = describe(tmp_path / "set")
    assert facts["pca.z"].endswith(", space z") and "space" not in facts["pca.w"]


def test_how_well_a_direction_predicts_is_shown_of_held_out_rows_if_it_was_tried(tmp_path):
    found = DirectionSet(generator_fp="a" * 64, space="w")
    for name, quality in {
        "svm.a": {"accuracy": 0.9, "held_out_accuracy": 0.8, "held_out_auc": 0.75, "rows": 4},
        "linear.b": {"r2": 0.5},
        "linear.c": {"r2": 0.5, "held_out_r2": None},
        "pca.000": {},
    }.items():
        vector = np.full(4, 0.5)
        found.add(Direction(name, "w", vector, None, "m", 1.0, quality=quality))
    found.save(tmp_path / "set")
    facts = describe(tmp_path / "set")
    assert facts["svm.a"].endswith(", target -, held-out AUC 0.750, held-out accuracy 0.800")
    assert facts["linear.b"].endswith(", target -, R2 0.500") == facts["linear.c"].endswith("0.500")
    assert facts["pca.000"].endswith(", target -")


def test_long_values_are_printed_whole_in_a_narrow_pipe(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    shown = CliRunner().invoke(app, ["inspect", str(FACES / "generator.safetensors")])
    assert generators.fingerprint("bundled:faces64") in shown.stdout and "…" not in shown.stdout


@pytest.mark.parametrize(
    ("read", "given", "meant"),
    [
        (generators.resolve, "bundled:face64", "bundled:faces64"),
        (encoder_path, "bundled:faces46", "bundled:faces64"),
        (resolve_uri, "bundled:faces64/attribute", "bundled:faces64/attributes"),
        (resolve_uri, "bundled:face64/pose", "bundled:faces64/pose"),
    ],
)
def test_a_misspelt_bundled_model_is_answered_with_the_one_like_it(read, given, meant):
    with pytest.raises(CheckpointError, match=f"{given!r} is not part.* did you mean {meant!r}"):
        read(given)
