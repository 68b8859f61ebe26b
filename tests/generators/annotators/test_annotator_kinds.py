"""Kinds of annotators: the built-in ones by one suite, and one that another package brings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conformance.annotator import AnnotatorSuite
from plugin_packages import forget, install

from generators.annotators import load_annotator
from generators.annotators.card import read_card, read_description
from generators.annotators.kinds.catalog import KINDS, role_of
from pipelines.analyses.base import Known
from pipelines.analyses.catalog import analysis_of
from pipelines.analyses.measured import measurements, promised
from pipelines.downstream.export import export_rows
from pipelines.evaluation.meter import Meter, attributes
from pipelines.stages.annotate_stages import stages_of
from schemas.errors import CheckpointError, UsageError
from schemas.index import DatasetIndex, NewRow
from schemas.spec import RunSpec
from schemas.spec_models import AnnotateSpec
from schemas.store.latent_store import ArraySpec
from tests import stores
from tests.generators.annotators.test_annotator_models import expected, model, pictures


def embedding(folder: Path, names: object = 6) -> str:
    file = model(folder, kind="embedding", k=6)
    beside = Path(file).with_suffix(".json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "names": names}))
    return file


class TestScores(AnnotatorSuite):
    changes = {"activation": "sigmoid"}

    @pytest.fixture
    def kind(self):
        return KINDS.load("scores")

    @pytest.fixture
    def file(self, tmp_path):
        return model(tmp_path)


class TestPose(AnnotatorSuite):
    changes = {"unit": "radians"}

    @pytest.fixture
    def kind(self):
        return KINDS.load("pose")

    @pytest.fixture
    def file(self, tmp_path):
        return model(tmp_path, names=["yaw", "pitch"], kind="pose")


class TestLandmarks(AnnotatorSuite):
    changes = {"coordinates": "unit", "axes": "yx", "order": "planes"}

    @pytest.fixture
    def kind(self):
        return KINDS.load("landmarks")

    @pytest.fixture
    def file(self, tmp_path):
        return model(tmp_path, kind="landmarks", k=4, order="points")


class TestQuantities(AnnotatorSuite):
    changes = {"presence": {"output": "out", "threshold": 1e9, "index": 0}}

    @pytest.fixture
    def kind(self):
        return KINDS.load("quantities")

    @pytest.fixture
    def file(self, tmp_path):
        return model(tmp_path, kind="quantities")


class TestEmbedding(AnnotatorSuite):
    changes = {"presence": {"output": "out", "threshold": 1e9, "index": 0}}

    @pytest.fixture
    def kind(self):
        return KINDS.load("embedding")

    @pytest.fixture
    def file(self, tmp_path):
        return embedding(tmp_path)


class TestBoxes(AnnotatorSuite):
    changes = {"coordinates": "unit"}

    @pytest.fixture
    def kind(self):
        return KINDS.load("boxes")

    @pytest.fixture
    def file(self, tmp_path):
        names = ["left", "top", "right", "bottom", "angle"]
        return model(tmp_path, kind="boxes", k=5, names=names)


def test_the_built_in_kinds_are_those_of_the_suites():
    assert set(KINDS.own()) == {
        "scores", "pose", "landmarks", "embedding", "quantities", "boxes", "features",
        "text_scores",
    }  # fmt: skip


def test_an_embedding_has_length_one_and_is_no_label(tmp_path):
    file = embedding(tmp_path)
    images = pictures(4)
    found = load_annotator(file).annotate(images)
    wanted = expected(images, 6)
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    card = read_card(file)
    assert card.names == ("0", "1", "2", "3", "4", "5") and role_of(card.kind) == "embedding"
    assert attributes([card]) == []
    entry = AnnotateSpec(name="m", model=file)
    assert all(promised([entry], {"m": card}, role) == [] for role in ("scores", "pose"))
    (first, *_) = stages_of([entry])
    assert (first.array, first.spec().attrs["units"]) == ("annotations/m", "unit vector")
    for names, message in [(0, "'names' is 0: give a whole number"), ([], "at least one name")]:
        with pytest.raises(CheckpointError, match=message):
            read_description(embedding(tmp_path, names))


def test_fingerprints_of_descriptions_of_the_first_release_stay(tmp_path):
    card = read_description("bundled:faces64/attributes")
    assert set(card.identity()) == {
        "kind", "names", "output", "input_name", "size", "layout", "range", "mean", "std",
        "colour", "resize", "coordinates", "axes", "activation", "presence",
    }  # fmt: skip


def test_another_version_of_a_kind_makes_its_numbers_stale(tmp_path, monkeypatch):
    file = embedding(tmp_path)
    first = read_card(file)
    monkeypatch.setattr(type(KINDS.load("embedding")), "version", 2)
    second = read_card(file)
    assert second.identity() == first.identity() | {"version": 2}
    assert second.fingerprint != first.fingerprint


TOY = """
from generators.annotators.kinds.base import AnnotatorKind

