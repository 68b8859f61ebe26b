"""A whole run folder that an earlier release wrote is read, and nothing in it is made again.

``golden/run_v1`` was written in /run_v1 by commit 316fff8: `tiny_run.make_tiny` with 66 pictures
and annotators of 16 x 16 pixels, row 3 quarantined, row 50 removed, all analyses, evaluation and
report; without ``hashes.sqlite``, which knows files by their inodes.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from places import GOLDEN
from tiny_run import run_tiny

from pipelines.downstream.finished_run import FinishedRun
from pipelines.engine.saved_sums import sealed
from pipelines.folder.checksums import noted
from pipelines.folder.run_folder import RunFolder
from pipelines.runs.plan import CURRENT, STALE, plan_stages
from pipelines.upkeep.verify import verify
from schemas.directions.direction_set import DirectionSet
from schemas.errors import StoreError
from schemas.index import REMOVED
from schemas.spec import load_spec
from schemas.store.reasons import Status

STORE = "golden-7ed340d87eca"
ANNOTATIONS = ("marks", "points", "angle")
ANALYSES = ("pca", "mean_difference", "svm", "hosvd", "nrsfm", "sefa", "jacobian", "s_space")
DIRECTIONS = [
    "hosvd.expression-glad", "hosvd.expression-sad", "jacobian.000", "jacobian.001",
    "jacobian.002", "jacobian.003", "linear.light", "linear.pitch", "linear.roll", "linear.yaw",
    "mean.expression-glad", "mean.expression-sad", "nrsfm.alpha0", "nrsfm.pitch", "nrsfm.roll",
    "nrsfm.yaw", "pca.000", "sefa.000", "svm.glasses", "svm.smile",
]  # fmt: skip
SUMS = ["CellSums", "ChannelMoments", "CoreSlabs", "ModeGrams", "Moments", "Sums"]
"""Kinds of statistics that the run saved."""
ITERATED = {"nrsfm", "svm"}
"""Analyses whose passes depend on those before; no release saves them."""


@pytest.fixture
def run(tmp_path):
    """A copy of the run, its files as new as after a checkout."""
    return shutil.copytree(GOLDEN / "run_v1", tmp_path / "run_v1", copy_function=shutil.copyfile)


def states(run: Path) -> dict[str, tuple[str, list[str]]]:
    """Every stage that the plan does not call current, and why."""
    stages = plan_stages(load_spec(run / "spec.yaml"))
    parts = [part for stage in stages for part in stage]
    assert [s.name for s in stages] == [
        "index", "invert", "annotate", "analyse", "evaluate", "report",
    ]  # fmt: skip
    names = {part.name for part in parts}
    assert names >= {*ANALYSES, *ANNOTATIONS, *(f"{name}@render" for name in ANNOTATIONS)}
    return {part.name: (part.state, part.causes) for part in parts if part.state != CURRENT}


def test_plan_calls_every_stage_current(run):
    assert states(run) == {}


def test_plan_tells_what_evaluating_directions_will_cost(run):
    spec = load_spec(run / "spec.yaml")
    record = json.loads((run / "out" / "run.json").read_text())
    for stage in record["stages"]:
        if stage["name"] == "evaluate":
            stage |= {"rows": 2, "skipped": False, "seconds": 60.0, "detail": {"pictures": 10}}
    with noted(run / "out", "run.json"):
        (run / "out" / "run.json").write_text(json.dumps(record))

    def told(**sections):
        changed = {k: getattr(spec, k).model_copy(update=v) for k, v in sections.items()}
        stages = {s.name: s for s in plan_stages(spec.model_copy(update=changed))}
        return stages["evaluate"].state, " ".join(stages["evaluate"].notes)

    assert told() == (CURRENT, "")
    state, note = told(evaluate={"samples": 3, "strengths": [-1.0, 0.0, 1.0, 2.0]})
    n = 3 * (1 + 3 * len(DIRECTIONS))
    cost = f"3 strengths of 3 samples, about {n * 6 / 60:.1f} min at the last run's rate"
    assert state == STALE
    fewer = "; 'evaluate.samples' makes them fewer"
    assert (
        note == f"{n} pictures to draw and measure, {len(DIRECTIONS)} directions at {cost}{fewer}"
    )
    state, note = told(evaluate={"samples": 3}, invert={"crop": "stretch"})
    assert state == STALE
    assert note.startswith(
        "6 pictures to draw and measure for each direction there will be "
        f"({3 * (1 + 2 * len(DIRECTIONS))} for last time's {len(DIRECTIONS)}), at 2 "
        "strengths of 3 samples"
    )
    assert note.endswith(fewer)


def test_verify_finds_the_run_whole(run):
    found = verify(run / "spec.yaml")
    assert found.problems == []
    assert {stage.stage for stage in found.stages} == {
        "invert", *ANNOTATIONS, *(f"{name}@render" for name in ANNOTATIONS),
    }  # fmt: skip
    assert all(stage.good == stage.blocks == 2 for stage in found.stages)


def test_everything_in_it_is_read(run):
    with RunFolder.open(run / "out") as folder:
        assert set(folder.absent) == {"summary"}  # of the demonstration alone
    read = FinishedRun.of(load_spec(run / "spec.yaml"))
    assert Path(read.store.path).name == STORE
    assert read.index.uris == [f"{n:04}.png" for n in range(66)]
    assert np.flatnonzero(np.asarray(read.index.states) == REMOVED).tolist() == [50]
    assert np.flatnonzero(read.store.status("invert") != Status.OK).tolist() == [3, 50]
    assert sorted(d.name for d in read.directions) == DIRECTIONS
    assert set(read.directions.model_names()) == set(ANALYSES)
    assert read.codes([0, 65]).shape == (2, 6, 8)
    assert [len(read.blocks().read(b)[0]) for b in range(2)] == [62, 2]
    with pytest.raises(StoreError, match=r"arrays \['depth'\] are not in the store: use one of"):
        read.blocks(["depth"])


def test_a_run_makes_nothing_again(run):
    before = {p.name: p.read_bytes() for p in (run / "out").iterdir() if p.is_file()}
    result = run_tiny(run / "spec.yaml", "report")
    assert result.exit_code == 3  # row 3 was and stays quarantined
    record = json.loads((run / "out" / "run.json").read_text())
    made = {stage["name"]: stage["skipped"] for stage in record["stages"]}
    assert made["invert"] and made["annotate"] and made["analyse"] and made["evaluate"]
    for name in ("report.html", "evaluation.npz", "evaluation.json", "annotations.parquet"):
        assert (run / "out" / name).read_bytes() == before[name], name


def test_saved_sums_are_found_by_their_names(run):
    """Analyses that are made again read no block whose sum is there, and give the same numbers.

    That release wrote sums without a digest, which are not used: here they are given one.
    """
    folder = run / "out"
    sums, kinds = sorted((folder / "statistics").iterdir()), set()
    for path in sums:
        with np.load(path) as file:
            kinds.add(str(file["kind"]))
        path.write_bytes(sealed(path.read_bytes()))
    assert sorted(kinds) == SUMS
    old = DirectionSet.load(folder / "directions" / STORE)
    shutil.move(folder / "directions", run / "old")
    assert run_tiny(run / "spec.yaml").exit_code == 3
    record = json.loads((folder / "run.json").read_text())
    (stage,) = [stage for stage in record["stages"] if stage["name"] == "analyse"]
    assert {name for name, facts in stage["detail"].items() if facts["passes"]} == ITERATED
    assert {name: facts["blocks_read"] for name, facts in stage["detail"].items()} == dict.fromkeys(
        ANALYSES, 0
    )
    assert sorted((folder / "statistics").iterdir()) == sums
    new = DirectionSet.load(folder / "directions" / STORE)
    assert [d.name for d in new] == [d.name for d in old]
    for direction in old:
        again = new[direction.name]
        np.testing.assert_allclose(again.vector, direction.vector, atol=1e-5, err_msg=again.name)
        np.testing.assert_allclose(again.sd, direction.sd, rtol=1e-5, err_msg=again.name)
    made_from = [{n: s.model_facts(n)["fingerprint"] for n in ANALYSES} for s in (new, old)]
    assert made_from[0] == made_from[1]


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("part", "where"),
    [
        (f"stores/{STORE}/latents/w_plus/c/1/0/0", "block 1 of stage 'invert'"),
        (f"directions/{STORE}/directions/svm.smile/c/0/0", "direction 'svm.smile'"),
        ("index.parquet", "index"),
    ],
)
def test_a_changed_byte_is_noticed(run, part, where):
    flip(run / "out" / part)
    (problem,) = verify(run / "spec.yaml").problems
    assert problem.where.startswith(where)


def test_a_changed_picture_makes_its_row_stale(run):
    shutil.copyfile(run / "images" / "0001.png", run / "images" / "0000.png")
    found = states(run)
    assert found["index"] == ("stale", ["rows 66 added", "rows 0 removed"])
    assert found["invert"] == ("stale", ["rows 66 added", "rows 0 removed"])
