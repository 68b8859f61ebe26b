"""What a specification asks for and its data cannot give is told before the first image."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import yaml
from inversion_fixture import annotator
from places import ROOT

from generators.protocols import Companion, ModelFacts, Space
from pipelines.runs.check import check_run, known_before, run_notes
from schemas.errors import SpecError, UntrustedError
from schemas.index import DatasetIndex, NewRow, continuous_column, encode_categories
from schemas.spec import parse_spec

SHAPE = (10, 64)
OPTIMISED = {"method": "optimise"}
LABELS = encode_categories([str(i % 5) for i in range(24)], None, "integer")
CLASSED = ModelFacts(
    "stylegan2",
    "",
    (64, 64),
    {
        "z": Space("z", (64,), "normal", conditional=True),
        "w_plus": Space("w_plus", SHAPE, "derived", layered=True, derived_from="z"),
        "parts": Space("parts", (3,), "none", companions={"c": Companion((2,), required=True)}),
    },
    "w_plus",
    classes=5,
)
MOODS = ("calm", "glad", "No")
SCORES = {"name": "scores", "model": "bundled:faces64/attributes"}
MARKS = {"name": "marks", "model": "bundled:faces64/landmarks"}
POSE = {"name": "angles", "model": "bundled:faces64/pose"}


def index_of(n: int = 24, **factors: object) -> DatasetIndex:
    """`n` rows; person, mood and side are a complete design, age is continuous."""
    rows = [NewRow(f"{i:064x}", f"{i}.png", 64, 64) for i in range(n)]
    columns = {
        "person": encode_categories([f"p{i // 6 % 4}" for i in range(n)], None, "string"),
        "mood": encode_categories([MOODS[i // 2 % 3] for i in range(n)], None, "string"),
        "side": encode_categories(["lr"[i % 2] for i in range(n)], None, "string"),
        "same": encode_categories(["x"] * n, None, "string"),
        "age": continuous_column([20.5 + i for i in range(n)]),
        "still": continuous_column([1.5] * n),
    }
    return DatasetIndex.empty().append(rows).with_factors({**columns, **factors})


def spec_of(annotate=(SCORES, MARKS, POSE), **sections):
    sections = {"name": "x", "dataset": {"path": "."}, "annotate": list(annotate), **sections}
    return parse_spec(yaml.safe_dump(sections), base="/")


def check(index=None, shape=SHAPE, annotate=(SCORES, MARKS, POSE), **sections):
    spec = spec_of(annotate, **sections)
    return check_run(spec, index or index_of(), {spec.invert.space or "w_plus": shape})


def test_images_without_classes_are_not_inverted_into_codes_that_need_one():
    def told(space, **dataset):
        spec = spec_of((), dataset={"path": ".", **dataset}, invert={**OPTIMISED, **space})
        return check_run(spec, index_of(label=LABELS), {"w_plus": SHAPE}, facts=CLASSED)

    with pytest.raises(SpecError) as e:
        told({"space": "z"})
    assert (
        "'dataset.labels' is missing: codes of 'z' are drawn with one of the generator's 5 "
        "classes: name the factor that holds each image's, or set 'invert.space' to 'w_plus'"
    ) in str(e.value)
    assert told({"space": "z"}, labels="label") == told({}) == []


WRONG = [
    # analysis, section, what the text must hold
    (
        "mean_difference",
        {"factors": ["Mood"]},
        ["'analyse.mean_difference.factors'", "'Mood'", "did you mean 'mood'"],
    ),
    ("mean_difference", {"factors": ["glases"]}, ["did you mean 'glasses'"]),
    ("mean_difference", {"factors": ["same"]}, ["'same'", "['x']"]),
    ("mean_difference", {"factors": ["still"]}, ["'still'", "one value in all rows"]),
    (
        "mean_difference",
        {"baseline": {"mood": "Calm"}},
        ["'Calm'", "'mood'", "did you mean 'calm'"],
    ),
    ("mean_difference", {"baseline": {"moood": "calm"}}, ["'moood'", "did you mean 'mood'"]),
    ("mean_difference", {"baseline": {"age": "20"}}, ["'age'", "continuous"]),
    ("mean_difference", {"factors": ["side"], "baseline": {"mood": "calm"}}, ["leaves out"]),
    ("mean_difference", {"pair_by": ["persona"]}, ["pair_by", "did you mean 'person'"]),
    (
        "mean_difference",
        {"factors": ["person"], "pair_by": ["copy"]},
        ["'copy'", "two levels of 'person'"],
    ),
    ("svm", {"attributes": ["glases"]}, ["'analyse.svm.attributes'", "did you mean 'glasses'"]),
    ("svm", {"labels": "factors", "attributes": ["moood"]}, ["did you mean 'mood'"]),
    ("svm", {"labels": "factors", "attributes": ["age"]}, ["'age'", "dataset.categorical"]),
    ("svm", {"labels": "factors", "attributes": ["same"]}, ["'same'", "['x']", "leave it out"]),
    ("svm", {"folds": 5}, ["5", "4 levels of factor 'person'"]),
    ("s_space", {"attributes": ["x"]}, ["'analyse.s_space.attributes'", "'x'"]),
    ("hosvd", {"modes": ["person", "mod"]}, ["'analyse.hosvd.modes'", "did you mean 'mood'"]),
    ("hosvd", {"modes": ["person", "age"]}, ["'age'", "dataset.categorical"]),
    (
        "hosvd",
        {"modes": ["person", "mood"], "where": {"side": "left"}},
        ["'left'", "use one of l, r"],
    ),
    ("hosvd", {"modes": ["person", "mood"], "where": {"sid": "l"}}, ["did you mean 'side'"]),
    ("hosvd", {"modes": ["person", "copy"]}, ["12 of 16 cells", "'p0'", "'c1'", "'complete'"]),
    (
        "hosvd",
        {"modes": ["person", "copy"], "missing": "drop_person"},
        ["0 of 4 levels", "'complete'"],
    ),
    ("hosvd", {"modes": ["person", "mood"], "ranks": [9, 2]}, ["9", "'person'", "4 levels"]),
    ("hosvd", {"modes": ["person", "mood"], "folds": 5}, ["folds", "5", "4 levels", "2 to 4"]),
    (
        "hosvd",
        {"modes": ["person", "mood"], "folds": 4, "ranks": [4, 2]},
        ["3 levels outside a fold"],
    ),
    ("hosvd", {"modes": ["person", "mood"], "pairs": {"mood": [["calm", "sad"]]}}, ["'sad'"]),
    ("hosvd", {"modes": ["person", "mood"], "pairs": {"mood": [["calm", "calm"]]}}, ["itself"]),
    ("nrsfm", {"landmarks": "scores"}, ["'scores'", "kind 'landmarks'", "marks"]),
    ("nrsfm", {"landmarks": "marks", "n_shapes": 65}, ["65", "68 landmarks", "64"]),
    ("nrsfm", {"landmarks": "marks", "n_shapes": 25, "temporal": True}, ["25", "24 rows", "23"]),
    ("pca", {"n_components": 25}, ["25", "24 rows", "null"]),
    ("pca", {"n_components": 4, "n_directions": 5}, ["5 of 4"]),
    ("pca", {"layers": [[0, 11]]}, ["[[0, 11]]", "10 layers"]),
    ("sefa", {"layers": [3, 10]}, ["[10]", "10 layers", "[0, 8]"]),
    ("sefa", {"layers": [9]}, ["[9]", "[0, 8]"]),
    ("sefa", {"n_components": 65}, ["65", "64"]),
    ("jacobian", {"samples": 25}, ["25", "24 rows"]),
    ("jacobian", {"n_components": 641}, ["641", "640"]),
    ("jacobian", {"background_rank": 3}, ["'region'"]),
]


@pytest.mark.parametrize(("name", "section", "texts"), WRONG)
def test_a_section_that_the_data_cannot_give_is_told(name, section, texts):
    index = index_of(copy=encode_categories([f"c{i // 6 % 4}" for i in range(24)], None, "string"))
    with pytest.raises(SpecError) as told:
        check(index, analyse={name: section})
    assert [text for text in texts if text not in str(told.value)] == []
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("mean_difference", {}),
        ("mean_difference", {"factors": ["mood", "glasses", "age"], "pair_by": ["person"]}),
        ("mean_difference", {"factors": ["glasses"], "baseline": {"mood": "calm"}}),
        ("svm", {"folds": 4, "attributes": "glasses"}),
        ("svm", {"labels": "factors"}),
        ("svm", {"labels": "factors", "attributes": ["mood", "side"], "threshold": 7}),
        ("hosvd", {"modes": ["person", ["mood", "side"]], "ranks": [4, 6], "folds": 0}),
        ("hosvd", {"modes": ["person", "mood"], "where": {"side": ["l"]}, "folds": 4}),
        ("nrsfm", {"landmarks": "marks", "temporal": True}),
        ("pca", {"layers": "each"}),
        ("pca", {"n_components": 24, "layers": [[9, 10]]}),
        ("sefa", {"layers": [0, 8, 9]}),
        ("jacobian", {"region": [0, 0, 0.5, 1]}),
        ("s_space", {}),
    ],
)
def test_what_the_data_can_give_is_not_refused(name, section):
    hosvd = {"modes": ["person", "mood"]}  # whose levels a baseline may be of
    analyse = {"hosvd": hosvd, name: section} if "baseline" in section else {name: section}
    assert check(analyse=analyse) == []


def test_everything_is_told_at_once_and_by_section():
    with pytest.raises(SpecError) as told:
        check(
            analyse={"pca": {"n_components": 100}, "svm": {"attributes": ["x"]}},
            evaluate={"stratify": ["moods"], "holdout": {"factor": "people"}},
            dataset={"path": ".", "continuous": ["agee", "mood"], "categorical": ["age"]},
            beam={"runner": "FlinkRuner"},
        )
    lines = str(told.value).splitlines()
    keys = [line.split("'")[1] for line in lines[1:]]
    assert keys == [
        *["dataset.continuous"] * 2,
        "dataset.categorical",
        "analyse.pca.n_components",
        "analyse.svm.attributes",
        "evaluate.holdout.factor",
        "evaluate.stratify",
        "beam.runner",
    ]
    assert lines[0].startswith("8 keys")


def test_removed_rows_do_not_count():
    index = index_of().remove(list(range(6)))  # the person p0
    assert check(index, analyse={"hosvd": {"modes": ["person", "mood"]}}) == []
    with pytest.raises(SpecError, match="'p0' of factor 'person', which no row has"):
        check(index, analyse={"mean_difference": {"baseline": {"person": "p0"}}})


def test_analyses_read_the_codes_that_the_run_stores_unless_they_name_a_space():
    spec = spec_of(analyse={"pca": {}, "svm": {"space": "w"}})
    known = known_before(spec, index_of(), {"latent": (64,), "w": (64,)}, {})
    assert known.space(spec.analyse.pca) == "latent" and known.space(spec.analyse.svm) == "w"


def test_spaces_of_analyses_and_store():
    with pytest.raises(SpecError) as told:
        check(shape=(64,), invert={"space": "w"}, analyse={"pca": {"space": "w_plus"}, "svm": {}})
    assert (
        "'analyse.pca.space' is 'w_plus', but the run's codes are of, or converted to, ['w']"
        in str(told.value)
    )
    for section in ({"layers": "each"}, {"layers": [[0, 1]]}):
        with pytest.raises(SpecError, match="no layers"):
            check(shape=(64,), invert={"space": "w"}, analyse={"pca": section})


def test_labels_of_annotators_that_do_not_measure_renders():
    image_only = {**SCORES, "render": False}
    assert check(annotate=[image_only], analyse={"svm": {}}) == []
    with pytest.raises(SpecError, match="'analyse.svm.labels' is 'render'.*'scores'.*'image'"):
        check(annotate=[image_only], analyse={"svm": {"labels": "render"}})
    assert check(annotate=[image_only], analyse={"svm": {"labels": "image"}}) == []
    with pytest.raises(SpecError, match="'analyse.svm' needs measured attributes"):
        check(annotate=[POSE], analyse={"svm": {}})


def test_a_threshold_beyond_all_scores(tmp_path):
    card = json.loads((ROOT / "generators/bundled/faces64/attributes.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps({**card, "activation": "sigmoid"}))
    (tmp_path / "a.onnx").write_bytes(b"")
    model = {"name": "a", "model": str(tmp_path / "a.onnx")}
    for threshold in (1.0, -0.1):
        with pytest.raises(SpecError, match=f"svm.threshold' is {threshold}.*0 to 1"):
            check(annotate=[model], analyse={"svm": {"threshold": threshold}})
        assert check(analyse={"svm": {"threshold": threshold}}) == []  # not bounded by its card
    assert check(annotate=[model], analyse={"svm": {"threshold": 0}}) == []


def test_two_annotators_that_measure_the_same():
    again = {**SCORES, "name": "again"}
    for names in (["again.glasses"], ["glasses"]):
        svm, mean = {"attributes": names}, {"factors": [*names]}
        assert check(annotate=[SCORES, again], analyse={"svm": svm, "mean_difference": mean}) == []
    with pytest.raises(SpecError, match="did you mean 'again.glasses'"):
        check(annotate=[SCORES, again], analyse={"svm": {"attributes": ["again.glass"]}})
    with pytest.raises(SpecError, match="'invert'"):
        check(annotate=[{**SCORES, "name": "invert"}])


def test_a_model_that_needs_trust_is_told_before_inversion(tmp_path):
    description = (ROOT / "generators/bundled/faces64/attributes.json").read_text()
    (tmp_path / "model.json").write_text(description)
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as file:  # a program by its members' names
        file.writestr("model/code/empty.py", "")
        file.writestr("model/constants.pkl", "")
    spec = spec_of([{"name": "a", "model": str(tmp_path / "model.pt")}])
    with pytest.raises(UntrustedError, match="--trust"):
        check_run(spec, index_of(), {"w_plus": SHAPE}, trust=False)
    assert check_run(spec, index_of(), {"w_plus": SHAPE}, trust=True) == []


def test_numbers_that_are_used_as_far_as_the_data_reach_are_noted():
    sections = {"evaluate": {"samples": 200}, "report": {"strip_rows": 50}, "analyse": {"svm": {}}}
    samples, strips = run_notes(known_before(spec_of(**sections), index_of(), {}, {}))
    assert samples.startswith("evaluate.samples: 200 asked for, 24 used")
    assert strips.startswith("report.strip_rows: 50 asked for, 24 used")
    few = {"holdout": {"fraction": 0.1}, "samples": 4}  # of 4 persons none
    spec = spec_of(evaluate=few, analyse={"svm": {}})
    (held,) = run_notes(known_before(spec, index_of(), {}, {}))
    assert "evaluate.holdout.fraction" in held and "4 levels of factor 'person'" in held


def test_truncation_of_rows_that_are_not_drawn_is_noted():
    spec = spec_of(evaluate={"samples": 5, "truncation_psi": 0.5})
    (told,) = run_notes(known_before(spec, index_of(), {}, {}))
    assert told.startswith("evaluate.truncation_psi: 0.5 given, not used")


def test_the_check_is_light_and_quick():
    script = (
        "import sys, pipelines.runs.check, pipelines.runs.plan; "
        "heavy = {'torch', 'ray', 'apache_beam', 'sklearn', 'onnxruntime', 'pandas', 'scipy'}; "
        "sys.exit(str(sorted(heavy & set(sys.modules)) or ''))"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""
    n = 60_000
    person, rest = np.divmod(np.arange(n), 20)
    big = (
        DatasetIndex.empty()
        .append([NewRow("0" * 64, str(i)) for i in range(n)])
        .with_factors(
            {
                "who": encode_categories([str(p) for p in person.tolist()], None, "string"),
                "mood": encode_categories([str(m % 10) for m in rest.tolist()], None, "string"),
                "side": encode_categories([str(m // 10) for m in rest.tolist()], None, "string"),
            }
        )
    )
    analyse = {
        "hosvd": {"modes": ["who", ["mood", "side"]]},
        "mean_difference": {"factors": ["mood"], "pair_by": ["who"]},
    }
    started = time.process_time()
    assert check(big, analyse=analyse) == []
    assert time.process_time() - started < 1


def test_ranks_that_the_present_cells_cannot_tell_are_refused():
    index = index_of(copy=encode_categories([f"c{i // 6 % 4}" for i in range(24)], None, "string"))
    modes = {"modes": ["person", "copy", "mood"], "missing": "complete"}  # 12 of 48 cells
    assert check(index, analyse={"hosvd": {**modes, "ranks": [2, 1, 3]}}) == []
    with pytest.raises(SpecError, match=r"\[4, 2, 2\] are 16 .*12 present cells .* 6: "):
        check(index, analyse={"hosvd": {**modes, "ranks": [4, 2, 2]}})


def test_another_latent_of_the_same_rows_is_told():
    with pytest.raises(SpecError, match="'analyse.pca.regress_to' is 'z'.*'w_plus'"):
        check(analyse={"pca": {"n_components": 3, "n_directions": 1, "regress_to": "z"}})


def test_components_of_one_image_are_told():
    with pytest.raises(SpecError, match=r"'analyse.pca' compares 2 rows or more, and there is 1"):
        check(index_of(1), analyse={"pca": {}})


def test_embeddings_that_are_called_as_a_quality_of_inversion_are_refused(tmp_path):
    path, _ = annotator(tmp_path, "psnr", "embedding", ["0", "1"])
    with pytest.raises(SpecError, match="'annotate' has embeddings 'psnr', whose cosine .* rename"):
        check(annotate=[{"name": "psnr", "model": path}])
    assert check(annotate=[{"name": "identity", "model": path}]) == []
