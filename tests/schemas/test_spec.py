"""The run specification: defaults, paths, and errors that name key, value and cure."""

import json
import pickle
import subprocess
import sys
import textwrap

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from schemas import spec as spec_module
from schemas.errors import SpecError, UsageError
from schemas.sections.catalog import OWN
from schemas.spec import RunSpec, json_schema, load_spec, parse_spec

MINIMAL = "name: run\ndataset: {path: images}\n"
FULL = """
name: demo.5000
dataset:
  kind: folder
  path: images
  pattern: ["**/*.png", "*.jpg"]
  exclude: broken/*
  factors: tables/factors.csv
  key: file
  continuous: [yaw]
  categorical: [level]
  ignore: [notes]
generator: nets/faces.pkl
encoder: /abs/encoder.safetensors
invert: {method: hybrid, space: w, steps: 20, learning_rate: 1e-2, pixel_weight: 2,
         feature_weight: 0, noise_mode: none, batch_size: 16, block_rows: 256, actors: 3,
         threads: 2, crop: stretch, max_pixels: 1000000}
annotate:
  - {name: attributes, model: "bundled:attributes"}
  - {name: lm68, model: nets/lm.onnx, render: false, batch_size: 8}
analyse:
  pca: {n_components: null}
  mean_difference: {factors: [expression], baseline: {expression: neutral, glasses: false}}
  svm: {attributes: smile, c: 0.5, tolerance: 1e-6}
  hosvd:
    modes: [person, [expression, intensity], view]
    where: {intensity: [1, 2], glasses: no}
    missing: drop_person
    ranks: [10, null, 2]
    standardise: true
  nrsfm: {landmarks: lm68, n_shapes: 8, labels: image}
evaluate: {samples: 50, strengths: [-3, 0, 3], holdout: {factor: null, fraction: 0.3}, seed: 7}
report: {title: Faces, samples: 10}
ray: {address: "ray://head:10001", actors: 2, gpus_per_actor: 0.5, object_store_mb: 100,
      actor_memory_mb: 3000}
beam: {runner: FlinkRunner, options: ["--flink_master=host:8081"]}
cache_bytes: 0
seed: 3
max_quarantined: 0.5
output: file:///data/my%20runs
"""


def problem(text, base="/data"):
    with pytest.raises(SpecError) as caught:
        parse_spec(textwrap.dedent(text), base)
    assert caught.value.kind == "spec" and isinstance(caught.value, UsageError)
    return str(caught.value)


def test_minimal_and_its_defaults():
    spec = parse_spec(MINIMAL, "/data")
    assert spec.dataset.path == "/data/images"
    assert spec.generator == "bundled:faces64"
    assert (spec.invert.method, spec.invert.space) == ("encoder", None)
    assert spec.analyse.pca is None and spec.annotate == []
    assert spec.evaluate.strengths == [-2, -1, 0, 1, 2]
    assert (spec.evaluate.holdout.factor, spec.evaluate.samples) == ("person", 200)
    assert spec.beam.runner == "FnApiRunner"
    assert spec.cache_bytes == 2**30 and spec.max_quarantined == 0.05
    assert spec.output_path == "runs/run"
    assert spec.invert_actors == spec.ray.actors == 1
    assert spec.evaluate_seed == spec.seed == 0


def test_everything_can_be_set():
    spec = parse_spec(FULL, "/data/specs")
    assert spec.dataset.pattern == ["**/*.png", "*.jpg"]
    assert spec.dataset.exclude == ["broken/*"]
    assert spec.dataset.factors == "/data/specs/tables/factors.csv"
    assert spec.generator == "/data/specs/nets/faces.pkl"
    assert spec.encoder == "/abs/encoder.safetensors"
    assert spec.annotate[0].model == "bundled:attributes"
    assert spec.annotate[1].model == "/data/specs/nets/lm.onnx"
    assert spec.output_path == "/data/my runs"
    assert spec.invert.learning_rate == 0.01
    assert spec.invert_actors == 3 and spec.evaluate_seed == 7
    hosvd = spec.analyse.hosvd
    assert hosvd.modes == ["person", ["expression", "intensity"], "view"]
    assert hosvd.where == {"intensity": ["1", "2"], "glasses": ["false"]}
    assert hosvd.ranks == [10, None, 2]
    assert spec.analyse.mean_difference.baseline == {"expression": "neutral", "glasses": "false"}
    assert spec.analyse.svm.attributes == ["smile"]