class Warmth(AnnotatorKind):
    name = "warmth"
    role = "scores"
    unit = "kelvin"

    def check(self, names, options):
        if set(options) != {"zero"}:
            raise ValueError(f"'options' is {dict(options)!r}: give 'zero'")

    def finish(self, values, card, shape):
        return values + card.options["zero"]

PLUGIN = Warmth()
"""


class TestAnotherPackagesKind(AnnotatorSuite):
    changes = {"options": {"zero": 1.0}}

    @pytest.fixture(autouse=True)
    def installed(self, tmp_path, monkeypatch):
        (tmp_path / "site").mkdir()
        install(tmp_path / "site", monkeypatch, "latentflow.annotators", "warmth", TOY)
        yield
        monkeypatch.undo()
        forget()

    @pytest.fixture
    def kind(self):
        return KINDS.load("warmth")

    @pytest.fixture
    def file(self, tmp_path):
        return model(tmp_path, kind="warmth", options={"zero": 273.0})

    def test_its_numbers_are_what_its_role_says(self, file):
        images = pictures(3)
        found = load_annotator(file).annotate(images)
        np.testing.assert_allclose(found, expected(images) + 273.0, rtol=1e-5)
        card, entry = read_card(file), AnnotateSpec(name="m", model=file)
        (source,) = promised([entry], {"m": card}, "scores")
        assert source.names == ("a", "b")
        assert attributes([card]) == [(card, ("a", "b"))]
        assert next(iter(stages_of([entry]))).spec().attrs["units"] == "kelvin"

    def test_a_store_of_it_is_read_as_its_role_says_and_not_without_its_package(
        self, file, tmp_path, monkeypatch
    ):
        store = stores.create(tmp_path / "store", 8)
        facts = {"kind": "warmth", "names": ["a", "b"]}
        store.add_arrays("m", [ArraySpec("annotations", "m", (2,), attrs=facts)])
        stores.write(store, 0)
        scores = {"annotations/m": np.arange(16.0).reshape(8, 2).astype("f4")}
        store.write_block("m", 0, scores, *stores.flags(8), stores.fp_of(store, 0, "m"))
        index = DatasetIndex.empty().append([NewRow(f"{i:02x}" * 32, f"{i}") for i in range(8)])
        annotate = [AnnotateSpec(name="m", model=file)]
        spec = RunSpec(
            name="r",
            dataset={"kind": "folder", "path": "x"},
            generator="bundled:faces64",
            output="x",
            analyse={"svm": {}, "mean_difference": {}, "s_space": {}},
        )

        def measured(kind, labels):
            return measurements(store, annotate, kind, labels)

        known = Known(spec, index, {"w_plus": (3, 4)}, measured)
        for name in ("svm", "mean_difference", "s_space"):
            chosen = analysis_of(name).select(known, getattr(spec.analyse, name))
            assert [m.names for m in chosen.measured] == [("a", "b")], name
        meter = Meter(None, [load_annotator(file)], "w_plus")
        assert (meter.names("scores"), meter.names("pose")) == (["a", "b"], [])
        export_rows(store, index, "interfacegan_latents", tmp_path / "i")
        np.testing.assert_array_equal(np.load(tmp_path / "i" / "m.b_scores.npy")[:, 0] % 2, 1)
        monkeypatch.undo()
        forget()
        with pytest.raises(UsageError, match="'warmth' are in use, which is not installed here"):
            measurements(store, annotate, "scores")
        with pytest.raises(UsageError, match="install the package that brings it"):
            export_rows(store, index, "interfacegan_latents", tmp_path / "again")
        assert not (tmp_path / "again").exists()

    def test_its_options_are_checked_by_itself(self, file):
        self.changed(file, options={"one": 1})
        with pytest.raises(CheckpointError, match="'options' is .'one': 1.: give 'zero'"):
            read_card(file)


def test_a_kind_that_nobody_brings_is_refused_with_those_there_are(tmp_path):
    for kind in ("warmth", 3, ["scores"], None):
        with pytest.raises(CheckpointError, match="'kind' is .*expected one of.*'embedding'"):
            read_card(model(tmp_path, kind=kind))
    with pytest.raises(CheckpointError, match="kind 'scores' has none"):
        read_card(model(tmp_path, options={"zero": 1}))
