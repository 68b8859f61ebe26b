"""Directions mapped into another run: exact where the truth is planted, marked, kept, refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from drift_fixture import TwoRuns, two_runs

from pipelines.cli import main
from pipelines.compare.transfer import transfer_directions
from pipelines.compare.two_runs import ComparedRun
from pipelines.downstream.finished_run import FinishedRun
from pipelines.runs.analyse import analyse
from schemas.directions.direction_set import DirectionSet
from schemas.errors import DataError, LockedError, UsageError
from schemas.index import DatasetIndex, NewRow
from schemas.spec import load_spec
from schemas.store.lock import StoreLock
from tests.in_process import InProcess


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> TwoRuns:
    return two_runs(tmp_path_factory.mktemp("transfer"))


@pytest.fixture
def runs(base, tmp_path) -> TwoRuns:
    found = {}
    for name in ("old", "new"):
        shutil.copytree(getattr(base, name).parent, tmp_path / name)
        found[name] = tmp_path / name / "run.yaml"
    return TwoRuns(found["old"], found["new"], base.turn, base.codes, base.order)


def sides(runs):
    return ComparedRun.open(runs.old), ComparedRun.open(runs.new)


def test_a_transferred_direction_is_the_planted_one_and_says_where_it_is_from(runs):
    old, new = sides(runs)
    (made,) = transfer_directions(old, new, ["svm.smile"])
    found = DirectionSet.load(new.directions.path)["transferred.svm.smile"]
    np.testing.assert_array_equal(found.vector, made.vector)
    planted = new.directions["svm.smile"]
    assert abs((found.vector * planted.vector).sum()) == pytest.approx(1.0, abs=1e-6)
    codes = (runs.codes[runs.order] @ runs.turn.T.astype("f4"))[:-1].astype("f8")
    along = np.einsum("nlc,lc->n", codes, found.vector)
    assert found.sd == pytest.approx(along.std(ddof=1), rel=1e-5)
    assert found.method == "transferred" and found.provenance["target"] == "smile"
    assert found.provenance["generator_fp"] == new.directions.generator_fp
    origin = found.provenance["transferred_from"]
    assert origin["generator_fp"] == old.directions.generator_fp
    assert (origin["name"], origin["store_fp"]) == ("svm.smile", old.store.store_fp)
    assert found.quality["map"] == "rotation" and found.quality["map_error"] < 1e-6
    assert found.quality["correlation"] == pytest.approx(1.0, abs=1e-6)
    assert found.quality["images_fitted"] > found.quality["images_held_out"] > 2


def test_the_next_run_keeps_it_and_edits_with_it(runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["transfer", str(runs.old), str(runs.new_run), "-d", "svm.smile", "-d", "pca.000"])
    shown = capsys.readouterr().err
    assert end.value.code == 0 and "transferred.pca.000: by rotation, map error" in shown
    spec = load_spec(runs.new)
    finished = FinishedRun.of(spec)
    path = runs.new_run / "directions" / "new-0123456789ab"
    fp = finished.directions.generator_fp
    analyse(spec, finished.store, finished.index, fp, path, InProcess())
    names = DirectionSet.load(path).names()
    assert names[-2:] == ["transferred.svm.smile", "transferred.pca.000"]
    assert "sefa.000" in names and "svm.smile" not in names
    strip = tmp_path / "strip.png"
    with pytest.raises(SystemExit) as end:
        main(
            [
                "edit",
                str(runs.new),
                "-d",
                "transferred.svm.smile",
                "--rows",
                "0",
                "--out",
                str(strip),
            ]
        )
    assert end.value.code == 0 and strip.read_bytes().startswith(b"\x89PNG")
    transfer_directions(*sides(runs), ["svm.smile"])  # again: replaced, not doubled
    assert DirectionSet.load(path).names() == names


def test_what_cannot_be_transferred_is_refused(runs, base, tmp_path):
    old, new = sides(runs)
    before = DirectionSet.load(new.directions.path).names()
    with pytest.raises(UsageError, match="no direction 'svm.frown'"):
        transfer_directions(old, new, ["svm.frown"])
    with pytest.raises(UsageError, match="nothing is to be mapped"):
        transfer_directions(old, old, ["svm.smile"])
    with StoreLock(new.path / "run.lock").acquire(), pytest.raises(LockedError):
        transfer_directions(old, new, ["svm.smile"])
    (tmp_path / "noise").mkdir()
    other = two_runs(tmp_path / "noise", related=False)
    with pytest.raises(DataError, match="no linear map .* compute the directions again"):
        transfer_directions(*sides(other), ["svm.smile"])
    n = new.index.n_rows
    DatasetIndex.empty().append([NewRow(f"{i + 900:064x}", f"{i}") for i in range(n)]).save(
        runs.new_run / "index.parquet"
    )
    with pytest.raises(UsageError, match="0 images are in both runs.*index the same images"):
        transfer_directions(*sides(runs), ["svm.smile"])
    assert DirectionSet.load(new.directions.path).names() == before
