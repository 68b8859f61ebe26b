"""FID, KID, precision and recall of a run: originals and reconstructions, another run, sweeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conformance.analysis import World
from in_process import InProcess
from inversion_fixture import annotator
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from tiny_run import make_tiny, run_tiny, spec_of, write_spec

import generators
from generators.annotators import load_annotator
from pipelines.analyses.base import Model
from pipelines.analyses.catalog import analysis_of
from pipelines.analyses.figures import Curve, Table, Text
from pipelines.report.figures import drawn as shown
from pipelines.runs.analyse import fit_analysis
from pipelines.runs.lineage import known_of
from pipelines.runs.plan import plan_stages
from schemas.directions.direction_set import DirectionSet
from schemas.errors import DataError, SpecError
from schemas.spec import load_spec, parse_spec
from schemas.store.latent_store import LatentStore
from transforms.images.preprocess import to_uint8

N, DRAWN = 30, 24
LOOK = {"name": "look", "model": "look.onnx"}


def fid(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    mean = x.mean(0) - y.mean(0)
    return float(mean @ mean + np.trace(c + d) - 2 * np.trace(sqrtm(c @ d)).real)


def share(covering: np.ndarray, covered: np.ndarray, k: int = 3) -> float:
    own = np.sort(cdist(covering, covering), axis=1)[:, k]
    return float((cdist(covered, covering) <= own).any(axis=1).mean())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs without Ray and Beam: of pictures, and of drawn rows against these."""
    root = tmp_path_factory.mktemp("runs")
    make_tiny(root, N)
    annotator(root, "look", "features", list("abc"))
    real = spec_of(root, name="real", annotate=[LOOK], analyse={"fidelity": {}}, output="real")
    del real["evaluate"]
    write_spec(root, real)
    shutil.copy(root / "spec.yaml", root / "real.yaml")
    run_tiny(root / "real.yaml")
    sampled = {
        "name": "sampled",
        "dataset": {"kind": "sampled", "n": DRAWN},
        "generator": "generator.safetensors",
        "invert": {"space": "w", "block_rows": 64},
        "annotate": [LOOK],
        "analyse": {
            "fidelity": {
                "reference": "real",
                "truncations": [1, 0.5],
                "truncation_samples": 40,
                "kid_subset_size": 10,
            }
        },
        "output": "sampled",
    }
    write_spec(root, sampled)
    run_tiny(root / "spec.yaml")
    return root


def store_of(out: Path) -> LatentStore:
    return LatentStore.open(next(p for p in (out / "stores").iterdir() if p.is_dir()))


def facts_of(out: Path) -> dict:
    found = DirectionSet.load(next((out / "directions").iterdir()))
    return found.load_model("fidelity")[1]


def features(out: Path, stage: str) -> np.ndarray:
    return np.asarray(store_of(out).array(f"annotations/{stage}")[:])


def test_reconstructions_are_compared_with_their_originals(runs):
    facts = facts_of(runs / "real")
    x, y = features(runs / "real", "look"), features(runs / "real", "look@render")
    assert facts["n"] == [N, N] and facts["features"] == 3
    assert list(facts["metrics"]) == ["FID*", "KID*", "precision*", "recall*"]
    assert facts["metrics"]["FID*"] == pytest.approx(fid(x, y), rel=1e-6)
    assert facts["metrics"]["precision*"] == share(x, y)
    assert facts["metrics"]["recall*"] == share(y, x)
    assert facts["limited"] == ["fidelity.kid_subset_size: 1000 asked for, 30 used, rows of a side"]
    assert facts["few"] and not facts["singular"]


def test_what_is_drawn_is_compared_with_another_run(runs):
    facts = facts_of(runs / "sampled")
    x, y = features(runs / "real", "look"), features(runs / "sampled", "look@render")
    assert facts["n"] == [N, DRAWN] and facts["real"] == "the originals of run 'real'"
    assert facts["metrics"]["FID*"] == pytest.approx(fid(x, y), rel=1e-6)
    assert facts["metrics"]["precision*"] == share(x, y)
    assert not any(
        "reference" in key for key in facts["inputs"]["parameters"] if key != "reference"
    )


def test_a_sweep_draws_the_same_seeds_at_every_truncation(runs):
    facts = facts_of(runs / "sampled")
    x, model = features(runs / "real", "look"), generators.load(str(runs / "generator.safetensors"))
    look = load_annotator(str(runs / "look.onnx"))
    for found, psi in zip(facts["sweep"], (1.0, 0.5), strict=True):
        with torch.no_grad():
            code = model.sample("w", range(40), truncation=psi)
            pictures = to_uint8(model.draw(code).numpy())
        y = look.annotate(pictures)
        assert found["truncation"] == psi and found["n"] == 40
        assert found["FID*"] == pytest.approx(fid(x, y), rel=1e-6)
        assert found["precision*"] == share(x, y)
        assert found["recall*"] == share(y, x)


def test_the_report_shows_them_with_their_rows(runs):
    facts = facts_of(runs / "sampled")
    found = analysis_of("fidelity").figures(Model({}, facts))
    assert [type(f) for f in found if isinstance(f, Table)] == [Table, Table]
    text = next(f for f in found if isinstance(f, Text))
    assert "A star" in text.text and "compare only figures of as many" in text.text
    few = analysis_of("fidelity").figures(Model({}, {**facts, "singular": True}))
    assert "no more pictures than features: FID says little" in few[0].text
    table = next(f for f in found if isinstance(f, Table))
    assert [row[0].split(",")[0] for row in table.rows] == ["FID*", "KID*", "precision*", "recall*"]
    assert [cell.value for cell in table.rows[0][2:4]] == [N, DRAWN]
    curve = next(f for f in found if isinstance(f, Curve))
    assert curve.x.tolist() == [0.5, 1.0]
    assert shown(found)[0]["kind"] == "lead"


