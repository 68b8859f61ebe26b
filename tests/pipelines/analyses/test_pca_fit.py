"""Principal components of a store: layers, solvers, what a change costs, through Beam."""

from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError
from stores import create, flags, fp_of, index_of, n_of

from pipelines.analyses.pca import PLUGIN
from pipelines.engine.saved_sums import SavedStatistics
from pipelines.runs.analyse import analyse, fit_analysis
from schemas.directions.direction_set import DirectionSet
from schemas.errors import StoreError, UsageError
from schemas.sections.pca import PcaSpec
from schemas.spec import parse_spec
from schemas.spec_models import RunSpec
from schemas.store.latent_store import ArraySpec
from tests.in_process import InProcess
from transforms.accumulate.blocks import ArrayBlocks
from transforms.accumulate.moments import Moments
from transforms.accumulate.passes import run_passes
from transforms.accumulate.sources import ZarrBlocks
from transforms.accumulate.stored import GroupStatistics, statistic_bytes, statistic_of_bytes
from transforms.beam.engine import BeamEngine
from transforms.pca.beam import run_pca
from transforms.pca.fit import GramSolver, RandomisedSolver, fit_pca, slabs_of
from transforms.pca.gram import SlabParts
from transforms.pca.randomised import MomentProducts
from transforms.pca.result import random_frame

SHAPE = (4, 6)


def codes_of(n):
    """z (n, 3) and codes (n, 4, 6) that depend on it, and noise."""
    rng = np.random.default_rng(0)
    both = rng.standard_normal((200, 27))[:n]
    z = both[:, :3]
    mixing = rng.standard_normal((3, 24)) * [[9], [5], [3]]
    noise = both[:, 3:] * np.linspace(1, 0.3, 24)
    return z.astype("f4"), (z @ mixing + noise + 20).reshape(n, *SHAPE).astype("f4")


def write(store, first=0):
    z, codes = codes_of(store.n_rows)
    for block in range(first, store.n_blocks):
        at, n = store.block_slice(block), n_of(store, block)
        arrays = {"latents/w_plus": codes[at], "latents/z": z[at]}
        store.write_block("invert", block, arrays, *flags(n), fp_of(store, block))


def make_store(path, n_rows, block_rows):
    specs = [ArraySpec("latents", "w_plus", SHAPE), ArraySpec("latents", "z", (3,))]
    store = create(path, n_rows=n_rows, block_rows=block_rows, arrays=specs)
    write(store)
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("pca") / "faces", 148, 64)


def inputs_of(store, path=None, **keys):
    engine = InProcess(keep=False)
    engine = engine if path is None else SavedStatistics(engine, path)
    spec = {"name": "t", "dataset": {"path": "."}, "analyse": {"pca": keys}}
    index = index_of(store.n_rows)
    return RunSpec.model_validate(spec), store, index, engine


def fit_store(*given):
    return fit_analysis("pca", *given)[0]


def same(a, b, atol=1e-7):
    np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("solver", ["covariance", "gram", "randomised"])
def test_all_layers(store, solver):
    x = codes_of(148)[1]
    found = fit_store(*inputs_of(store, n_components=5, solver=solver, n_directions=2))
    expected = fit_pca(x, 5)
    same(found.arrays["components"], expected.components)
    same(found.arrays["random_sd"], expected.random_sd)
    assert [d.name for d in found.directions] == ["pca.000", "pca.001"]
    along = x.reshape(148, -1) @ found.directions[0].vector.ravel()
    assert found.directions[0].sd == pytest.approx(along.std(ddof=1), rel=1e-6)
    assert found.facts["rows"] == 148 and found.facts["selections"][0]["converged"]


@pytest.mark.parametrize("solver", ["covariance", "gram", "randomised"])
def test_layers_of_their_own(store, solver):
    x = codes_of(148)[1]
    ranges = [(0, 4), (1, 3), (3, 4)]
    found = fit_store(*inputs_of(store, n_components=3, layers=ranges, solver=solver))
    labels = {"": slice(0, 4), "layers01-02": slice(1, 3), "layer03": slice(3, 4)}
    for name, layers in labels.items():
        expected = fit_pca(x[:, layers], 3)
        same(found.arrays[f"{name}_components" if name else "components"], expected.components)
        direction = next(
            d for d in found.directions if d.name == f"pca.{name + '.' if name else ''}000"
        )
        same(direction.vector[layers].ravel(), expected.components[0])
        assert np.linalg.norm(direction.vector) == pytest.approx(1)
        assert direction.layers == (None if not name else list(range(4))[layers])
        assert direction.sd == pytest.approx(expected.sd[0], rel=1e-6)
    assert [s["name"] for s in found.facts["selections"]] == list(labels)


def test_each_layer_and_what_is_refused(store):
    found = fit_store(*inputs_of(store, layers="each", n_directions=1))
    assert [d.name for d in found.directions] == [f"pca.layer{i:02d}.000" for i in range(4)]
    assert found.arrays["layer02_components"].shape == (6, 6)
    with pytest.raises(UsageError, match="4 layers"):
        fit_store(*inputs_of(store, layers=[(2, 5)]))
    known = SimpleNamespace(
        code_shape=lambda own: (512,), space=lambda own: "w", layered=lambda space: False
    )
    (told,) = PLUGIN.problems(known, PcaSpec(layers="each"))
    assert "no layers" in told
    for wrong in ([(3, 1)], [], [(0, 1), (0, 1)], "all"):
        with pytest.raises(ValidationError):
            PcaSpec(layers=wrong)


