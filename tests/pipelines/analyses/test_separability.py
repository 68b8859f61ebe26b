"""Linear separability against the official protocol, written out with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from conformance.analysis import World
from in_process import InProcess
from sklearn.svm import LinearSVC

from pipelines.analyses.base import Model
from pipelines.analyses.catalog import analysis_of
from pipelines.analyses.figures import Table, Text
from pipelines.report.figures import drawn
from pipelines.runs.analyse import fit_analysis
from schemas.errors import DataError, SpecError
from schemas.spec import parse_spec


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World.make(tmp_path_factory.mktemp("world") / "store")


def spec_of(section: str):
    names = ("marks", "unused")
    models = ", ".join(f"{{name: {name}, model: /{name}}}" for name in names)
    text = (
        f"name: a\ndataset: {{path: .}}\nannotate: [{models}]\nanalyse: {{separability: {section}}}"
    )
    return parse_spec(text, "/")


def fit(world, section="{}"):
    return fit_analysis("separability", spec_of(section), world.store, world.index, InProcess())[0]


def official(codes: np.ndarray, scores: np.ndarray, share: float) -> tuple[float, list[float]]:
    """2 to the sum of the conditional entropies in bits, as in the authors' code."""
    entropies = []
    for score in scores.T:
        kept = np.argsort(-np.abs(score - 0.5), kind="stable")[: int(share * len(score))]
        label = score[kept] > 0.5
        svm = LinearSVC(tol=1e-10, max_iter=1_000_000).fit(codes[kept], label)
        said = svm.predict(codes[kept])
        p = np.array([[np.mean((said == a) & (label == b)) for b in (0, 1)] for a in (0, 1)])
        mutual = sum(
            p[a, b] * np.log2(p[a, b] / (p[a].sum() * p[:, b].sum()))
            for a in (0, 1)
            for b in (0, 1)
            if p[a, b] > 0
        )
        marginal = p.sum(axis=0)
        entropies.append(max(0.0, float(-(marginal * np.log2(marginal)).sum() - mutual)))
    return 2.0 ** sum(entropies), entropies


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_score_is_that_of_the_official_protocol(world, share):
    codes = np.asarray(world.store.array("latents/w_plus")[:]).reshape(72, -1)
    arrays = [world.store.array(f"annotations/{name}@render") for name in ("marks", "unused")]
    scores = np.concatenate([np.asarray(array[:]) for array in arrays], axis=1)
    expected, entropies = official(codes, scores.astype(np.float64), share)
    facts = fit(world, f"{{share: {share}}}").facts
    found = facts["spaces"]["w_plus"]
    assert max(entropies) > 0.05 or share < 1  # unsure rows are on both sides of a hyperplane
    assert found["attributes"] == ["smile", "glasses", "hat"]
    assert found["rows"] == [int(72 * share)] * 3
    assert found["score"] == pytest.approx(expected, rel=1e-6)
    assert np.allclose(found["entropy"], np.array(entropies) * np.log(2), atol=1e-9)
    assert all(found["converged"]) and facts["skipped"] == {}


def test_an_attribute_of_one_class_is_named_and_adds_nothing(world):
    facts = fit(world, "{threshold: 0.2}").facts  # of smile and hat all sure rows are above
    assert facts["spaces"]["w_plus"]["attributes"] == ["glasses"]
    assert facts["skipped"]["hat"] == "36 positive and 0 negative rows among the surest"
    with pytest.raises(DataError, match="no attribute has rows of both classes"):
        fit(world, "{threshold: 5}")


def test_the_report_shows_each_attribute(world):
    facts = fit(world).facts
    found = analysis_of("separability").figures(Model({}, facts))
    assert isinstance(found[0], Text) and isinstance(found[1], Table)
    assert [row[0].value for row in found[1].rows] == ["smile", "glasses", "hat"]
    assert drawn(found)[0]["text"].startswith("Separability ")


def test_spaces_stand_in_the_place_of_a_space(world):
    with pytest.raises(SpecError, match="has 'spaces', a list, in its place"):
        spec_of("{space: w}")
    with pytest.raises(SpecError, match="'analyse.separability.spaces' names 'z'"):
        fit(world, "{spaces: [z]}")
    with pytest.raises(SpecError, match="'analyse.separability.attributes' names 'beard'"):
        fit(world, "{attributes: [beard]}")
