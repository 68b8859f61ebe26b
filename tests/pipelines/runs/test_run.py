"""The whole path as a user runs it: files, exit codes, resumption, laziness."""

import copy as copies
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import answered, latentflow
from digests import tree_digest
from tiny_run import in_process

import generators
from pipelines.downstream.finished_run import FinishedRun
from pipelines.evaluation.files import (
    inputs_in_effect,
    is_finished,
    known_effects,
    write_evaluation,
)
from pipelines.evaluation.meter import Meter
from pipelines.runs.run import run
from schemas.directions.direction_set import DirectionSet
from schemas.errors import LockedError, SpecError
from schemas.fingerprint import digest
from schemas.spec import load_spec, parse_spec
from schemas.store.latent_store import LatentStore
from schemas.store.lock import run_lock
from transforms.images.preprocess import to_uint8


def facts(root: Path) -> dict:
    return json.loads((root / "out" / "run.json").read_text())


@pytest.fixture
def copy(small_run: Path, tmp_path: Path) -> Path:
    """A finished run that the test may change."""
    shutil.copytree(small_run, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_run_leaves_every_part_behind(small_run):
    run_facts = facts(small_run)
    out = small_run / "out"
    assert [s["name"] for s in run_facts["stages"]] == [
        "index", "invert", "annotate", "analyse", "evaluate", "report",
    ]  # fmt: skip
    assert run_facts["counts"]["ok"] == 150 and run_facts["exit_code"] == 0
    store = LatentStore.open(out / run_facts["store"])
    assert np.isfinite(np.asarray(store.array("latents/w_plus")[:])).all()
    assert {"attributes", "attributes@render", "landmarks@render", "pose"} <= {
        s.removeprefix("annotate:") for s in store.stages()
    }
    table = pd.read_parquet(out / "annotations.parquet")
    assert len(table) == 150 and "attributes.happiness" in table and "expression" in table
    assert (out / "report.html").stat().st_size > 50_000
    assert (out / "report.html").read_text().count("<script src") == 0


def test_directions_have_provenance_and_effects(small_run):
    out = small_run / "out"
    directions = DirectionSet.load(out / facts(small_run)["directions"])
    names = set(directions.names())
    assert {"mean.happiness", "mean.glasses", "linear.yaw", "pca.000"} <= names
    assert {"hosvd.happiness", "hosvd.view-right"} <= names
    assert directions.model_names() == ["hosvd", "mean_difference", "nrsfm", "pca", "svm"]
    for direction in directions:
        assert direction.sd > 0 and len(direction.provenance["fingerprint"]) == 64
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert {d["name"] for d in evaluation["directions"]} == names
    yaw = next(d for d in evaluation["directions"] if d["name"] == "linear.yaw")
    assert yaw["pose"]["yaw"][-1] > yaw["pose"]["yaw"][0]


def test_an_evaluation_notes_which_rows_its_pictures_show(small_run):
    run = FinishedRun.of(load_spec(small_run / "small.yaml"))
    evaluation = json.loads((small_run / "out" / "evaluation.json").read_text())
    rows, unmoved = evaluation["pictured_rows"], evaluation["strengths"].index(0.0)
    with np.load(small_run / "out" / "evaluation.npz") as found:
        strip, pictures = found["strips/pca.000"][:, unmoved], found["samples/reconstruction"]
    assert len(rows["strips"]) == len(strip) and len(rows["samples"]) == len(pictures)
    generator = generators.load(run.spec.generator)
    for shown, of in ((strip, rows["strips"]), (pictures, rows["samples"])):
        with torch.no_grad():
            drawn = generator.synthesise(torch.from_numpy(run.codes(of).astype("f4")))
        assert np.abs(to_uint8(drawn.numpy()).astype(int) - shown).max() <= 1  # other batches


def test_the_store_s_sd_is_that_of_the_projections(small_run):
    out = small_run / "out"
    directions = DirectionSet.load(out / facts(small_run)["directions"])
    codes = np.asarray(
        LatentStore.open(out / facts(small_run)["store"]).array("latents/w_plus")[:], np.float64
    )
    for name in ("mean.surprise", "pca.000", "hosvd.anger"):
        along = np.einsum("nlc,lc->n", codes, directions[name].vector)
        assert directions[name].sd == pytest.approx(along.std(ddof=1), rel=1e-5)


def test_mean_differences_are_those_of_the_codes(small_run):
    out = small_run / "out"
    table = pd.read_parquet(out / "annotations.parquet")
    codes = np.asarray(
        LatentStore.open(out / facts(small_run)["store"]).array("latents/w_plus")[:], np.float64
    )
    happy, neutral = (codes[(table.expression == e).to_numpy()] for e in ("happiness", "neutral"))
    wanted = happy.mean(axis=0) - neutral.mean(axis=0)
    found = DirectionSet.load(out / facts(small_run)["directions"])["mean.happiness"]
    assert np.allclose(found.vector, wanted / np.linalg.norm(wanted), atol=1e-6)


def test_running_again_does_nothing_and_loads_nothing_heavy(copy):
    before = tree_digest(copy / "out" / "stores")
    code = (
        "import sys; from pipelines.cli import main\n"
        "try: main(['run', sys.argv[1]])\n"
        "except SystemExit as e: status = e.code\n"
        "heavy = {'torch', 'ray', 'apache_beam', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "print(status, sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(copy / "small.yaml")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "0 []", done.stdout + done.stderr
    assert all(s["skipped"] for s in facts(copy)["stages"])
    assert tree_digest(copy / "out" / "stores") == before


def test_a_changed_parameter_recomputes_its_analysis_only(copy):
    spec = copy / "small.yaml"
    spec.write_text(spec.read_text().replace("n_components: 16", "n_components: 12"))
    assert run(load_spec(spec), until="analyse").exit_code == 0
    detail = facts(copy)["stages"][-1]["detail"]
    assert {name for name, d in detail.items() if not d["skipped"]} == {"pca"}
    arrays, _ = DirectionSet.load(copy / "out" / facts(copy)["directions"]).load_model("pca")
    assert arrays["components"].shape == (12, 640)


def test_a_half_written_direction_set_is_made_again(copy):
    path = copy / "out" / facts(copy)["directions"]
    attrs = json.loads((path / "zarr.json").read_text())
    attrs["attributes"]["complete"] = False
    (path / "zarr.json").write_text(json.dumps(attrs))
    result = run(load_spec(copy / "small.yaml"), until="analyse")
    assert result.exit_code == 0
    assert "mean.happiness" in DirectionSet.load(path)


def test_bad_images_are_quarantined_and_the_exit_code_tells(copy):
    images = sorted((copy / "faces" / "images").iterdir())
    images[3].write_bytes(b"")
    images[70].write_bytes(images[70].read_bytes()[:200])
    with in_process():
        done = answered("invert", copy / "small.yaml")
    assert done.returncode == 3, done.stderr
    counts = facts(copy)["counts"]
    assert counts["quarantined"] == 2 and counts["removed"] == 2
    assert counts["reasons"] == {"empty": 1, "truncated": 1}


def test_too_many_bad_images_stop_before_the_analyses(copy):
    for image in sorted((copy / "faces" / "images").iterdir())[:30]:
        image.write_bytes(b"no image")
    with in_process():
        done = answered("run", copy / "small.yaml")
    assert done.returncode == 4 and "max_quarantined" in done.stderr
    assert facts(copy)["exit_code"] == 4
    assert [s["name"] for s in facts(copy)["stages"]] == ["index", "invert", "annotate"]


def evaluation_of(root: Path) -> tuple[dict, dict]:
    with np.load(root / "out" / "evaluation.npz") as pictures:
        return json.loads((root / "out" / "evaluation.json").read_text()), dict(pictures)


def test_a_killed_evaluation_goes_on_with_what_it_had_measured(copy, monkeypatch):
    text = (copy / "small.yaml").read_text().replace("samples: 12", "samples: 3")
    (copy / "small.yaml").write_text(text)
    spec = load_spec(copy / "small.yaml")
    for name in ("evaluation.json", "evaluation.npz"):
        (copy / "out" / name).unlink()
    run(spec, until="evaluate")  # in this process: threads change the rounding
    found, pictures = evaluation_of(copy)
    for name in ("evaluation.json", "evaluation.npz"):
        (copy / "out" / name).unlink()
    measure = Meter.edit
    calls = []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(Meter, "edit", killed)
    with pytest.raises(KeyboardInterrupt):
        run(spec, until="evaluate")
    assert not (copy / "out" / "evaluation.json").exists()
    monkeypatch.setattr(Meter, "edit", lambda *given: calls.append(given) or measure(*given))
    assert run(spec, until="evaluate").exit_code == 0
    assert len(calls) == 6 - 1 + 1 + len(found["directions"]) - 4  # the one that was killed, again
    again, drawn = evaluation_of(copy)
    assert again == found and drawn.keys() == pictures.keys()
    for name in pictures:
        np.testing.assert_array_equal(drawn[name], pictures[name])
    assert not (copy / "out" / "evaluation.partial").exists()


def test_directions_measured_in_another_way_are_not_taken_over(tmp_path):
    inputs = {"evaluate": {"samples": 12}, "directions": {"a": "1", "b": "2"}, "models": {}}
    found = {"directions": [{"name": name} for name in "ab"]}
    strips = {f"strips/{name}": np.zeros((1, 2), np.uint8) for name in "ab"}
    write_evaluation(tmp_path, found, strips, inputs, "f")
    assert known_effects(tmp_path, inputs).keys() == {"a", "b"}
    refitted = {**inputs, "directions": {"a": "1", "b": "3", "c": "4"}, "models": {"pca": "5"}}
    assert known_effects(tmp_path, refitted).keys() == {"a"}
    assert known_effects(tmp_path, {**inputs, "evaluate": {"samples": 13}}) == {}
    part = tmp_path / "evaluation.npz"
    part.write_bytes(part.read_bytes()[:-40])
    assert known_effects(tmp_path, inputs) == {}


def test_an_evaluation_is_known_by_what_changes_a_number(tmp_path):
    spec = parse_spec("name: a\ndataset: {path: .}\nannotate: [{name: m, model: m}]", "/")
    sections = spec.model_dump(mode="json")
    plain = {key: sections[key] for key in ("evaluate", "report", "annotate")}
    plain |= {"seed": 0, "directions": {}, "models": {}}
    assert inputs_in_effect(plain) == plain, "those of 0.1.0 with defaults keep their fingerprint"
    held = copies.deepcopy(plain)
    held["report"]["title"], held["annotate"][0]["batch_size"] = "Another", 8
    held["evaluate"] |= {"strengths": [2.0, -2.0, 0.0, 1.0, -1.0], "truncation_psi": 0.5, "seed": 0}
    assert inputs_in_effect(held) == plain
    write_evaluation(tmp_path, {"directions": []}, {}, held, digest(held))
    assert is_finished(tmp_path, plain)
    for section, changed in (
        ("evaluate", {"strengths": [-1.0, 1.0]}),
        ("evaluate", {"samples": 3}),
        ("evaluate", {"holdout": {"factor": "person", "fraction": 0.1}}),
        ("report", {"samples": 3}),
    ):
        other = inputs_in_effect({**plain, section: plain[section] | changed})
        assert not is_finished(tmp_path, other), changed
    prior = {**plain, "evaluate": plain["evaluate"] | {"source": "prior", "truncation_psi": 0.5}}
    assert inputs_in_effect(prior) == prior
    other = {
        **prior,
        "evaluate": prior["evaluate"] | {"holdout": {"factor": None, "fraction": 0.5}},
    }
    assert inputs_in_effect(other) == prior
    assert not is_finished(tmp_path / "nowhere", plain)
    assert inputs_in_effect(None) == {} and inputs_in_effect({"evaluate": 3}) == {"evaluate": 3}


def test_a_run_that_ends_early_takes_nothing_away(copy):
    spec, before = load_spec(copy / "small.yaml"), facts(copy)
    wrong = copy / "wrong.yaml"
    wrong.write_text((copy / "small.yaml").read_text().replace("[expression,", "[expresion,"))
    with pytest.raises(SpecError, match="expresion.*did you mean"):
        run(load_spec(wrong))
    after = facts(copy)
    assert after["exit_code"] == 2 and before["exit_code"] == 0
    for key in ("store", "directions", "generator_fp", "counts", "last_finished"):
        assert after[key] == before[key], key
    assert FinishedRun.of(spec).codes([0]).shape[0] == 1


def test_a_locked_run_is_refused(copy):
    with run_lock(copy / "out").acquire(), pytest.raises(LockedError):
        run(load_spec(copy / "small.yaml"), until="index")


def test_the_plan_says_what_is_current_and_what_is_not(copy):
    current = answered("plan", copy / "small.yaml")
    assert current.returncode == 0, current.stderr
    assert "0 of 3 blocks to invert" in current.stdout and "pca: current" in current.stdout
    assert "evaluate: current" in current.stdout
    (copy / "out" / "evaluation.npz").unlink()
    assert "its images are missing" in answered("plan", copy / "small.yaml").stdout
    spec = copy / "small.yaml"
    spec.write_text(spec.read_text().replace("block_rows: 64", "block_rows: 128"))
    changed = answered("plan", spec)
    assert "missing: 2 of 2 blocks" in changed.stdout
    assert not [p for p in (copy / "out" / "stores").iterdir() if "zarr" in p.name]


def test_edit_export_inspect_and_report_work_on_a_finished_run(copy):
    spec, out = copy / "small.yaml", copy / "made"
    strip = answered("edit", spec, "-d", "mean.surprise", "--rows", "0,60", "--out", out / "s.png")
    assert strip.returncode == 0, strip.stderr
    assert (out / "s.png").read_bytes().startswith(b"\x89PNG")
    assert answered("export", spec, "--as", "directions", "--out", out / "d.npz").returncode == 0
    with np.load(out / "d.npz", allow_pickle=False) as archive:
        assert archive["mean.surprise"].shape == (10, 64)
        assert json.loads(str(archive["facts"]))["mean.surprise"]["target"] == "surprise"
    table = out / "a.parquet"
    assert answered("export", spec, "--as", "annotations", "--out", table).returncode == 0
    assert len(pd.read_parquet(table)) == 150
    for part in ("", "index.parquet", facts(copy)["store"], facts(copy)["directions"]):
        shown = answered("inspect", copy / "out" / part)
        assert shown.returncode == 0 and "kind" in shown.stdout, shown.stderr
    assert answered("report", spec, "--out", out / "r.html").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["edit", "SPEC", "-d", "mean.joy", "--out", "x.png"], 2, "mean.joy"),
        (["edit", "SPEC", "-d", "mean.fear", "--rows", "900", "--out", "x.png"], 2, "900"),
        (["edit", "SPEC", "-d", "mean.fear", "--strengths", "a", "--out", "x"], 2, "--strengths"),
        (["export", "SPEC", "--as", "excel", "--out", "x"], 2, "excel"),
        (["export", "SPEC", "--as", "interfacegan", "--out", "x"], 1, "use 'e4e'"),
        (["inspect", "nowhere"], 1, "nowhere"),
        (["run", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["run", "SPEC", "--nonsense"], 2, "nonsense"),
        (["faces", "--out", "x"], 2, "give one of them"),
    ],
)  # fmt: skip
def test_mistakes_are_answered_in_one_line(small_run, tmp_path, arguments, code, text):
    given = [str(small_run / "small.yaml") if a == "SPEC" else a for a in arguments]
    given = [str(tmp_path / a) if a.startswith("x") else a for a in given]
    command = latentflow if "--nonsense" in arguments else answered  # one in a process of its own
    done = command(*given)
    assert done.returncode == code and text in done.stderr and "Traceback" not in done.stderr


def test_the_schema_and_every_help_page_print():
    schema = json.loads(answered("schema").stdout)
    assert "dataset" in schema["properties"]
    for command in ("run", "plan", "index", "invert", "annotate", "analyse", "edit", "export",
                    "import", "inspect", "convert", "report", "faces", "schema", "demo",
                    "verify", "gc"):  # fmt: skip
        shown = answered(command, "--help")
        assert shown.returncode == 0 and len(shown.stdout) > 200, command
