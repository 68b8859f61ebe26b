"""Every key of a specification is changed once on a finished run, alone or with a few others.

The plan says what it costs, the run ends, and then the plan finds everything current, `verify`
nothing wrong, and `gc` takes away what is referred to no more. Keys are found in the models of the
specification: a new one is given a change below, or a reason why it cannot have one.
"""

import copy
import shutil
import typing
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from inversion_fixture import annotator
from pydantic import BaseModel
from safetensors.torch import save_file
from tiny_run import (
    factors_of,
    make_tiny,
    run_tiny,
    spec_of,
    write_model,
    write_spec,
)

from generators.perceptual.network import FeatureNetwork
from pipelines.runs.plan import plan_stages
from pipelines.upkeep.gc import collect
from pipelines.upkeep.verify import verify
from schemas.spec import InvertSpec, RunSpec, load_spec

N = 30
EVALUATE = {"samples": 2, "strengths": [-1, 1], "holdout": {"fraction": 0.4}}
ALONE = {"pca": {"n_components": 3, "n_directions": 1}}
POINTS = {"landmarks": "points", "n_shapes": 1}
TENSOR = {"modes": ["person", "expression"], "missing": "drop_person"}

# ---- changes of analyses: section -> (key, its new value with what goes with it) in order --------

ANALYSES = {
    "pca": [
        ("n_components", 2), ("layers", "each"), ("solver", "gram"), ("n_directions", 2),
    ],
    "mean_difference": [
        ("factors", ["expression"]), ("baseline", {"expression": "calm"}), ("pair_by", ["person"]),
        ("ridge", 0.5), ("held_out", True),
    ],
    "svm": [
        ("attributes", ["smile"]), ("labels", "image"), ("threshold", 0.02), ("c", 0.5),
        ("path", [0.1, 1.0]), ("folds", 2), ("balanced", True), ("tolerance", 0.1),
        ("max_passes", 4), ("penalise_intercept", True),
    ],
    "hosvd": [
        ("modes", ["person", "expression", "view"]), ("missing", "complete"),
        ("where", {"expression": ["calm", "glad"]}), ("repeats", "weighted"), ("energy", 0.8),
        ("ranks", [2, None, None]), ("standardise", True), ("folds", 2),
        ("stacked", True, ("folds", 0)),
        ("pairs", {"view": [["l", "r"]]}), ("intensity", {"expression": "view"}),
    ],
    "nrsfm": [
        ("n_shapes", 2), ("labels", "image"), ("regressor", 0.1), ("refine", True),
        ("robust", True), ("temporal", True, ("refine", False)), ("zoom", True),
        ("landmarks", "others"),
    ],
    "sefa": [("n_components", 2), ("layers", [1, 2])],
    "jacobian": [
        ("n_components", 2), ("samples", 2), ("region", [0, 0, 0.5, 1]), ("background_rank", 2),
    ],
    "s_space": [("attributes", ["smile"]), ("threshold", 0.02)],
    "fidelity": [
        ("features", "gaze"), ("kid_subsets", 3), ("kid_subset_size", 9), ("neighbours", 2),
        ("samples", 20), ("truncations", [0.5]), ("truncation_samples", 10), ("seed", 1),
        ("truncation_space", "w"),
    ],
    "path_length": [
        ("paths", ["z_end"]), ("samples", 6), ("epsilon", 0.1), ("crop", True), ("noise", "run"),
        ("seed", 2), ("network", "other_network.safetensors"),
    ],
    "separability": [
        ("attributes", ["smile"]), ("threshold", 0.009), ("max_passes", 20), ("share", 0.95),
    ],
}  # fmt: skip
TOGETHER = 4
"""Changes of one analysis that one run makes."""
BEFORE = {
    "pca": {"n_components": 3, "n_directions": 1},
    "mean_difference": {},
    "svm": {"threshold": 0.01, "max_passes": 3, "tolerance": 0.2},
    "hosvd": TENSOR,
    "nrsfm": POINTS,
    "sefa": {"n_components": 1},
    "jacobian": {"n_components": 1, "samples": 1},
    "s_space": {"threshold": 0.01},
    "fidelity": {"features": "look"},
    "path_length": {"samples": 4, "network": "network.safetensors"},
    "separability": {"threshold": 0.01, "share": 1.0},
}

