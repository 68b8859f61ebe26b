"""What commands say of runs that have not been started, have not ended, or have rows to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import generators
import pipelines.runs.run
from pipelines.cli import app
from pipelines.compare.two_runs import ComparedRun
from pipelines.downstream.finished_run import FinishedRun, _keeping, edit_run, export_run
from pipelines.upkeep.gc import collect
from pipelines.upkeep.inspect import describe
from pipelines.upkeep.verify import verify
from schemas.directions import unit_direction
from schemas.errors import DataError, LatentflowError, UsageError
from schemas.spec import load_spec
from schemas.store.check import BlockCheck, uncommit
from schemas.store.latent_store import LatentStore

READERS = {
    "edit": lambda spec: FinishedRun.of(load_spec(spec)),
    "export": lambda spec: export_run(load_spec(spec), "annotations", Path("none.parquet")),
    "verify": verify,
    "gc": collect,
    "diff": ComparedRun.open,
}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "spec.yaml").write_text("{name: x, dataset: {path: images}, output: out}")
    return tmp_path / "spec.yaml"


@pytest.mark.parametrize("command", READERS)
def test_a_run_that_was_not_started_or_has_not_ended_is_told(spec: Path, command: str) -> None:
    read, out = READERS[command], spec.parent / "out"
    with pytest.raises(LatentflowError, match="there is no run in .*out'.*run the spec") as caught:
        read(spec)
    assert "check the path" not in str(caught.value)
    out.mkdir()
    (out / "run.lock").touch()
    with pytest.raises(LatentflowError, match="first run in .*out' has not ended.*run the spec"):
        read(spec)


@pytest.mark.parametrize("read", [verify, collect, describe])
def test_the_folder_of_such_a_run_is_told_from_other_folders(spec: Path, read) -> None:
    out = spec.parent / "out"
    out.mkdir()
    with pytest.raises(LatentflowError, match="check the path|it is empty"):
        read(out)
    (out / "run.lock").touch()
    with pytest.raises(LatentflowError, match="first run in .*out' has not ended"):
        read(out)


def test_a_damaged_run_file_is_a_problem_with_a_cure(spec: Path) -> None:
    (spec.parent / "out").mkdir()
    (spec.parent / "out" / "run.json").write_text("{")
    found = verify(spec)
    assert [(p.where, p.cure) for p in found.problems] == [
        ("run.json", "run the specification again")
    ]


def test_rows_without_a_code_are_told_with_their_cure(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "out", tmp_path / "out")
    spec = load_spec(tiny / "spec.yaml").model_copy(update={"output": str(tmp_path / "out")})
    run = FinishedRun.of(spec)
    for row, why in ((3, "choose another row"), (70, "not in the dataset any more")):
        with pytest.raises(DataError, match=f"row {row} .*{why}"):
            run.codes([row])
    store = LatentStore.open(run.store.path, "r+")
    uncommit(store, BlockCheck("invert", 1, damaged=["status/invert/c/1"]))
    run = FinishedRun.of(spec)
    assert run.codes([0]).shape[0] == 1
    with pytest.raises(DataError, match="row 80 .*not inverted yet; run the specification again"):
        run.codes([80])


def test_several_strips_are_not_written_to_one_file(tiny: Path, tmp_path: Path) -> None:
    spec = load_spec(tiny / "spec.yaml")
    (tmp_path / "file").touch()
    for name in ("strip.png", "strip.PNG", "file"):
        with pytest.raises(UsageError, match=f"2 strips, .*{name}' is a file: name a folder"):
            next(edit_run(spec, ["pca.pc000", "pca.pc001"], tmp_path / name, [0], [1.0]))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("command", "told"), [("run", True), ("index", False)])
def test_a_run_ends_with_the_path_of_its_report(spec: Path, monkeypatch, command, told) -> None:
    done = pipelines.runs.run.RunResult(3, spec.parent / "out")
    monkeypatch.setattr(pipelines.runs.run, "run", lambda *given, **options: done)
    shown = CliRunner().invoke(app, [command, str(spec)])
    assert shown.exit_code == 3
    assert (f"report: {done.path / 'report.html'}" in shown.stderr) is told


def test_what_an_edit_keeps_is_projected_out_and_told(tiny: Path, tmp_path: Path) -> None:
    spec = load_spec(tiny / "spec.yaml")
    run = FinishedRun.of(spec)
    name, other = next(
        (a.name, b.name)
        for a in run.directions
        for b in run.directions
        if a.space == b.space and 0.1 < abs(float((a.vector * b.vector).sum())) < 0.99
    )
    drawn = CliRunner().invoke(
        app,
        ["edit", str(tiny / "spec.yaml"), "-d", name, "--keep", other, "--rows", "0"]
        + ["--out", str(tmp_path / "strip.png")],
    )
    assert drawn.exit_code == 0, drawn.output
    with Image.open(tmp_path / "strip.png") as picture:
        told = json.loads(picture.text["latentflow"])
    cosine = float((run.direction(name).vector * run.direction(other).vector).sum())
    assert told["keep"] == [other]
    assert told["left"] == pytest.approx((1 - cosine**2) ** 0.5, rel=1e-9)
    with pytest.raises(DataError, match="nothing is left"):
        list(edit_run(spec, [name], tmp_path / "none.png", [0], [1.0], keep=[name]))


def test_a_picture_weight_is_for_shape_directions_in_all_layers(tiny, tmp_path) -> None:
    spec = load_spec(tiny / "spec.yaml")
    named = FinishedRun.of(spec).directions.names()
    name, shape = named[0], next(n for n in named if n.startswith("nrsfm."))
    for names, options in (([name], {}), ([shape], {"layers": [0]}), ([shape], {"keep": [name]})):
        with pytest.raises(UsageError, match="--picture-weight is given"):
            given = (spec, names, tmp_path / "none.png", [0], [1.0])
            list(edit_run(*given, picture_weight=0.5, **options))
    assert not (tmp_path / "none.png").exists()


def test_an_edit_keeps_directions_that_stand_for_every_layer(tiny: Path) -> None:
    spec = load_spec(tiny / "spec.yaml")
    facts, fp = generators.load(spec.generator).facts, FinishedRun.of(spec).directions.generator_fp
    rng, made = np.random.default_rng(0), {"generator_fp": fp}
    own, other = (
        unit_direction(name, space, rng.normal(size=facts.space(space).shape), method="svm", sd=2.0,
                       provenance=made)
        for name, space in (("smile", "w_plus"), ("age", "w"))
    )  # fmt: skip
    found = _keeping(facts, own, [other], None)
    assert abs((found.vector * other.vector).sum()) < 1e-12  # over all layers together
    turned = _keeping(facts, other, [own], None)
    assert turned.space == "w_plus" and abs((turned.vector * own.vector).sum()) < 1e-12
