"""Two annotators in one run: every attribute has its rows, and attributes of one name stay two."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import stores
from in_process import InProcess

from pipelines.analyses.measured import Measured, told_apart
from pipelines.evaluation.meter import Meter, evaluate_directions
from pipelines.evaluation.samples import Samples
from pipelines.runs.analyse import fit_analysis
from pipelines.runs.lineage import analysis_inputs
from schemas.directions.direction_set import DirectionSet
from schemas.index import DatasetIndex, NewRow
from schemas.spec import parse_spec
from schemas.store.latent_store import ArraySpec
from tests.pipelines.evaluation.test_evaluate import BrightnessGenerator, GreyAnnotator, direction
from transforms.directions.style_channels import StyleLayer, styles

N = 120
SPEC = """
name: two
dataset: {path: faces}
output: out
annotate:
"""
ONE, OTHER = "  - {name: one, model: m1}\n", "  - {name: other, model: m2}\n"
NAMES = {"one": ["smile", "beard"], "other": ["hat", "smile"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(store, codes (n, 12), scores by annotator); "other" measured the first 100 rows only."""
    rng = np.random.default_rng(2)
    codes = rng.standard_normal((N, 3, 4)).astype(np.float32)
    scores = {
        "one": (codes[:, 0, :2] + rng.normal(size=(N, 2)) > 0) * 1.0,
        "other": (codes[:, 2, :2] + rng.normal(size=(N, 2)) > 0) * 1.0,
    }
    store = stores.create(tmp_path_factory.mktemp("two") / "store", N, block_rows=64)
    for name, names in NAMES.items():
        attrs = {"names": names, "kind": "scores"}
        stage = f"{name}@render"
        store.add_arrays(stage, [ArraySpec("annotations", stage, (2,), attrs=attrs)])
    for block in range(store.n_blocks):
        rows = store.block_slice(block)
        n = rows.stop - rows.start
        arrays = {stores.W_PLUS: codes[rows], stores.PSNR: np.zeros(n)}
        arrays[stores.COUNT] = np.zeros(n, np.int32)
        store.write_block("invert", block, arrays, *stores.flags(n), stores.fp_of(store, block))
        for name, values in scores.items():
            stage = f"{name}@render"
            late = np.flatnonzero(np.arange(rows.start, rows.stop) >= 100).tolist()
            flags = stores.flags(n, quarantined=late if name == "other" else [])
            given = {f"annotations/{stage}": values[rows].astype("f4")}
            store.write_block(stage, block, given, *flags, stores.fp_of(store, block, stage))
    return store, codes, scores


def fit(made, name, section, annotate=ONE + OTHER):
    store = made[0]
    index = DatasetIndex.empty().append([NewRow(f"{i:064d}", f"{i}.png") for i in range(N)])
    spec = parse_spec(f"{SPEC}{annotate}analyse:\n  {name}: {section}\n", "/")
    fitted, _ = fit_analysis(name, spec, store, index, InProcess())
    return fitted, analysis_inputs(name, spec, store, index)


def test_the_stored_hyperplanes_have_a_row_for_every_attribute_of_both(made):
    both, inputs = fit(made, "svm", "{path: [0.1, 1]}")
    first, alone = fit(made, "svm", "{path: [0.1, 1]}", ONE)
    second, _ = fit(made, "svm", "{path: [0.1, 1]}", OTHER)
    assert both.facts["attributes"] == ["one.smile", "beard", "hat", "other.smile"]
    assert [d.name for d in both.directions] == [f"svm.{n}" for n in both.facts["attributes"]]
    assert first.facts["attributes"] == ["smile", "beard"]
    for name, value in both.arrays.items():
        axis = 1 if name.startswith("path_") else 0
        parts = [fitted.arrays[name] for fitted in (first, second)]
        expected = parts[0] if name == "path_c" else np.concatenate(parts, axis)
        np.testing.assert_array_equal(value, expected, err_msg=name)
    counts = [d.quality["positive"] + d.quality["negative"] for d in both.directions]
    assert counts == [120, 120, 100, 100]
    assert {d.provenance["target"] for d in both.directions} == set(both.facts["attributes"])
    assert "annotated" in inputs["parameters"] and "annotated" not in alone["parameters"]


def test_attributes_are_chosen_by_their_own_name_or_with_the_annotator_s(made):
    for wanted, found in (("smile", ["one.smile", "other.smile"]), ("other.smile", None)):
        fitted, inputs = fit(made, "svm", f"{{attributes: {wanted}}}")
        assert fitted.facts["attributes"] == (found or [wanted])
        stages = {"invert", "other@render"} | ({"one@render"} if found else set())
        assert set(inputs["blocks"]) == stages
    fitted, inputs = fit(made, "mean_difference", "{factors: one.smile}")
    assert [d.name for d in fitted.directions] == ["mean.one.smile"]
    assert set(inputs["blocks"]) == {"invert", "one@render"}


