"""Rows that were not measured: every stage leaves them out and says how many, or says the cure.

One table of kinds of unmeasured rows and stages of a run. No warning is allowed anywhere (nothing
divides by zero), and no file holds a NaN.
"""

import io
import json
import math
import shutil
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from in_process import InProcess
from rich.console import Console
from tiny_run import (
    factors_of,
    make_tiny,
    run_tiny,
    spec_of,
    write_factors,
    write_spec,
)

import pipelines.evaluation.meter
from pipelines.analyses.inputs import hold_out
from pipelines.compare.diff import diff, write_diff
from pipelines.compare.transfer import transfer_directions
from pipelines.compare.two_runs import ComparedRun
from pipelines.downstream.export import row_exports
from pipelines.downstream.finished_run import FinishedRun, export_run
from pipelines.runs.analyse import fit_analysis
from schemas.errors import DataError, LatentflowError, UsageError
from schemas.index import DatasetIndex
from schemas.spec import load_spec
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Reason, Status

N = 70  # a block of 64 rows and one of 6
PERSONS = np.array([factors_of(i)[0] for i in range(N)])
SAD = np.array([factors_of(i)[1] == "sad" for i in range(N)])
ALL, EVEN, NONE = np.ones(N, bool), np.arange(N) % 2 == 0, np.zeros(N, bool)
MARKS, FACES = ("marks",), ("marks", "points", "angle")

#: Kind -> (annotators, or "invert"; rows that these could not measure; why)
KINDS = {
    "a few scores are NaN": (MARKS, np.arange(N) % 7 == 3, Reason.NOT_FINITE),
    "every second picture has no face": (FACES, EVEN, Reason.NO_FACE),
    "one picture has a face": (FACES, np.arange(N) != 4, Reason.NO_FACE),
    "a whole block has no face": (FACES, np.arange(N) < 64, Reason.NO_FACE),
    "an annotator measured nothing": (MARKS, ALL, Reason.NO_FACE),
    "no annotator measured anything": (FACES, ALL, Reason.NO_FACE),
    "one attribute was never measured": (MARKS, NONE, None),
    "a continuous factor is missing": (MARKS, NONE, None),
    "all rows of a level are missing": (("invert",), SAD, Reason.CORRUPT),
    "the held-out rows were not measured": (MARKS, None, Reason.NO_FACE),
    "no row was inverted": (("invert",), ALL, Reason.CORRUPT),
}
#: (kind, stage) -> the clear error; everything else works
ERRORS = {
    ("one picture has a face", "nrsfm"): "landmarks 'points'.*1 rows.*annotate with another model",
    ("one picture has a face", "s_space"): "too few rows.*leave 's_space' out",
    ("an annotator measured nothing", "s_space"): "too few rows.*leave 's_space' out",
    ("no annotator measured anything", "nrsfm"): "0 rows.*annotate with another model",
    ("no annotator measured anything", "s_space"): "too few rows.*leave 's_space' out",
    (
        "a continuous factor is missing",
        "mean_difference",
    ): "'light', which has no value in any row: leave it",
    ("all rows of a level are missing", "hosvd"): "0 of 5 levels of 'person'.*choose fewer levels",
    ("an annotator measured nothing", "interfacegan_latents"): "'marks': 0.*another format",
    ("no annotator measured anything", "interfacegan_latents"): "another format",
}
POINTS = {"landmarks": "points", "n_shapes": 1}
ANALYSES = {
    "pca": {"n_components": 3, "n_directions": 1},
    "mean_difference": {"factors": ["expression", "light", "smile", "glasses"]},
    "svm": {"threshold": 0.01, "max_passes": 5, "tolerance": 0.01},
    "hosvd": {"modes": ["person", "expression"], "missing": "drop_person"},
    "nrsfm": {**POINTS, "regressor": 0.1},
    "nrsfm robust": {**POINTS, "robust": True},
    "nrsfm temporal": {**POINTS, "temporal": True},
    "jacobian": {"n_components": 1, "samples": 1},
    "s_space": {"threshold": 0.01},
}
WHOLE_RUN = ("pca", "mean_difference", "svm")
"""Those that are run, evaluated and reported; the others are solved only."""
NO_CODE = "no row was inverted"
READS = {
    "mean_difference": ("marks", "angle"),
    "svm": MARKS,
    "s_space": MARKS,
    "nrsfm": ("points",),
}
SOLVED = [
    (kind, analysis)
    for kind, (stages, _, _) in KINDS.items()
    for analysis in ANALYSES
    if kind != NO_CODE and {"invert", *READS.get(analysis.split()[0], ())} & set(stages)
]
ONLY_SOLVED = (
    "one picture has a face",
    "a whole block has no face",
    "a continuous factor is missing",
    "the held-out rows were not measured",
)
"""Kinds that tell apart nothing behind the analyses."""
COMPARED = ("every second picture has no face", "an annotator measured nothing")


