"""Every analysis of ours passes the suite, and one that another package brings is run like them."""

import errno
import importlib.metadata
import logging
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from conformance.analysis import AnalysisSuite, CarefulEngine, World
from pydantic import Field
from safetensors.torch import save_file

from generators.perceptual.network import FeatureNetwork
from pipelines.analyses.base import Analysis, Selection
from pipelines.analyses.catalog import ANALYSES, analysis_of, problems_of, requested
from pipelines.analyses.figures import Count, Curve, Text
from pipelines.analyses.inputs import Data, Fitted
from pipelines.report.figures import drawn
from pipelines.runs.analyse import analyse, fit_analysis
from pipelines.runs.lineage import compare_analyses, known_of
from schemas import catalog
from schemas.directions.direction import unit_direction
from schemas.directions.direction_set import DirectionSet
from schemas.errors import PluginError, SpecError
from schemas.sections import catalog as sections
from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer
from schemas.spec import json_schema, parse_spec
from transforms.accumulate.blocks import flatten_rows, statistic_kind

SECTIONS = {
    "pca": {"n_components": 4, "n_directions": 2, "layers": [[0, 3], [1, 2]]},
    "mean_difference": {"factors": ["mood", "smile", "age"], "pair_by": ["person"]},
    "svm": {"attributes": ["smile"], "max_passes": 3, "tolerance": 0.1},
    "hosvd": {"modes": ["person", "mood"], "energy": 1},
    "nrsfm": {"landmarks": "points", "n_shapes": 1, "regressor": 0.1},
    "s_space": {"attributes": ["glasses"]},
    "fidelity": {"kid_subsets": 2, "kid_subset_size": 20},
}
NEED_GENERATOR = ("sefa", "jacobian", "s_space", "path_length")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What nobody changes."""
    return World.make(tmp_path_factory.mktemp("made") / "store")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Of perceptual distances, with random weights."""
    path = tmp_path_factory.mktemp("network") / "network.safetensors"
    save_file(FeatureNetwork().state_dict(), path)
    return str(path)


@pytest.mark.parametrize("name", ANALYSES.own())
class TestOurs(AnalysisSuite):
    @pytest.fixture
    def world(self, made):
        return made

    @pytest.fixture
    def analysis(self, name):
        return analysis_of(name)

    @pytest.fixture
    def section(self, name, network):
        return SECTIONS.get(name, {"network": network} if name == "path_length" else {})

    @pytest.fixture(autouse=True)
    def _fits(self, name):
        self.fits = name not in NEED_GENERATOR


# ---- an analysis that no file of ours knows


@statistic_kind("test.FourthMoments")
@dataclass(frozen=True)
class FourthMoments:
    """Sums of the squares and fourth powers of x."""

    n: int
    second: np.ndarray
    fourth: np.ndarray

    def merge(self, other):
        parts = (self.second + other.second, self.fourth + other.fourth)
        return FourthMoments(self.n + other.n, *parts)

    def to_arrays(self):
        return {"n": np.array(self.n), "second": self.second, "fourth": self.fourth}

    @classmethod
    def from_arrays(cls, arrays):
        return cls(int(arrays["n"]), np.asarray(arrays["second"]), np.asarray(arrays["fourth"]))


@dataclass(frozen=True)
class FourthRequest:
    kind = "test.FourthRequest"
    token: str = "x"

    def prepare(self, arrays):
        return {"x": flatten_rows(arrays["x"]).astype(np.float64)}

    def statistic(self, prepared):
        x = prepared["x"]
        return FourthMoments(len(x), (x**2).sum(axis=0), (x**4).sum(axis=0))


class IcaSection(AnalysisSection):
    """Independent components: the coordinates that are least normal."""

    summary = "Independent components."

    n_components: Integer = Field(default=2, ge=1, description="Components to keep.")