# ---- other changes: (keys and values, stage that is not current before the run) ------------------

QUIET = {
    "invert.batch_size": 8,
    "invert.actors": 2,
    "invert.threads": 2,
    "annotate.0.batch_size": 16,
    "annotate.0.of": "resized",  # these images have the generator's size already
    "ray.address": "ray://elsewhere:10001",
    "ray.actors": 2,
    "ray.gpus_per_actor": 0.5,
    "ray.object_store_mb": 100,
    "ray.actor_memory_mb": 2000,
    "beam.runner": "SparkRunner",
    "beam.options": ["--a=b"],
    "cache_bytes": 1 << 20,
    "max_quarantined": 0.5,
    "schedule": "0 3 * * *",
    "train_encoder.architecture.name": "dse",
    "train_encoder.objective.name": "similarity",
    "train_encoder.space": "w",
    "train_encoder.steps": 5,
    "train_encoder.batch_size": 2,
    "train_encoder.learning_rate": 0.1,
    "train_encoder.truncation": 0.5,
    "train_encoder.real": 0.5,
    "train_encoder.held_out": 5,
    "train_encoder.seed": 5,
    "train_encoder.threads": 1,
    "train_encoder.device": "cpu",
}
"""They change nothing that is computed (the engines of these tests ignore where they run)."""
ONLY_REPORT = "nothing but the report"
"""Images that lie elsewhere cost nothing; the report names the other files that are left out."""
STEPS = [
    [
        ({"evaluate.samples": 3}, "evaluate"),
        ({"evaluate.strengths": [-2, 2]}, "evaluate"),
        ({"evaluate.holdout.factor": "expression"}, "evaluate"),
        ({"evaluate.holdout.fraction": 0.3}, "evaluate"),
        ({"evaluate.seed": 7}, "evaluate"),
        ({"evaluate.stratify": ["view"]}, "evaluate"),
        ({"report.title": "Another"}, ONLY_REPORT), ({"report.samples": 3}, "evaluate"),
        ({"report.strip_rows": 1}, "evaluate"),
    ],
    [({"evaluate.source": "prior", "evaluate.stratify": []}, "evaluate")],
    [({"evaluate.truncation_psi": 0.5}, "evaluate"),
     ({"annotate.0.model": "more.onnx"}, "marks@render")],
    [({"annotate.0.model": "other_kind.onnx"}, "marks"),
     ({"evaluate.source": "dataset", "evaluate.stratify": ["view"]}, "evaluate")],
    [
        ({"annotate.0.render": False}, "evaluate"),
        ({"annotate.0.name": "signs", "annotate.0.model": "marks.onnx"}, "signs"),
        ({"dataset.exclude": ["0007.png"]}, "index"),
        ({"dataset.pattern": "**/00*.png", "dataset.path": "."}, ONLY_REPORT),
    ],
    [({"dataset.factors": "more.csv", "dataset.key": "path"}, "index")],
    [
        ({"dataset.continuous": ["age"]}, "index"),
        ({"dataset.categorical": ["light"]}, "index"),
        ({"dataset.literal": ["note"]}, "index"),
        ({"dataset.missing": ["r"]}, "index"),
        ({"dataset.ignore": ["view"], "evaluate.stratify": []}, "index"),
    ],
    [(
        {"dataset.kind": "parquet", "dataset.path": "table.parquet", "dataset.pattern": None,
         "dataset.image_column": "picture", "dataset.columns": ["mood"], "dataset.key": None,
         "dataset.factors": None, "dataset.continuous": [], "dataset.categorical": [],
         "dataset.ignore": [], "dataset.exclude": [], "dataset.literal": [], "dataset.missing": [],
         "evaluate.holdout.factor": "mood"},
        "index",
    )],
    [
        ({"invert.block_rows": 128}, "invert"),
        ({"invert.crop": "stretch"}, "invert"),
        ({"invert.noise_mode": "none"}, "invert"),
        ({"invert.max_pixels": 1 << 20}, "invert"),
        ({"encoder": "other_encoder.safetensors"}, "invert"),
        ({"generator": "other_generator.safetensors"}, "invert"),
        ({"seed": 3}, "invert"),
        ({"name": "another"}, "invert"),
    ],
    [({"invert.method": "optimise", "invert.steps": 1, "invert.schedule": "adam"}, "invert")],
    [
        ({"invert.learning_rate": 0.1}, "invert"),
        ({"invert.pixel_weight": 0.5}, "invert"),
        ({"invert.feature_weight": 0.0}, "invert"),
        ({"invert.structural_weight": 0.1}, "invert"),
        ({"invert.mean_weight": 0.1}, "invert"),
        ({"invert.truncation_weight": 0.1}, "invert"),
        ({"invert.tolerance": 0.1}, "invert"),
        ({"invert.starts": 2}, "invert"),
        ({"invert.noise_mode": "const", "invert.noise_images": True, "invert.noise_weight": 0.5},
         "invert"),
        ({"invert.space": "w", **{f"analyse.{n}.space": "w" for n in BEFORE if n == "pca"}},
         "invert"),
    ],
    [({"output": "elsewhere"}, "invert")],
]  # fmt: skip
"""Every change alone makes its stage stale; one run makes all of a list."""
REASONS = {
    "train_encoder.minutes": "in place of steps, see tests/pipelines/encoder_training",
    "analyse.fidelity.reference": "of another run, see tests/pipelines/analyses/test_fidelity.py",
    "analyse.path_length.linear": "of VGG16 files, see tests/generators/perceptual",
    "analyse.separability.spaces": "no run holds codes of two spaces",
    **{f"invert.{key}": "see tests/pipelines/stages/test_perceptual_inversion.py"
       for key in ("perceptual.network", "perceptual.linear", "perceptual_weight")},
    "analyse.pca.regress_to": "no run holds codes of two spaces",
    **{f"dataset.{key}": "of rows without images, see tests/pipelines/stages/test_sample.py"
       for key in ("n", "seed", "truncation", "labels")},
    **{f"analyse.{name}.space": "a store of images holds codes of one space, which is read by "
       "default; pca's is changed with invert.space" for name in BEFORE if name != "pca"},
}  # fmt: skip