def test_an_annotator_without_two_classes_leaves_rows_of_nothing(made, monkeypatch):
    store, codes, scores = made
    fitted, _ = fit(made, "svm", "{attributes: [beard, hat], threshold: 0.5}")
    none, _ = fit(made, "svm", "{attributes: [beard, hat], threshold: 2}")
    assert none.arrays == {} and set(none.facts["skipped"]) == {"beard", "hat"}
    import pipelines.analyses.svm.fit as module

    solve = module._solve

    def one_class(data, wanted, labelled):
        m, labels = labelled.blocks.args
        if m.stage != "one@render":
            labelled = replace(
                labelled, blocks=partial(data.blocks, m, replace(labels, threshold=2))
            )
        return solve(data, wanted, labelled)

    monkeypatch.setattr(module, "_solve", one_class)
    half, _ = fit(made, "svm", "{attributes: [beard, hat], threshold: 0.5}")
    assert list(half.facts["skipped"]) == ["hat"]
    for name, value in half.arrays.items():
        assert value.shape == fitted.arrays[name].shape, name
    np.testing.assert_array_equal(half.arrays["coef"][0], fitted.arrays["coef"][0])
    assert np.isnan(half.arrays["coef"][1]).all() and not half.arrays["margins"][1].any()


def test_channels_are_of_all_rows_with_codes(made, monkeypatch):
    rng = np.random.default_rng(0)
    shared = {"weight": rng.normal(size=(5, 4)), "bias": np.ones(5)}
    layers = [
        SimpleNamespace(name=f"l{i}", ws_index=i, start=5 * i, stop=5 * i + 5, **shared)
        for i in range(3)
    ]
    monkeypatch.setattr("generators.affine.affine_layers", lambda generator: layers)
    monkeypatch.setattr("generators.load", lambda uri: None)
    s = styles(made[1], [StyleLayer(a.ws_index, a.weight, a.bias) for a in layers])
    found, _ = fit(made, "s_space", "{}")
    assert found.facts["attributes"] == ["one.smile", "beard", "hat", "other.smile"]
    assert found.arrays["relevance"].shape == found.arrays["shift"].shape == (4, 15)
    np.testing.assert_allclose(found.arrays["mean"], s.mean(axis=0))
    np.testing.assert_allclose(found.arrays["sd"], s.std(axis=0, ddof=1))
    shown = made[2]["other"][:100, 1] > 0.5
    assert found.arrays["counts"][3] == shown.sum()
    population = s[:100]
    d = (s[:100][shown] - population.mean(axis=0)) / population.std(axis=0, ddof=1)
    np.testing.assert_allclose(found.arrays["shift"][3], d.mean(axis=0), atol=1e-9)


def test_the_evaluation_keeps_two_measures_of_one_name_apart():
    first, second = GreyAnnotator("scores", ["x", "y"]), GreyAnnotator("scores", ["y", "z"])
    first.name, second.name = "a", "b"  # a's y is 1 - grey, b's y is grey
    meter = Meter(BrightnessGenerator(), [first, second, GreyAnnotator("pose", ["z"])], 7)
    assert meter.names("scores") == ["x", "a.y", "b.y", "b.z"] and meter.names("pose") == ["pose.z"]
    codes = np.zeros((9, 3), np.float32)
    directions = DirectionSet("f" * 64, "w", [direction("up", 0, "b.y")])
    effect = evaluate_directions(meter, directions, Samples("w", codes), [2], strip_rows=1)["up"][0]
    change = {k: round(v, 1) for k, v in effect["mean_change"].items()}
    assert change == {"x": 0.2, "a.y": -0.2, "b.y": 0.2, "b.z": -0.2}
    assert effect["rise_fraction"] == 0 and effect["pairs"]["pose.z"] == 9


@pytest.mark.parametrize(
    ("names", "called"),
    [
        ({"a": ["x"], "b": ["y"]}, {"a": ("x",), "b": ("y",)}),
        ({"a": ["x", "y"], "b": ["x"]}, {"a": ("a.x", "y"), "b": ("b.x",)}),
        (
            {"a": ["x"], "b": ["x"], "c": ["a.x", "b.c.a.x"]},
            {"a": ("a.x",), "b": ("b.x",), "c": ("c.a.x", "b.c.a.x")},
        ),
        ({}, {}),
    ],
)
def test_no_two_names_are_alike(names, called):
    assert told_apart(names) == called
    every = [n for given in told_apart(names).values() for n in given]
    assert len(set(every)) == len(every)


def test_columns_are_chosen_by_either_name():
    m = Measured("a", "s", "scores", ("one.x", "y"), ("x", "y"))
    assert [m.chosen(w) for w in (None, ["x"], ["one.x"], ["y", "z"], [])] == [
        [0, 1], [0], [0], [1], [],
    ]  # fmt: skip