class Ica(Analysis[IcaSection]):
    name, section, version, title = "ica", IcaSection, 1, "Independent components"
    labels = {"ica": "ICA"}

    def select(self, known, own):
        return Selection()

    def problems(self, known, own):
        if own.n_components > np.prod(known.code_shape(own)):
            yield f"'analyse.ica.n_components' is {own.n_components!r}: give fewer"

    def fit(self, data, own):
        found = data.engine.sum(data.codes(), FourthRequest())
        kurtosis = found.fourth * found.n / found.second**2 - 3
        out = Fitted(arrays={"kurtosis": kurtosis})
        for i in np.argsort(-np.abs(kurtosis))[: own.n_components]:
            vector = np.eye(kurtosis.size)[i]
            out.directions.append(data.direction(f"ica.{i:03d}", vector, "ica", None))
        return out

    def figures(self, model):
        values = model.arrays["kurtosis"]
        curve = Curve(np.arange(values.size), {"kurtosis": values}, "coordinate", "kurtosis")
        return [Text("{n} coordinates.", {"n": Count(values.size)}), curve]


PLUGIN = Ica()
BROKEN = SimpleNamespace(name="broken", section=int)


@pytest.fixture
def installed(monkeypatch):
    """Two packages that bring an analysis, one of them not as it should be."""
    points = [
        importlib.metadata.EntryPoint(name, f"{__name__}:{value}", sections.GROUP)
        for name, value in (("ica", "PLUGIN"), ("broken", "BROKEN"))
    ]
    found = {point.name: point for point in points}
    monkeypatch.setattr(
        catalog, "_entry_points", lambda group: found if group == sections.GROUP else {}
    )
    sections._extended.cache_clear()
    yield
    sections._extended.cache_clear()


@pytest.mark.usefixtures("installed")
class TestIca(AnalysisSuite):
    @pytest.fixture
    def world(self, made):
        return made

    @pytest.fixture
    def analysis(self):
        return PLUGIN


def spec_of(text):
    return parse_spec(f"name: made\ndataset: {{path: .}}\nanalyse: {text}", "/")


@pytest.mark.usefixtures("installed")
def test_a_section_of_another_package_is_one_like_any_other():
    spec = spec_of("{ica: , pca: }")
    assert requested(spec) == ["pca", "ica"]  # ours first
    assert spec.analyse.ica == IcaSection()
    assert spec.model_dump(mode="json")["analyse"]["ica"] == {"space": None, "n_components": 2}
    again = type(spec).model_validate(spec.model_dump(mode="json"))
    assert again.analyse.ica == spec.analyse.ica
    with pytest.raises(SpecError, match=r"line 3: unknown key 'analyse.ica.n_component'.*did you"):
        spec_of("{ica: {n_component: 3}}")
    with pytest.raises(SpecError, match=r"'analyse.ica.n_components' is 0.*Components to keep"):
        spec_of("{ica: {n_components: 0}}")
    with pytest.raises(SpecError, match=r"unknown key 'analyse.icaa'.*did you mean 'ica'"):
        spec_of("{icaa: {}}")
    with pytest.raises(PluginError, match="'broken'.*subclass of"):
        spec_of("{broken: {}}")
    properties = json_schema()["$defs"]["AnalyseSpec"]["properties"]
    assert properties["ica"]["description"] == "Independent components."
    assert list(properties)[0] == "pca" and "ica" not in json_schema_of_ours()


def json_schema_of_ours():
    return sections.AnalyseSpec.model_json_schema()["properties"]


@pytest.mark.usefixtures("installed")
def test_an_analysis_of_another_package_is_run_planned_and_shown(made, tmp_path, monkeypatch):
    world = made
    spec, path = spec_of("{ica: {n_components: 3}}"), tmp_path / "set"

    def run(spec):
        given = (spec, world.store, world.index)
        return analyse(*given, "ab" * 32, path, CarefulEngine(0), statistics=tmp_path / "sums")

    def stale(spec):
        return list(compare_analyses(spec, world.store, world.index, path).stale)

    assert stale(spec) == ["ica"]
    assert not run(spec)["ica"]["skipped"] and stale(spec) == []
    directions = DirectionSet.load(path)
    assert [d.name[:4] for d in directions] == ["ica."] * 3 and all(d.sd > 0 for d in directions)
    assert run(spec)["ica"]["skipped"]
    fewer = spec_of("{ica: {n_components: 1}}")
    assert stale(fewer) == ["ica"] and run(fewer)["ica"]["blocks_read"] == 0  # the sum was kept
    monkeypatch.setattr(Ica, "version", 2)
    assert stale(fewer) == ["ica"]
    assert stale(spec_of("{pca: }")) == ["pca"]
    arrays, facts = DirectionSet.load(path).load_model("ica")
    shown = drawn(PLUGIN.figures(SimpleNamespace(arrays=arrays, facts=facts, summary={})))
    assert [part["kind"] for part in shown] == ["lead", "figures"]
    assert shown[0]["text"] == "12 coordinates."
    many = spec_of("{ica: {n_components: 13}}")
    (told,) = problems_of(known_of(many, world.store, world.index), "ica")
    assert "give fewer" in told


