"""The landmark analysis of a run: models, parameters of rows, directions; and Beam's equal bits."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError
from stores import create, flags, fp_of, index_of, n_of

from pipelines.analyses.measured import Measured
from pipelines.analyses.nrsfm import PLUGIN
from pipelines.analyses.nrsfm.fit import solve_shapes
from pipelines.runs.analyse import fit_analysis
from schemas.sections.nrsfm import NrsfmSpec
from schemas.spec_models import RunSpec
from schemas.store.latent_store import ArraySpec
from tests.transforms.nrsfm.test_latent_shape import drawn
from transforms.accumulate.blocks import ArrayBlocks
from transforms.accumulate.passes import run_passes
from transforms.beam.engine import BeamEngine
from transforms.nrsfm.fit import NRSfMSolver
from transforms.nrsfm.joint import JointSolver
from transforms.nrsfm.regressor import LatentShapeSolver
from transforms.nrsfm.sequence import SequenceSolver


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """40 rows of codes (3, 4) and landmarks that follow from them, y down; row 3 set aside."""
    codes, points = drawn(n=40, d=12, noise=0.01)
    landmarks = np.swapaxes(points * np.array([1.0, -1.0])[:, None], 1, 2)
    landmarks[5, 2] = np.nan
    made = create(
        tmp_path_factory.mktemp("fit") / "store",
        n_rows=40,
        block_rows=16,
        arrays=[ArraySpec("latents", "w_plus", (3, 4))],
    )
    names = {"names": [f"p{i}" for i in range(12)]}
    spec = ArraySpec("landmarks", "lm@render", (12, 2), attrs=names)
    made.add_arrays("lm@render", [spec])
    for block in range(made.n_blocks):
        rows, n = made.block_slice(block), n_of(made, block)
        aside = flags(n, quarantined=[3] if block == 0 else [])
        values = {"latents/w_plus": codes[rows].reshape(n, 3, 4).astype("f4")}
        made.write_block("invert", block, values, *aside, fp_of(made, block))
        values = {spec.path: landmarks[rows].astype("f4")}
        made.write_block("lm@render", block, values, *flags(n), fp_of(made, block, "lm@render"))
    return made


def inputs_of(store, **settings):
    section = {"landmarks": "lm", "n_shapes": 1, **settings}
    spec = {"name": "t", "dataset": {"path": "."}, "analyse": {"nrsfm": section}}
    spec["annotate"] = [{"name": "lm", "model": "lm.onnx"}]
    index = index_of(40)
    return RunSpec.model_validate(spec), store, index, SimpleNamespace(run=run_passes)


def fit_nrsfm(*given):
    return fit_analysis("nrsfm", *given)[0]


def test_rows_get_parameters_and_the_regressor_directions(store):
    out = fit_nrsfm(*inputs_of(store, regressor=0.01))
    assert out.arrays["rows"].tolist() == [i for i in range(40) if i != 3]
    assert out.arrays["parameters"].shape == (39, 9)
    assert np.isfinite(out.arrays["parameters"]).all()  # row 5 lacks a point only
    assert out.facts["residual"] < out.facts["residual_rigid"]
    names = [d.name for d in out.directions]
    assert names == ["nrsfm.pitch", "nrsfm.yaw", "nrsfm.roll", "nrsfm.alpha0"]
    yaw = out.directions[1]
    assert yaw.vector.shape == (3, 4) and yaw.provenance["target"] == "yaw"
    jacobian = out.arrays["regressor_weights"].T
    moved = jacobian @ yaw.vector.ravel()
    assert moved[4] > 0 and np.abs(np.delete(moved, 4)).max() < 1e-6 * moved[4]
    assert out.facts["regressor"]["rms"] <= out.facts["regressor"]["rms_start"]


@pytest.mark.parametrize(
    "settings",
    [{"temporal": True}, {"temporal": True, "zoom": True}, {"robust": True}, {"refine": True}],
)
def test_other_ways_to_fit(store, settings):
    out = fit_nrsfm(*inputs_of(store, **settings))
    assert out.arrays["parameters"].shape == (39, 9) and not out.directions
    assert ("loadings" in out.arrays) == ("temporal" in settings)
    assert out.facts["flags"]["robust"] == ("robust" in settings)


def test_a_sequence_is_not_refined_twice():
    with pytest.raises(ValidationError, match="refine"):
        NrsfmSpec(landmarks="lm", temporal=True, refine=True)


def test_beam_gives_the_same_bits():
    codes, points = drawn(n=60, noise=0.01)
    arrays = {"x": codes, "points": points, "frame": np.arange(60)}
    source = ArrayBlocks(arrays, 25)
    start = run_passes(NRSfMSolver(1), source).model()
    beam = BeamEngine(passes_per_pipeline=4)
    solvers = [
        (SequenceSolver(start.rigid, 60, max_rounds=3), lambda s: s.best),
        (JointSolver(start, max_rounds=1), lambda s: s.model().rigid),
        (LatentShapeSolver(start, max_rounds=2), lambda s: s.regressor().weights),
    ]
    for solver, result in solvers:
        ours, memory = beam.run(solver, source), run_passes(solver, source)
        np.testing.assert_array_equal(result(ours), result(memory))


@pytest.mark.parametrize(
    ("scheme", "n_points", "sign"),
    [
        (None, 68, "assumed"),
        ("ibug68", 68, "front"),
        ("mine", 68, "arbitrary"),
        (None, 468, "arbitrary"),
        ("mediapipe468", 468, "front"),
        ("mine", 468, "arbitrary"),
    ],
)
def test_the_nose_is_that_of_the_scheme_that_the_annotator_names(tmp_path, scheme, n_points, sign):
    points = ArrayBlocks({"points": np.random.default_rng(0).normal(size=(6, 2, n_points))}, 6)
    (tmp_path / "lm.onnx").write_bytes(b"")
    card = {
        **{"name": "lm", "kind": "landmarks", "names": [f"p{i}" for i in range(n_points)]},
        "input": {"size": 8},
    } | ({} if scheme is None else {"scheme": scheme})
    (tmp_path / "lm.json").write_text(json.dumps(card))
    models = [SimpleNamespace(name="lm", render=True, model=str(tmp_path / "lm.onnx"))]
    own = NrsfmSpec(landmarks="lm", n_shapes=0)
    lm = Measured("landmarks/lm@render", "lm@render", "landmarks", tuple(card["names"]))
    known = SimpleNamespace(spec=SimpleNamespace(annotate=models), measurements=lambda *a: [lm])
    selection = PLUGIN.select(known, own)
    data = SimpleNamespace(selection=selection, engine=SimpleNamespace(run=run_passes), n_rows=6)
    model = solve_shapes(data, own, points, 0)
    assert model.flags["depth_sign"] == sign