def spec_for(root):
    named = {name: ANALYSES[name] for name in WHOLE_RUN}
    evaluate = {"samples": 4, "strengths": [-1, 1], "holdout": {"fraction": 0.4}}
    return spec_of(root, analyse=named, evaluate=evaluate)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """A tiny run up to its annotations."""
    root = tmp_path_factory.mktemp("unmeasured") / "run"
    make_tiny(root, N)
    write_spec(root, spec_for(root))
    run_tiny(root / "spec.yaml", "annotate")
    return root


def store_of(root):
    return LatentStore.open(next((root / "out" / "stores").glob("tiny-*")), "r+")


def set_aside(root, kind):
    """Make the store what it would be had these rows not been measured."""
    chosen, rows, reason = KINDS[kind]
    store, index = store_of(root), DatasetIndex.load(root / "out" / "index.parquet")
    if rows is None:
        rows = hold_out(index, "person", 0.4, 0)
    for stage in store.stages():
        if stage.removesuffix("@render") not in chosen:
            continue
        for block in range(store.n_blocks):
            part = store.block_slice(block)
            arrays = {name: store.array(name)[part] for name in store.arrays(stage)}
            if kind == "one attribute was never measured":
                arrays["annotations/" + stage][:, 1] = np.nan
            status = np.where(rows[part], Status.QUARANTINED, Status.OK).astype("u1")
            why = np.where(rows[part], reason or 0, 0).astype("u1")
            store.write_block(stage, block, arrays, status, why, store.commit_of(stage, block))
    if kind == "a continuous factor is missing":
        table = {f"{i:04}.png": [*factors_of(i)[:3], ""] for i in range(N)}
        write_factors(root, table)


def predicting(kind):
    """Annotators that cannot measure edited pictures either."""
    measure = pipelines.evaluation.meter.annotate_batch

    def some(annotator, images):
        found = measure(annotator, images)
        blind = "face" in kind or "measured" in kind and "held-out" not in kind
        if not blind or annotator.name not in KINDS[kind][0]:
            return found
        if kind == "one attribute was never measured":
            found.values[:, 1] = np.nan
            return found
        seen = images.reshape(len(images), -1).sum(axis=1, dtype=np.int64) % 3 > 0
        found.values[~(seen & (KINDS[kind][1] is EVEN))] = np.nan
        return found

    return patch.object(pipelines.evaluation.meter, "annotate_batch", some)


@pytest.fixture(scope="module")
def stores(annotated, tmp_path_factory):
    """Kind -> folder of a run of which these rows were not measured, up to its annotations."""
    made = {}

    def store(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("kind") / "run"
            shutil.copytree(annotated, made[kind], copy_function=shutil.copy2)
            set_aside(made[kind], kind)
            if kind == "a continuous factor is missing":
                run_tiny(made[kind] / "spec.yaml", "index")
        return made[kind]

    return store


@pytest.fixture(scope="module")
def worlds(stores):
    """Kind -> (folder of the run brought to its end, exit code or error, the console)."""
    made = {}

    def world(kind):
        if kind not in made:
            root = stores(kind)
            write_spec(root, spec_for(root))
            console = Console(file=io.StringIO(), width=500)
            with predicting(kind):
                try:
                    code = run_tiny(root / "spec.yaml", "report", console=console).exit_code
                except LatentflowError as e:
                    code = e
            made[kind] = root, code, console.file.getvalue()
        return made[kind]

    return world


each_kind = pytest.mark.parametrize("kind", [k for k in KINDS if k not in ONLY_SOLVED])


def finite(value, where="$"):
    """No NaN, nor what `json` would write for one."""
    if isinstance(value, float):
        assert math.isfinite(value), where
    for key, part in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value if isinstance(value, list) else ())
    ):
        finite(part, f"{where}.{key}")


@each_kind
def test_a_run_ends_and_its_exit_code_tells(worlds, kind):
    root, code, console = worlds(kind)
    stages, rows, reason = KINDS[kind]
    if kind == NO_CODE:
        assert isinstance(code, DataError)
        assert "has a code" in str(code) and "repair or replace" in str(code)
        return
    assert code == (0 if reason is None else 3), console
    for name in ("run.json", "evaluation.json", "lineage.json", "index_report.json"):
        finite(json.loads((root / "out" / name).read_text()))
    page = (root / "out" / "report.html").read_text()
    assert ("all rows ok" in page) == (code == 0) and "nan" not in page.lower().split()
    if reason is not None and rows is not None:
        for stage in stages:
            assert (
                f"{stage}: {rows.sum()} of {N} rows quarantined: {reason.name.lower()}" in console
            )
    again = io.StringIO()
    assert run_tiny(root / "spec.yaml", "report", console=Console(file=again)).exit_code == code
    assert "up to date" in again.getvalue() and ("quarantined" in again.getvalue()) == (code == 3)