LONG = unit_direction("d", "w_plus", np.ones(99), method="ica", sd=1.0)
MISTAKES = [
    ("select", ValueError("no ink"), "failed in 'select' .ValueError: no ink."),
    ("select", 3, "gives 'int' in 'select', expected 'Selection'"),
    ("problems", ZeroDivisionError("no ink"), "failed in 'problems' .ZeroDivisionError: no ink."),
    ("parameters", 3, "failed in 'parameters' .TypeError"),
    ("fit", KeyError("first\nno ink"), "failed in 'fit' .KeyError: 'first.nno ink'.: repair or"),
    ("fit", None, "gives 'NoneType' in 'fit', expected 'Fitted'"),
    ("fit", Fitted(directions=["d"]), "gives 'str' among its directions"),
    (
        "fit",
        Fitted(directions=[LONG]),
        r"'d' of shape \(99,\), and codes of 'w_plus' have",
    ),
    ("fit", Fitted(arrays={"a": np.array(["b"])}), "'ndarray' under 'a' of its model"),
    ("fit", Fitted(facts={"a": {1}}), r"facts that are no JSON .*'\$.a'"),
]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("method", "result", "told"), MISTAKES)
def test_a_mistake_of_another_package_is_told_as_its_own(
    made, tmp_path, monkeypatch, caplog, method, result, told
):
    def clumsy(*given):
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(Ica, method, clumsy)
    given = (spec_of("{ica: }"), made.store, made.index, "ab" * 32, tmp_path / "set")
    with caplog.at_level(logging.DEBUG), pytest.raises(PluginError, match=f"'ica'.*{told}") as e:
        analyse(*given, CarefulEngine(0))
    if "failed in" in told:
        assert f"package '{__name__}:PLUGIN'" in str(e.value)
        assert "in clumsy" in caplog.text or method == "parameters", "the traceback is in the log"
    assert not (tmp_path / "set").exists()


@pytest.mark.usefixtures("installed")
def test_a_full_disk_and_lack_of_memory_are_no_mistake_of_a_package(made, monkeypatch):
    for error in (OSError(errno.ENOSPC, "no space"), MemoryError()):

        def fit(self, data, own, error=error):
            raise error

        monkeypatch.setattr(Ica, "fit", fit)
        with pytest.raises(type(error)):
            fit_analysis("ica", spec_of("{ica: }"), made.store, made.index, CarefulEngine(0))


def test_a_read_that_was_not_selected_is_refused(made):
    world = made
    spec = parse_spec(
        "name: a\ndataset: {path: .}\nannotate: [{name: marks, model: /m}]\nanalyse: {pca: }", "/"
    )
    known = known_of(spec, world.store, world.index)
    data = Data.of(analysis_of("pca"), spec.analyse.pca, known, world.store, CarefulEngine(0))
    (marks,) = known.measurements("scores")
    for read, what in (
        (lambda: data.categorical("mood"), "factor 'mood'"),
        (lambda: data.continuous("age"), "factor 'age'"),
        (lambda: data.parameter("threshold"), "parameter 'threshold'"),
        (lambda: data.blocks(marks), "measurement 'annotations/marks@render'"),
        (lambda: data.codes(space="z"), "codes of space 'z'"),
    ):
        with pytest.raises(PluginError, match=f"analysis 'pca' reads {what}, which it did not"):
            read()
    assert data.factors == {} and data.measurements("scores") == []
    assert data.codes().n_blocks == 5