#: Values by which a section chooses its keys.
METHOD = {InvertSpec: {"method": "optimise"}}


def keys_of(model, where=""):
    """Every key of a model and of its sections; of lists of sections, as of the first one."""
    for name, field in model.fields_for(METHOD.get(model)).items():
        members = [field.annotation, *typing.get_args(field.annotation)]
        inner = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]
        listed = typing.get_origin(field.annotation) is list and inner
        path = f"{where}{name}"
        yield from keys_of(inner[0], f"{path}.0." if listed else f"{path}.") if inner else [path]


def changed(spec, changes):
    """A specification with other values at dotted paths; None takes a key away."""
    for path, value in changes.items():
        *folders, last = path.split(".")
        at = spec
        for step in folders:
            at = at[int(step)] if step.isdigit() else at.setdefault(step, {})
        if value is None:
            at.pop(last, None)
        else:
            at[last] = value


def make(root):
    make_tiny(root, N)
    annotator(root, "others", "landmarks", [f"p{i}" for i in range(9)])
    for name in ("look", "gaze"):
        annotator(root, name, "features", list("abc"))
    for name in ("network", "other_network"):
        torch.manual_seed(len(name))
        save_file(FeatureNetwork().state_dict(), root / f"{name}.safetensors")
    annotator(root, "more", "scores", ["smile", "glasses", "beard"])
    annotator(root, "other_kind", "landmarks", ["a", "b", "c", "d"])
    for name in ("encoder", "generator"):
        folder = root / "weights"
        write_model(folder / f"{name}.safetensors", 5)
        for file in folder.glob(f"{name}.*"):
            shutil.copy(file, root / f"other_{file.name}")
    rows = {f"images/{i:04}.png": factors_of(i) for i in range(N)}
    lines = ["path,person,expression,view,light,age,note"]
    for i, (name, row) in enumerate(rows.items()):
        lines.append(f"{name},{','.join(row)},{20 + i % 7},{['None', 'some'][i % 2]}")
    (root / "more.csv").write_text("\n".join(lines) + "\n")
    pictures = [(root / "images" / f"{i:04}.png").read_bytes() for i in range(N)]
    table = pa.table({"picture": pictures, "mood": [factors_of(i)[1] for i in range(N)]})
    pq.write_table(table, root / "table.parquet")