def test_another_number_of_components_reads_nothing_and_new_rows_their_groups(tmp_path):
    store = make_store(tmp_path / "faces", 36, 2)

    def fit(**keys):
        layers = [(0, 4), (1, 2)]
        given = inputs_of(store, tmp_path / "statistics", layers=layers, **keys)
        found, engine = fit_store(*given), given[-1]
        assert engine.blocks_read == engine.engine.blocks
        return found, engine.blocks_read

    first, blocks = fit(n_components=3)
    assert blocks == 2 * 18
    more, blocks = fit(n_components=6)
    assert blocks == 0
    np.testing.assert_array_equal(more.arrays["mean"], first.arrays["mean"])
    same(more.arrays["components"], fit_pca(codes_of(36)[1], 6).components)
    store.grow(39)
    write(store, 18)
    grown, blocks = fit(n_components=6)
    assert blocks == 2 * (20 - 16)  # the last group only
    scratch = fit_store(*inputs_of(store, n_components=6))
    np.testing.assert_array_equal(grown.arrays["components"], scratch.arrays["components"])
    assert grown.facts["rows"] == 39


def test_large_moments_are_kept_as_their_total(tmp_path, monkeypatch):
    store, folder = make_store(tmp_path / "faces", 36, 2), tmp_path / "statistics"
    monkeypatch.setattr("pipelines.engine.saved_sums.SUM_BYTES", 24 * 24 * 8 + 1000)
    first = inputs_of(store, folder)
    whole = fit_store(*first)
    assert len(list(folder.iterdir())) == 1 and first[-1].blocks_read == 18
    again = inputs_of(store, folder, n_components=2)
    found = fit_store(*again)
    assert again[-1].blocks_read == 0
    same(found.arrays["components"], whole.arrays["components"][:2])
    plain = fit_store(*inputs_of(store))
    np.testing.assert_array_equal(plain.arrays["components"], whole.arrays["components"])


def test_components_are_carried_back_to_z(store):
    z, x = codes_of(148)
    found = fit_store(*inputs_of(store, layers=[(0, 2)], n_components=3, regress_to="z"))
    scores = fit_pca(x[:, :2], 3).transform(x[:, :2].reshape(148, -1))
    expected = np.linalg.lstsq(scores, z - z.mean(axis=0, dtype=float), rcond=None)[0]
    same(found.arrays["layers00-01_z_coefficients"], expected, atol=1e-6)
    assert 0.9 < found.facts["selections"][0]["latent_r2"] <= 1
    with pytest.raises(UsageError, match="codes of .*alone"):
        fit_store(*inputs_of(store, regress_to="w"))


def test_a_run_s_analysis_solves_again_without_reading(store, tmp_path):
    index = index_of(148)
    path, x = tmp_path / "set", codes_of(148)[1].reshape(148, -1)

    def run(keys):
        spec = parse_spec("name: a\ndataset: {path: .}\nanalyse:\n  pca: " + keys, tmp_path)
        engine = InProcess(keep=False)
        folder = tmp_path / "statistics"
        report = analyse(spec, store, index, "ab" * 32, path, engine, statistics=folder)["pca"]
        return DirectionSet.load(path), engine.blocks, report

    found, blocks, _ = run("{n_components: 3}")
    assert blocks == store.n_blocks  # one pass: the standard deviations are known from it
    again, blocks, report = run("{n_components: 12, n_directions: 2}")
    assert blocks == 0 and not report["skipped"]
    assert found.names() == ["pca.000", "pca.001", "pca.002"] and len(again) == 2
    for direction in again:
        along = (x @ direction.vector.ravel()).std(ddof=1)
        assert direction.sd == pytest.approx(along, rel=1e-6)
        assert direction.quality["random_sd"] < direction.sd
        assert direction.provenance["fingerprint"] == report["fingerprint"]
    assert run("{n_components: 12, n_directions: 2}")[2]["skipped"]


# ---- through Beam


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(5)
    return (rng.standard_normal((90, 30)) * np.geomspace(4, 0.1, 30) + 1e3).astype("f4")


def test_gram_and_randomised_through_beam_give_the_same_bits(x):
    source = ArrayBlocks({"x": x}, 23)
    assert source.n_blocks == 4
    engine = BeamEngine()
    slabs = slabs_of(source, 30, width=8)
    for solver, blocks in ((GramSolver(4), slabs), (RandomisedSolver(30, 4, 12), source)):
        ours = run_pca(engine, blocks, solver=solver)
        memory = run_passes(solver, blocks).result()
        for name, value in memory.to_arrays().items():
            np.testing.assert_array_equal(getattr(ours, name), value)


def test_statistics_travel_as_arrays(x):
    frame = random_frame(30, 4)
    for statistic in (
        MomentProducts.of(x, frame),
        GroupStatistics({2: Moments.of(x), 0: Moments.of(x[:4])}),
        SlabParts({10: {"mean": np.ones(3)}, 0: {"mean": np.zeros(10)}}),
    ):
        again = statistic_of_bytes(statistic_bytes(statistic))
        assert type(again) is type(statistic)
        expected = statistic.to_arrays()
        for name, value in again.to_arrays().items():
            np.testing.assert_array_equal(value, expected[name])


def test_plain_zarr_arrays(x, tmp_path):
    import zarr

    path = str(tmp_path / "x.zarr")
    zarr.create_array(path, shape=x.shape, chunks=(20, 30), dtype="f4")[...] = x
    source = ZarrBlocks({"x": path}, 40)
    assert (source.n_rows, source.n_blocks) == (90, 3)
    np.testing.assert_array_equal(source.read(2)[1]["x"], x[80:])
    assert source.read(2)[0].tolist() == list(range(80, 90))
    assert run_pca(BeamEngine(), source, 2).n_rows == 90
    with pytest.raises(UsageError, match="block_rows"):
        ZarrBlocks({"x": path}, 0)
    with pytest.raises(StoreError, match="no Zarr array"):
        ZarrBlocks({"x": str(tmp_path / "other")})