def test_round_trips():
    spec = parse_spec(FULL, "/data")
    assert RunSpec.model_validate(json.loads(spec.model_dump_json())) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301


def test_frozen():
    with pytest.raises(ValidationError):
        parse_spec(MINIMAL, "/").seed = 5


def test_load_spec_resolves_against_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "run.yaml").write_text("name: a\ndataset: {path: ../images}\n")
    monkeypatch.chdir(tmp_path)
    assert load_spec("deep/run.yaml").dataset.path == str(tmp_path / "images")


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    spec = parse_spec("name: a\ndataset: {path: ~/images}\n", "/data")
    assert spec.dataset.path == "/home/someone/images"


def test_empty_analysis_runs_with_defaults():
    spec = parse_spec(MINIMAL + "analyse:\n  pca:\n  svm: {}\n", "/")
    assert spec.analyse.pca.n_components == 64
    assert spec.analyse.svm.c == 1.0
    assert spec.analyse.mean_difference is None


def test_sections_and_lists_without_a_value_have_their_defaults():
    empty = "annotate:\nanalyse:\ninvert:\nevaluate:\n  strengths:\n  holdout:\nreport:\n"
    assert parse_spec(MINIMAL + empty, "/data") == parse_spec(MINIMAL, "/data")
    assert "'generator' is None" in problem(MINIMAL + "generator:\n")


@pytest.mark.parametrize(
    ("path", "cure"),
    [
        ("s3://bucket/runs", "give a path here, or mount it"),
        ("https://host/network.pkl", "give a path here, or mount it"),
        ("file://host/share", "give a path here, or mount it"),
        ("$HOME/runs", "write the path out"),
        ("/data/${USER}/runs", "write the path out"),
        ("C:\\runs", "the path that this machine has"),
        ("~nobody-of-this-name/runs", "write the path out"),
        ("a\0b", "no path may: remove it"),
        (" ", "give a path"),
    ],
)
@pytest.mark.parametrize("key", ["output", "dataset.path", "dataset.factors", "generator.path"])
def test_what_is_no_path_of_this_machine_is_refused(path, cure, key):
    section, _, name = key.partition(".")
    others = {"path": "images"} if section == "dataset" else {}
    value = {**others, name: path} if name else path
    text = {"name": "a", "dataset": {"path": "images"}, section: value}
    message = problem(json.dumps(text))
    assert f"{key!r} is {path!r}" in message and cure in message


def test_a_colon_makes_no_url():
    spec = parse_spec(MINIMAL + "output: exp:1/run\n", "/data")
    assert spec.output_path == "/data/exp:1/run"


def test_one_name_does_for_a_list():
    text = "name: a\ndataset: {path: x, ignore: b, missing: -1, categorical: 'n'}\n"
    spec = parse_spec(text + "evaluate: {stratify: person}\n", "/")
    assert (spec.dataset.ignore, spec.dataset.missing) == (["b"], ["-1"])
    assert (spec.dataset.categorical, spec.evaluate.stratify) == (["n"], ["person"])
    assert parse_spec(text.replace("-1", "[-999.0, 1.10]"), "/").dataset.missing == [
        "-999.0",
        "1.10",
    ]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("[0-4]", "'analyse.pca.layers[0]' is '0-4'"),
        ("[[0, 4], [4]]", "'analyse.pca.layers[1][1]' is missing"),
        ("all", "'analyse.pca.layers' is 'all'"),
    ],
)
def test_of_several_ways_to_give_a_value_one_problem_is_told(value, told):
    message = problem(MINIMAL + f"analyse: {{pca: {{layers: {value}}}}}\n")
    assert told in message and "'each', or ranges" in message
    assert "problems" not in message and "use one of each" not in message