@each_kind
def test_the_table_holds_nulls(worlds, kind):
    root, _, _ = worlds(kind)
    frame = pd.read_parquet(root / "out" / "annotations.parquet")
    stages, rows, _ = KINDS[kind]
    assert len(frame) == N
    if rows is not None and "invert" not in stages:
        assert frame["marks.smile"].isna().tolist() == rows.tolist()
        assert frame["marks@render.smile"].isna().tolist() == rows.tolist()


@pytest.mark.parametrize(("kind", "analysis"), SOLVED)
def test_an_analysis_leaves_them_out(stores, kind, analysis):
    root = stores(kind)
    section = analysis.split()[0]
    both = {"svm": ANALYSES["svm"], section: ANALYSES[analysis]}  # they share a threshold
    spec = {**spec_for(root), "analyse": both}
    spec = load_spec(write_spec(root, spec))
    index, store = DatasetIndex.load(root / "out" / "index.parquet"), store_of(root)
    error = ERRORS.get((kind, section))
    if error is not None:
        with pytest.raises(LatentflowError, match=error):
            fit_analysis(section, spec, store, index, InProcess())
        return
    fitted, _ = fit_analysis(section, spec, store, index, InProcess())
    finite(fitted.facts)
    for direction in fitted.directions:
        assert np.isfinite(direction.vector).all()
        finite(direction.quality)
    names = {d.name for d in fitted.directions}
    skipped = fitted.facts.get("skipped", {})
    if kind == "an annotator measured nothing" and analysis in ("svm", "mean_difference"):
        assert {"smile", "glasses"} <= set(skipped) and not any("smile" in n for n in names)
    if kind == "one attribute was never measured" and analysis in ("svm", "mean_difference"):
        assert "glasses" in skipped and any("smile" in n for n in names)
    if kind == "all rows of a level are missing" and analysis == "mean_difference":
        assert "0 rows" in skipped["expression-sad"] and "mean.expression-glad" in names
    if kind == "the held-out rows were not measured" and analysis == "svm":
        assert fitted.facts["held_out"] == [] and "svm.smile" in names


@each_kind
def test_effects_are_of_the_samples_measured_at_both_ends(worlds, kind):
    root, code, _ = worlds(kind)
    if isinstance(code, Exception):
        return
    found = json.loads((root / "out" / "evaluation.json").read_text())
    assert found["attributes"] == ["smile", "glasses"] and found["samples"] == 4
    for effect in found["directions"]:
        assert set(effect["pairs"]) == {"smile", "glasses", "yaw", "pitch", "roll"}
        for name, change in {**effect["mean_change"], **effect["pose_change"]}.items():
            assert (change is None) == (effect["pairs"][name] == 0), (effect["name"], name)
        everything = set(effect["pairs"].values()) == {4}
        if "face" in kind or "measured" in kind and "held-out" not in kind:
            assert not everything
        else:
            assert everything


@each_kind
@pytest.mark.parametrize("export", [*row_exports(), "directions"])
def test_every_export_tells_what_it_holds(worlds, kind, export, tmp_path):
    root, code, _ = worlds(kind)
    spec = load_spec(write_spec(root, spec_for(root)))
    stages, rows, _ = KINDS[kind]
    out = tmp_path / ("out.npz" if export == "directions" else "out")
    error = ERRORS.get((kind, export))
    if kind == NO_CODE and export != "annotations":
        error = "no row of store|has no directions"
    if error is not None:
        with pytest.raises(LatentflowError, match=error):
            export_run(spec, export, out)
        return
    done = export_run(spec, export, out)
    with pytest.raises(UsageError, match="--overwrite"):
        export_run(spec, export, out)
    if export == "annotations" or rows is None or export == "directions":
        return
    missing = int(rows.sum())
    if "invert" in stages or export == "interfacegan_latents":
        assert (done.rows, done.left_out["quarantined"]) == (N - missing, missing)
    else:
        assert done.rows == N and done.not_measured.get("marks", 0) == missing


@each_kind
def test_edits_and_comparisons_go_on(worlds, kind, tmp_path):
    root, code, _ = worlds(kind)
    if isinstance(code, Exception):
        return
    spec = load_spec(write_spec(root, spec_for(root)))
    run = FinishedRun.of(spec)
    assert run.codes([0, 1]).shape[0] == 2
    if "invert" in KINDS[kind][0]:
        with pytest.raises(DataError, match="choose another row"):
            run.codes(np.flatnonzero(SAD)[:1])
    if kind not in COMPARED:
        return
    sides = ComparedRun.open(root / "out"), ComparedRun.open(root / "out")
    with predicting(kind):
        result, strips = diff(*sides, samples=8)
    write_diff(result, strips, tmp_path / "drift")
    finite(json.loads((tmp_path / "drift" / "drift.json").read_text()))
    for entry in result["directions"]:
        if entry.get("measured") and min(entry["measured"]) < 2:
            assert entry["verdict"] == "not measured" and "could be measured" in entry["reason"]
    with pytest.raises(UsageError, match="nothing is to be mapped"):
        transfer_directions(*sides, [run.directions.names()[0]])
