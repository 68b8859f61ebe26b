"""Analyses of activations: what a layer puts out while the run's codes are drawn."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import InProcess
from inversion_fixture import CONFIG
from PIL import Image
from tiny_run import direct_zarr, run_tiny, write_spec

import generators
from generators.families.stylegan2.adapter import StyleGAN2Adapter
from generators.families.stylegan2.network import StyleGAN2
from generators.protocols import Code, Edit
from pipelines.analyses.spaces import Conversion, Spaces
from pipelines.cli import main
from pipelines.compare.transfer import transfer_directions
from pipelines.compare.two_runs import ComparedRun
from pipelines.engine.scratch import ScratchEngine
from pipelines.runs.analyse import analyse, fit_analysis
from pipelines.runs.check import check_run, held_spaces
from pipelines.runs.lineage import analysis_inputs
from pipelines.runs.plan import plan_stages
from schemas.directions import DirectionSet
from schemas.errors import SpecError, UsageError
from schemas.index import DatasetIndex
from schemas.spec import load_spec
from schemas.store.latent_store import LatentStore

N, CLASSES = 70, 2
MEAN, MAPS = "features.b16.conv1", "features.b8.conv0"
ANALYSES = {
    "mean_difference": {"space": MEAN},
    "pca": {"space": MAPS, "n_components": 3, "n_directions": 2, "solver": "gram"},
    "sefa": {"n_components": 1, "space": "w_plus"},
}


class Finished:
    """A run of rows drawn into z, with its classes as factor."""

    def __init__(self, root: Path) -> None:
        torch.manual_seed(0)
        network = StyleGAN2(replace(CONFIG, c_dim=CLASSES))
        torch.nn.init.constant_(network.synthesis.b8.conv0.noise_strength, 0.7)
        generators.save_safetensors(StyleGAN2Adapter(network), root / "generator.safetensors")
        self.file = write_spec(
            root,
            {
                "name": "drawn",
                "dataset": {"kind": "sampled", "n": N},
                "generator": "generator.safetensors",
                "invert": {"space": "z", "block_rows": 64},
                "analyse": ANALYSES,
                "evaluate": {"samples": 3, "strengths": [-1, 1]},
                "output": "out",
            },
        )
        self.spec, self.out = load_spec(self.file), root / "out"
        run_tiny(self.file, "report")
        (path,) = (self.out / "directions").iterdir()
        self.path, self.store = path, LatentStore.open(str(self.out / "stores" / path.name))
        self.index = DatasetIndex.load(self.out / "index.parquet")
        self.directions = DirectionSet.load(path)
        self.model = generators.load(self.spec.generator)
        self.codes = torch.from_numpy(np.asarray(self.store.array("latents/z")[:]))
        codes, names = self.index.categorical("label")
        self.labels = [int(names[code]) for code in codes]

    def maps(self, space, rows=slice(None), **options) -> np.ndarray:
        """What a layer puts out, by a hook of our own."""
        found = []
        module = self.model.network.synthesis.get_submodule(space.removeprefix("features."))
        handle = module.register_forward_hook(lambda m, given, made: found.append(made))
        with torch.no_grad(), contextlib.closing(HookOf(handle)):
            code = Code("z", self.codes[rows])
            self.model.draw(code, labels=self.labels[rows], **options)
        return found[0].numpy()


class HookOf:
    def __init__(self, handle):
        self.close = handle.remove


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Finished(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(autouse=True)
def fast():
    with direct_zarr():
        yield


def data_of(run, name, spec=None):
    return fit_analysis(name, spec or run.spec, run.store, run.index, InProcess())[1]


def changed(spec, **sections):
    """The specification with other sections of analyses."""
    analyses = type(spec.analyse).model_validate(sections)
    return spec.model_copy(update={"analyse": analyses})


def test_mean_differences_of_maps_are_those_of_what_a_hook_records(run):
    maps, labels = run.maps(MEAN).astype("f8"), np.array(run.labels)
    found = {d.name: d for d in run.directions.of_space(MEAN)}
    assert set(found) == {"mean.label-0", "mean.label-1"}
    difference = maps[labels == 1].mean(axis=0) - maps[labels == 0].mean(axis=0)
    one = found["mean.label-1"]
    assert one.vector.shape == (8, 16, 16)
    np.testing.assert_allclose(one.vector, difference / np.linalg.norm(difference), atol=1e-6)
    assert one.quality["norm"] == pytest.approx(np.linalg.norm(difference), rel=1e-5)
    assert one.sd == pytest.approx(np.std(one.project(maps), ddof=1), rel=1e-5)


def test_principal_components_of_maps_are_those_of_what_a_hook_records(run):
    flat = run.maps(MAPS).reshape(N, -1).astype("f8")
    _, values, axes = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    for i in range(2):
        direction = run.directions[f"pca.{i:03d}"]
        assert direction.space == MAPS and direction.layers is None
        assert abs(direction.vector.ravel() @ axes[i]) == pytest.approx(1, abs=1e-5)
        assert direction.sd == pytest.approx(values[i] / np.sqrt(N - 1), rel=1e-5)


@pytest.mark.parametrize("name", ["mean.label-1", "pca.000"])
def test_an_edit_adds_strength_times_sd_times_the_vector_to_the_layer(run, name):
    direction, rows = run.directions[name], slice(0, 3)
    w_plus = run.model.convert(Code("z", run.codes[rows]), "w_plus", labels=run.labels[rows])
    plain, found = run.maps(direction.space, rows), []
    module = run.model.network.synthesis.get_submodule(direction.space.removeprefix("features."))
    with torch.no_grad():
        edits = [Edit(direction, 1.5)]
        original = torch.nn.Module.register_forward_hook

        def last(self, hook):  # our hook sees what the edit's hook has made
            handle = original(self, hook)
            if self is module:
                original(self, lambda m, given, made: found.append(made.numpy()))
            return handle

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.Module, "register_forward_hook", last)
            run.model.draw(w_plus, edits=edits)
        module._forward_hooks.clear()
    np.testing.assert_allclose(
        found[0] - plain, np.broadcast_to(1.5 * direction.sd * direction.vector, plain.shape),
        atol=1e-5,
    )  # fmt: skip


def test_the_run_evaluates_shows_and_edits_them_beside_those_of_other_spaces(run, tmp_path):
    assert {d.space for d in run.directions} == {MEAN, MAPS, "w_plus"}
    assert run.directions.space == "z"
    page = (run.out / "report.html").read_text()
    assert all(d.name in page for d in run.directions) and MAPS in page
    for name in ("mean.label-1", "pca.000"):
        with pytest.raises(SystemExit) as end:
            main(["edit", str(run.file), "-d", name, "--rows", "0,1", "--strengths", "0,30",
                  "--out", str(tmp_path / "s.png")])  # fmt: skip
        assert not end.value.code
        strip = np.asarray(Image.open(tmp_path / "s.png"))
        assert strip.std() > 0
    stages = {s.name: s for stage in plan_stages(run.spec) for s in stage}
    assert {stages[n].state for n in ("analyse", "evaluate", "report")} == {"current"}
    (note,) = stages["pca"].notes
    assert f"recorded while codes of 'z' are drawn, {N} rows" in note and "143.4 kB" in note
    side = ComparedRun.open(run.file)
    with pytest.raises(UsageError, match=f"'pca.000': '{MAPS}'.*compute them again"):
        transfer_directions(side, side, ["pca.000"])


def test_lineage_names_what_was_recorded_and_how(run):
    fp = run.model.facts.fingerprint
    way = ["z", "w", "w_plus", MAPS]
    inputs = analysis_inputs("pca", run.spec, run.store, run.index)
    recorded = {"noise": "const", "precision": "float32"}
    assert inputs["derived"] == {MAPS: {"way": way, "version": 1, "generator": fp, **recorded}}
    of_weights = analysis_inputs("sefa", run.spec, run.store, run.index)["derived"]
    assert not recorded.keys() & of_weights["w_plus"].keys()
    silent = run.spec.invert.model_copy(update={"noise_mode": "none"})
    without = run.spec.model_copy(update={"invert": silent})
    source = data_of(run, "pca", without).codes()
    found = np.concatenate([source.read(b)[1]["x"] for b in range(source.n_blocks)])
    np.testing.assert_allclose(found, run.maps(MAPS, noise="none"), atol=1e-5)
    assert np.abs(found - run.maps(MAPS)).max() > 0.1
    assert analysis_inputs("pca", without, run.store, run.index) != inputs


def test_large_maps_are_recorded_a_few_rows_at_a_time_with_the_same_result(run, monkeypatch):
    sizes, draw = [], StyleGAN2Adapter._synthesised

    def counted(self, styles, *given):
        sizes.append(len(styles))
        return draw(self, styles, *given)

    monkeypatch.setattr(StyleGAN2Adapter, "_synthesised", counted)
    row = 4 * 8 * 8 * 8
    monkeypatch.setattr("pipelines.analyses.spaces.BATCH_BYTES", 5 * row)
    monkeypatch.setattr("pipelines.analyses.inputs.PART_BYTES", 16 * row)
    data = data_of(run, "pca")
    assert set(sizes) == {4}
    source = data.codes()
    assert source.n_blocks == 8  # 64 rows and 6, by 16
    parts = [source.read(block) for block in range(source.n_blocks)]
    assert [len(rows) for rows, _ in parts] == [16, 16, 16, 16, 6, 0, 0, 0]
    assert np.concatenate([rows for rows, _ in parts]).tolist() == list(range(N))
    found = np.concatenate([arrays["x"] for _, arrays in parts])
    np.testing.assert_allclose(found, run.maps(MAPS), atol=1e-5)
    np.testing.assert_array_equal(data.codes_of(np.array([69, 3])), found[[69, 3]])
    keys = {source.part_key(range(block, block + 1)) for block in range(source.n_blocks)}
    assert len(keys) == 8 and source.part_key(range(3, 5)) not in keys


def test_activations_are_of_the_codes_with_all_that_belongs_to_them(run, monkeypatch):
    noise = np.random.default_rng(0).normal(size=(N, 8, 8)).astype("f4")

    def stored(store, space, rows):
        beside = {"noise/b8.conv0": torch.from_numpy(noise[rows])}
        return Code(space.name, torch.zeros(len(rows), *space.shape), beside)

    monkeypatch.setattr("pipelines.analyses.spaces.stored_code", stored)
    way, fp = ("w", "w_plus", MAPS), run.model.facts.fingerprint
    change = Conversion(run.spec.generator, fp, way, noise="const", store=run.store.path)
    w = run.model.convert(Code("z", run.codes), "w", labels=run.labels)
    found = change(w.main.numpy(), np.arange(N))
    beside = Code("w", w.main, {"noise/b8.conv0": torch.from_numpy(noise)})
    expected = run.model.convert(beside, MAPS).main.numpy()
    plain = run.model.convert(Code("w", w.main), MAPS).main.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - plain).max() > 0.1


def test_layers_are_those_that_the_space_says(run):
    facts = run.model.facts
    spaces = Spaces({"z": (8,)}, lambda: facts)
    assert spaces.layered("w_plus") and spaces.recorded(MAPS)
    assert not any(spaces.layered(name) for name in ("z", "w", "s", MAPS))
    assert not spaces.recorded("w_plus")
    steps = replace(facts.spaces[MAPS], name="h", shape=(5, 8, 4, 4), layered=True)
    flat = replace(steps, name="map", shape=(4, 6), layered=False)
    stored = Spaces({s.name: s.shape for s in (steps, flat)},
                    lambda: replace(facts, spaces={"h": steps, "map": flat}))  # fmt: skip
    assert stored.layered("h") and not stored.layered("map")
    assert Spaces({"w_plus": (6, 8)}).layered("w_plus")
    data = data_of(run, "mean_difference")
    assert data.n_layers == 0 and data.width == 8 * 16 * 16 and len(data.slabs({})) == 1


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"pca": {"space": MAPS, "layers": "each"}}, "pca.layers' is 'each'.*have no layers"),
        ({"sefa": {"space": MAPS}}, "sefa.space' is 'features.b8.conv0'.*'w' and 'w_plus'"),
        ({"jacobian": {"space": MAPS}}, "jacobian.space' is 'features.b8.conv0', which is rec"),
        ({"hosvd": {"space": MAPS, "modes": ["label"], "stacked": True}}, "hosvd.stacked'"),
        ({"pca": {"space": "features.b9.conv0"}}, "pca.space' is 'features.b9.conv0'"),
    ],
)
def test_what_activations_cannot_give_is_refused_before_anything_runs(run, sections, told):
    from pipelines.folder.store_identity import identify_run

    spec = changed(run.spec, **sections)
    with pytest.raises(SpecError, match=told):
        check_run(spec, run.index, held_spaces(spec, identify_run(spec, run.out)))


def test_a_regression_of_too_many_coordinates_is_told(run, monkeypatch):
    monkeypatch.setattr("pipelines.analyses.mean_difference.fit.REGRESSED_FEATURES", 100)
    from pipelines.analyses.mean_difference.fit import _regressions
    from schemas.errors import DataError

    with pytest.raises(DataError, match="has 2048 coordinates, and a regression solves for"):
        _regressions(data_of(run, "mean_difference"), None, None, ("age",), {}, None)


class Died(BaseException):
    pass


def test_killed_while_maps_are_kept_the_next_run_gives_the_same(run, tmp_path, monkeypatch):
    path, spec = tmp_path / "set", changed(run.spec, pca=ANALYSES["pca"])
    fp, left = run.model.facts.fingerprint, [1]

    def again():
        return analyse(spec, run.store, run.index, fp, path, InProcess(keep=False))

    def dying(file, array, allow_pickle, save=np.save):
        if not left[0]:
            raise Died
        left[0] -= 1
        save(file, array, allow_pickle=allow_pickle)

    with monkeypatch.context() as patch:
        patch.setattr("transforms.accumulate.derived.np.save", dying)
        patch.setattr(ScratchEngine, "clear", lambda self: None)  # as a kill leaves it
        with pytest.raises(Died):
            again()
    assert list(tmp_path.glob("*.partial"))
    again()
    assert not list(tmp_path.glob("*.partial"))
    found = DirectionSet.load(path)["pca.000"]
    np.testing.assert_array_equal(found.vector, run.directions["pca.000"].vector)
    shutil.rmtree(path)