@pytest.mark.parametrize("where", ["trust: true", "invert: {trust: yes}", "dataset: {trust: 1}"])
def test_trust_is_not_for_a_file_to_give(where):
    base = MINIMAL if "dataset" not in where else "name: run\n"
    text = problem(base + where + "\n")
    assert "trust' is not a key" in text and "--trust on the command line" in text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("invert: {metod: encoder}", ["line 3", "'invert.metod'", "'encoder'", "'method'?"]),
        ("invert: {space: w plus}", ["'invert.space' is 'w plus'"]),
        ("invert: {steps: 0}", ["'invert.steps' is 0", "greater than or equal to 1", "Gradient"]),
        ("invert: {steps: many}", ["'invert.steps' is 'many'", "valid integer"]),
        ("invert: {block_rows: 1000}", ["'block_rows' must be a power of two", "try 1024"]),
        (
            "invert: {method: optimise, pixel_weight: 0, feature_weight: 0}",
            ["nothing to optimise", "raise one"],
        ),
        ("invert: []", ["'invert' is []", "keys of its own (method, space", "or nothing"]),
        ("analyse: [pca]", ["'analyse' is ['pca']", "keys of its own (pca, mean_difference"]),
        ("annotate: [m.onnx]", ["'annotate[0]' is 'm.onnx'", "keys of its own (name, model"]),
        ("annotate: {name: a, model: m}", ["'annotate' is", "must be a list"]),
        ("analyse: {mean_difference: {baseline: [a]}}", ["entries of the form 'name: value'"]),
        ("7: x", ["key 7 is no text", "between quotes"]),
        ("seed: true", ["'seed' is True", "must be a number"]),
        ("seed: -1", ["'seed' is -1", "Random seed"]),
        ("max_quarantined: 5", ["'max_quarantined' is 5", "less than or equal to 1"]),
        ("analyse: {svm: {c: .nan}}", ["'analyse.svm.c' is nan"]),
        ("analyse: {svm: {c: .inf}}", ["'analyse.svm.c' is inf", "finite"]),
        ("analyse: {nrsfm: {landmarks: lm}}", ["'lm'", "'annotate' has []", "add that model"]),
        ("analyse: {hosvd: {modes: [a, [b, a]]}}", ["['a']", "more than one mode"]),
        ("analyse: {hosvd: {modes: [a, []]}}", ["at least one factor"]),
        ("analyse: {hosvd: {modes: [a, b], ranks: [1]}}", ["1 entries for 2 modes", "null"]),
        ("analyse: {hosvd: {modes: [a], ranks: [0]}}", ["at least 1, got [0]"]),
        ("analyse: {hosvd: {}}", ["'analyse.hosvd.modes' is missing", "add it"]),
        ("analyse: {hosvd: {modes: [1]}}", ["'analyse.hosvd.modes[0]' is 1"]),
        ("annotate: [{name: a@b, model: m}]", ["'annotate[0].name' is 'a@b'", "letters"]),
        ("annotate: [{nam: a, model: m}]", ["'annotate[0].name' is missing", "'annotate[0].nam'"]),
        (
            "annotate: [{name: a, model: m}, {name: a, model: n}]",
            ["['a'] more than once", "rename"],
        ),
        ("generator: net.pkl", ["'encoder'", "net.pkl", "'optimise'"]),
        ("evaluate: {strengths: [1, x]}", ["'evaluate.strengths[1]' is 'x'"]),
        ("evaluate: {strengths: [-1, 0]}", ["'strengths' is [-1.0, 0.0]", "above 0"]),
        (
            "analyse: {mean_difference: {factors: [a, b, a]}}",
            ["factors", "['a']", "more than once"],
        ),
        (
            "analyse: {mean_difference: {attributes: [smile]}}",
            ["line 3", "unknown key 'analyse.mean_difference.attributes'", "under 'factors'"],
        ),
        ("evaluate: {strengths: []}", ["'evaluate.strengths' is []", "at least 1"]),
        ("unknown: 1", ["line 3", "unknown key 'unknown' (value 1)", "use one of name, dataset"]),
        ("name: again", ["line 3", "'name' stands twice", "remove one"]),
        ("a: &x [1]\nb: *x", ["line 3", "aliases are not supported"]),
        ("ray: [unclosed", ["not valid YAML", "line"]),
        ("x: \x01", ["not valid YAML"]),
        ("x: !!python/object/apply:os.system [ls]", ["not valid YAML", "could not determine"]),
    ],
)
def test_errors_name_key_value_and_cure(text, parts):
    message = problem(MINIMAL + text + "\n")
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["must be a mapping", "'name:' and 'dataset:'"]),
        ("[1, 2]", ["must be a mapping", "'list'"]),
        ("name: a", ["'dataset' is missing"]),
        ("name: a/b\ndataset: {path: x}", ["line 1", "'name' is 'a/b'"]),
        ("name: ..\ndataset: {path: x}", ["'name' is '..'"]),
        ("name: a\ndataset: {path: ''}", ["'dataset.path' is ''", "give a path"]),
        ("name: a\ndataset: {path: x, columns: [y]}", ["'columns' needs 'kind: parquet'"]),
        ("name: a\ndataset: {path: x, key: y}", ["'key' is 'y'", "'factors'"]),
        (
            "name: a\ndataset: {path: x, continuous: [y], categorical: [y]}",
            ["['y']", "keep one"],
        ),
    ],
)
def test_errors_in_the_basics(text, parts):
    message = problem(text)
    for part in parts:
        assert part in message, message