def test_a_changed_reference_makes_it_stale_and_a_moved_one_does_not(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    root = tmp_path / "runs"

    def state():
        parts = {p.name: p for stage in plan_stages(load_spec(root / "spec.yaml")) for p in stage}
        return parts["fidelity"]

    assert state().state == "current" and not state().notes
    (root / "real").rename(root / "elsewhere")
    text = (root / "spec.yaml").read_text()
    (root / "spec.yaml").write_text(text.replace("reference: real", "reference: elsewhere"))
    assert state().state == "current"
    store = LatentStore.open(store_of(root / "elsewhere").path, "r+")
    values = np.asarray(store.array("annotations/look")[:])
    ok, none = np.ones(N, np.uint8), np.zeros(N, np.uint8)
    fp = store.block_fp("look", 0, [("other", "active")] * N, 1)
    store.write_block("look", 0, {"annotations/look": values}, ok, none, fp)
    assert state().state == "stale" and "reference" in " ".join(state().causes)
    assert state().notes[-1].startswith("80 pictures to draw and measure")


def problems(root: Path, **changes) -> str:
    spec = load_spec(root / "spec.yaml")
    own = spec.analyse.fidelity.model_copy(update=changes)
    analyse = spec.analyse.model_copy(update={"fidelity": own})
    spec = spec.model_copy(update={"analyse": analyse})
    from schemas.index import DatasetIndex

    index = DatasetIndex.load(root / "sampled/index.parquet")
    known = known_of(spec, store_of(root / "sampled"), index)
    return "\n".join(analysis_of("fidelity").problems(known, own))


def test_bad_input_is_told_before_anything_is_computed(runs, tmp_path):
    assert problems(runs) == ""
    assert "no run in" in problems(runs, reference=str(runs / "nothing"))
    assert "has nothing to compare sampled rows with" in problems(runs, reference=None)
    assert "no annotator of kind 'features'" in problems(runs, features="marks")
    told = problems(runs, truncations=[0.5], truncation_space="z")
    assert "codes of 'z' are not truncated: set 'analyse.fidelity.truncation_space' to" in told
    assert "'q', which has no prior" in problems(runs, truncation_space="q")
    # another network in the other run
    shutil.copytree(runs / "real", tmp_path / "real")
    noted = json.loads((tmp_path / "real/lineage.json").read_text())
    ours = noted["annotate"]["look"]["annotator"]
    noted["annotate"]["look"]["annotator"] = "cd" * 32
    (tmp_path / "real/lineage.json").write_text(json.dumps(noted))
    told = problems(runs, reference=str(tmp_path / "real"))
    assert repr("cd" * 32) in told and repr(ours) in told and "with one network" in told
    noted["annotate"] = {}
    (tmp_path / "real/lineage.json").write_text(json.dumps(noted))
    assert "has not finished its stage 'annotate'" in problems(
        runs, reference=str(tmp_path / "real")
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World.make(tmp_path_factory.mktemp("world") / "store")


def test_an_official_network_takes_the_star_away(world, tmp_path):
    annotator(tmp_path, "look", "features", list("abcd"),
              options={"network": "inception-v3-2015-12-05"})  # fmt: skip
    text = f"name: a\ndataset: {{path: .}}\nannotate: [{{name: look, model: {tmp_path}/look.onnx}}]"
    spec = parse_spec(f"{text}\nanalyse: {{fidelity: }}", "/")
    facts = fit_analysis("fidelity", spec, world.store, world.index, InProcess())[0].facts
    assert list(facts["metrics"]) == ["FID", "KID", "precision*", "recall*"]
    assert facts["network"] == "inception-v3-2015-12-05"


def test_features_that_cannot_be_compared_are_refused(world):  # the last one: it spoils the store
    text = "name: a\ndataset: {path: .}\nannotate: [{name: look, model: /l}]\nanalyse: {fidelity: "

    def fit(section="{}"):
        spec = parse_spec(f"{text}{section}}}", "/")
        return fit_analysis("fidelity", spec, world.store, world.index, InProcess())[0]

    assert fit().facts["n"] == [72, 72]
    assert fit("{samples: 20}").facts["n_compared"] == [20, 20]
    with pytest.raises(DataError, match="no 80 nearest"):
        fit("{neighbours: 80}")
    with pytest.raises(SpecError, match="no codes are read"):
        fit("{space: w}")
    with pytest.raises(SpecError, match="name each once"):
        fit("{truncations: [1, 1.0]}")
    store = LatentStore.open(world.store.path, "r+")
    values = np.asarray(store.array("annotations/look")[:16])
    values[3, 1] = np.nan
    ok, none = np.ones(16, np.uint8), np.zeros(16, np.uint8)
    fp = store.block_fp("look", 0, [("other", "active")] * 16, 1)
    store.write_block("look", 0, {"annotations/look": values}, ok, none, fp)
    with pytest.raises(DataError, match="features of the originals: rows hold NaN"):
        fit()
