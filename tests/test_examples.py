"""The programs in ``examples/``, run on a finished run as a reader of the documentation would."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from places import ROOT

import generators
from pipelines.cli import main
from pipelines.downstream.finished_run import FinishedRun
from schemas.spec import load_spec
from transforms.images.preprocess import to_uint8

PROGRAMS = ("annotations_with_duckdb", "apply_direction", "statistics_with_xarray",
            "train_on_latents")  # fmt: skip


def run_example(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> dict[str, Any]:
    """Run a program in this process; returns its variables."""
    path = ROOT / "examples" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    return runpy.run_path(str(path), run_name="__main__")


def finished(root: Path) -> FinishedRun:
    return FinishedRun.of(load_spec(root / "small.yaml"))


def test_a_direction_is_applied_in_five_lines(small_run, tmp_path, monkeypatch):
    out = tmp_path / "edited.png"
    run_example("apply_direction", monkeypatch, small_run / "small.yaml", "mean.surprise", out)
    run = finished(small_run)
    generator, direction = generators.load(run.spec.generator), run.directions["mean.surprise"]
    codes = run.codes([1]) + 2 * direction.sd * direction.vector
    with torch.no_grad():
        image = generator.synthesise(torch.from_numpy(codes.astype("f4")))
    expected = to_uint8(image.numpy())[0]
    size = generator.facts.size[0]
    picture = np.asarray(Image.open(out))
    assert picture.shape == (3 * size, 3 * size, 3)
    found = picture[size : 2 * size, 2 * size :]  # row 1, strength 2
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1  # another batch size


def test_statistics_with_xarray_and_dask(small_run, monkeypatch):
    made = run_example("statistics_with_xarray", monkeypatch, small_run / "small.yaml")
    store = finished(small_run).store
    blocks = [store.ok_rows(["latents/w_plus"], b, ["invert"]) for b in range(store.n_blocks)]
    codes = np.concatenate([b.arrays["latents/w_plus"] for b in blocks]).astype("f8")
    assert len(codes) == int(made["ok"].sum()) and store.n_blocks > 1
    assert len(made["codes"].chunks[0]) == store.n_blocks
    np.testing.assert_allclose(made["mean"], codes.mean(0), atol=1e-5)
    np.testing.assert_allclose(made["spread"], codes.std(0).mean(1), rtol=1e-4)


def test_annotations_with_pandas_and_duckdb(small_run, monkeypatch):
    score = "attributes@render.surprise"
    spec = small_run / "small.yaml"
    made = run_example("annotations_with_duckdb", monkeypatch, spec, "expression", score)
    by_pandas, by_duckdb = made["by_pandas"], made["by_duckdb"].set_index("expression")
    assert set(by_pandas.index) == set(by_duckdb.index) and len(by_pandas) > 2
    for level, value in by_pandas.items():
        assert by_duckdb["mean"][level] == pytest.approx(value, rel=1e-5)
    assert by_duckdb["rows"].sum() == len(made["measured"])
    run = finished(small_run)
    codes, levels = run.index.categorical("expression")
    column = run.store.array("annotations/attributes@render").attrs["names"].index("surprise")
    scores = run.store.array("annotations/attributes@render")[:, column]
    level = levels.index("surprise")
    assert by_pandas["surprise"] == pytest.approx(float(scores[codes == level].mean()), rel=1e-5)


def test_training_on_latents(small_run, monkeypatch):
    made = run_example("train_on_latents", monkeypatch, small_run / "small.yaml", "surprise")
    assert len(made["losses"]) == made["EPOCHS"] and made["n"] == 150
    assert made["losses"][-1] < 0.7 * made["losses"][0]


def test_every_example_is_a_program_that_says_how_to_call_it():
    there = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
    assert set(PROGRAMS) <= set(there)
    for name in PROGRAMS:
        text = (ROOT / "examples" / f"{name}.py").read_text()
        assert f"python examples/{name}.py SPEC" in text


def test_the_command_line_exports_what_pandas_reads(small_run, tmp_path, capsys):
    out = tmp_path / "rows.parquet"
    command = ["export", str(small_run / "small.yaml"), "--as", "parquet", "--out", str(out)]
    for extra, code, text in (
        ([], 0, "150 rows; left out: none"),
        ([], 2, "--overwrite"),
        (["--overwrite"], 0, "150 rows"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, *extra])
        assert int(ended.value.code) == code and text in capsys.readouterr().err
    frame = pd.read_parquet(out)
    codes = np.stack(frame["latents.w_plus"].to_list()).reshape(150, 10, 64)
    np.testing.assert_array_equal(codes, finished(small_run).codes(range(150)))
    assert not [name for name in os.listdir(tmp_path) if name != out.name]