def test_all_problems_are_told_at_once():
    message = problem(MINIMAL + "seed: -1\ninvert:\n  steps: 0\n  spice: w\n")
    assert "3 problems" in message
    for part in ("line 3: 'seed'", "line 5: 'invert.steps'", "line 6: unknown key 'invert.spice'"):
        assert part in message


def test_unreadable_files(tmp_path):
    with pytest.raises(SpecError, match="cannot be read.*check the path"):
        load_spec(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(tmp_path)
    (tmp_path / "big.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(SpecError, match="larger than"):
        load_spec(tmp_path / "big.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(SpecError, match="latin.yaml.*not valid YAML"):
        load_spec(tmp_path / "latin.yaml")


def test_deep_nesting_is_an_error_not_a_crash():
    assert "not valid YAML" in problem("name: " + "[" * 1100)


def models(schema):
    return [schema, *schema["$defs"].values()]


def test_json_schema_describes_every_field():
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert set(schema["required"]) == {"name", "dataset"}
    for model in [*models(schema), *schema["properties"]["invert"]["oneOf"]]:
        # of the file's family, or of the plug-in that is named
        settings = model.get("title") in ("GeneratorSpec", "ChosenSpec")
        assert settings != (model["additionalProperties"] is False)
        for name, field in model["properties"].items():
            target = schema["$defs"].get(field.get("$ref", "").rsplit("/", 1)[-1], {})
            assert field.get("description") or target.get("description"), name
    json.dumps(schema)


def test_every_model_is_strict_and_frozen():
    sections = [getattr(spec_module, n) for n in spec_module.__all__ if n.endswith("Spec")]
    assert len(sections) == 11
    for model in (*sections, *OWN.values()):
        assert issubclass(model, BaseModel)
        extra = "allow" if model is spec_module.GeneratorSpec else "forbid"
        assert model.model_config["extra"] == extra and model.model_config["frozen"]


def test_reading_a_spec_imports_nothing_heavy():
    code = (
        "import sys, schemas.spec\n"
        "heavy = {'torch', 'ray', 'apache_beam', 'sklearn', 'pyarrow', 'numpy'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


keys = st.sampled_from(["name", "dataset", "invert", "steps", "path", "analyse", "hosvd", "modes"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(keys, values, max_size=5))
def test_any_mapping_is_a_spec_or_a_spec_error(data):
    try:
        parse_spec(yaml.safe_dump(data), "/data")
    except SpecError as e:
        assert str(e).startswith("specification")


@pytest.mark.parametrize(
    ("written", "level"),
    [("0777", "0777"), ("1_000", "1_000"), ("1:30", "1:30"), ("2024-05-01", "2024-05-01"),
     ("1.10", "1.10"), ("1e3", "1e3"), ("7", "7"), ("-1", "-1"), ("0.5", "0.5"), ("no", "false"),
     ("'no'", "no"), ("None", "None"), ("NA", "NA")],
)  # fmt: skip
def test_levels_are_what_is_written(written, level):
    text = f"{MINIMAL}analyse: {{mean_difference: {{baseline: {{x: {written}}}}}}}\n"
    assert parse_spec(text, "/data").analyse.mean_difference.baseline == {"x": level}


def test_numbers_may_be_written_in_any_way():
    text = (
        f"{MINIMAL}invert: {{steps: 1_000, pixel_weight: 1e-3, learning_rate: 0.50}}\nseed: 0x1F\n"
    )
    spec = parse_spec(text, "/data")
    assert (spec.invert.steps, spec.invert.pixel_weight, spec.invert.learning_rate) == (
        1000, 0.001, 0.5)  # fmt: skip
    assert spec.seed == 31


def test_words_that_yaml_reads_as_something_else_get_a_hint():
    text = f"{MINIMAL}analyse: {{mean_difference: {{factors: [on]}}}}\n"
    message = problem(text)
    assert "between quotes (YAML reads yes, no, on and off as true and false)" in message


@pytest.mark.parametrize(("text", "told"), [("a\\0b", "null character"), ("a\\ud800", "'.*ud800'")])
def test_a_path_with_what_no_path_may_hold_is_refused(text, told):
    with pytest.raises(SpecError, match=f"'dataset.path'.*{told}"):
        parse_spec(f'name: a\ndataset: {{path: "{text}"}}\n', base=".")