@pytest.fixture(scope="module", autouse=True)
def fast():
    """Without matplotlib's text of figures that nothing here reads."""
    with patch("pipelines.report.plots.inline_svg", lambda figure, alt: alt):
        yield


def planned(root):
    return {
        part.name: part for stage in plan_stages(load_spec(root / "spec.yaml")) for part in stage
    }


def stale(root, but=()):
    return {name for name, part in planned(root).items() if part.state != "current"} - set(but)


def check(root, spec, until, but=()):
    """The run ends; then there is nothing to do and nothing wrong."""
    run_tiny(root / "spec.yaml", until)
    assert stale(root, but) == set()
    out = root / spec["output"]
    found = verify(out)
    assert found.ok and not found.notes, (found.problems, found.notes)
    assert not [a for a in collect(out, older_than_s=1e9).removable]


def test_every_key_is_changed_here_or_has_a_reason():
    mine = {f"analyse.{name}.{step[0]}" for name, steps in ANALYSES.items() for step in steps}
    mine |= {key for steps in STEPS for changes, _ in steps for key in changes} | set(QUIET)
    assert set(keys_of(RunSpec)) == mine | set(REASONS)
    assert not mine & set(REASONS)


def test_no_run_makes_a_change_that_another_takes_back():
    lists = [[key for changes, _ in steps for key in changes] for steps in STEPS]
    for steps in ANALYSES.values():
        for at in range(0, len(steps), TOGETHER):
            group = steps[at : at + TOGETHER]
            lists.append([key for first, _, *more in group for key in (first, *dict(more))])
    assert all(len(set(keys)) == len(keys) for keys in lists)


def test_keys_of_analyses(tmp_path):
    make(tmp_path)
    models = ["marks", "points", "angle", "others", "look", "gaze"]
    spec = spec_of(
        tmp_path,
        annotate=[{"name": name, "model": f"{name}.onnx"} for name in models],
        analyse={name: dict(section) for name, section in BEFORE.items()},
        evaluate=EVALUATE,
    )
    later = {"evaluate", "report"}
    write_spec(tmp_path, spec)
    check(tmp_path, spec, "analyse", later)
    last = max(map(len, ANALYSES.values())) - 1
    for at in range(last + 1):
        asked = {}
        for name, steps in ANALYSES.items():
            for key, value, *more in steps[at : at + 1]:
                spec["analyse"][name] |= {key: value, **dict(more)}
                asked[name] = key
        write_spec(tmp_path, spec)
        parts = planned(tmp_path)
        for name, key in asked.items():
            assert parts[name].state == "stale", (name, key)
            told = {"network": "distance", "truncation_space": "drawn_in"}.get(
                key, key
            )  # its contents, not its path
            assert any(f"parameters.{told}" in line for line in parts[name].causes), (name, key)
        if (at + 1) % TOGETHER == 0 or at == last:  # the plan tells each, one run makes all
            check(tmp_path, spec, "analyse", later)


def test_other_keys(tmp_path):
    make(tmp_path)
    spec = spec_of(tmp_path, analyse=ALONE | {"svm": BEFORE["svm"]}, evaluate=EVALUATE)
    write_spec(tmp_path, spec)
    check(tmp_path, spec, "report")
    changed(spec, QUIET)
    write_spec(tmp_path, spec)
    assert stale(tmp_path) == set()
    for steps in STEPS:
        keys = [key for changes, _ in steps for key in changes]
        if any(key.startswith(("dataset", "invert", "annotate.0.model")) for key in keys):
            spec["analyse"].pop("svm", None)
        for changes, stage in steps:
            alone = copy.deepcopy(spec)
            changed(alone, changes)
            write_spec(tmp_path, alone)
            found = stale(tmp_path)
            assert found == {"report"} if stage is ONLY_REPORT else stage in found, changes
        for changes, _ in steps:
            changed(spec, changes)
        write_spec(tmp_path, spec)
        check(tmp_path, spec, "report")
    collect(tmp_path / "out", delete=True, older_than_s=0)
    out = tmp_path / spec["output"]
    assert collect(out, delete=True, older_than_s=0).removable == []
    assert stale(tmp_path) == set() and verify(out).ok
