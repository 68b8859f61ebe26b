"""Analyses of several spaces in one run: what is not stored is made of what is."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from in_process import InProcess
from inversion_fixture import CONFIG

import generators
from generators.families.stylegan2.adapter import StyleGAN2Adapter
from generators.families.stylegan2.network import StyleGAN2
from generators.protocols import Code
from pipelines.analyses.spaces import ROWS, Conversion, Spaces, ways
from pipelines.engine.blocks import InProcess as InOneProcess
from pipelines.engine.scratch import ScratchEngine
from pipelines.evaluation.meter import Meter, Sweep
from pipelines.evaluation.samples import Samples
from pipelines.folder.store_identity import identify_run
from pipelines.runs.analyse import analyse, fit_analysis
from pipelines.runs.check import check_run, held_spaces
from pipelines.runs.lineage import analysis_inputs
from pipelines.runs.plan import plan_stages
from pipelines.sources.open import open_source
from pipelines.stages.index import update_index
from pipelines.stages.invert import invert
from schemas.directions import DirectionSet
from schemas.errors import SpecError, UsageError
from schemas.index import DatasetIndex
from schemas.spec import RunSpec
from schemas.store import LatentStore
from transforms.accumulate.derived import with_scratch
from transforms.accumulate.sources import StoreBlocks

N, CLASSES = 75, 3
ANALYSES = {
    "pca": {"space": "w", "n_components": 3, "n_directions": 2},
    "sefa": {"n_components": 2, "space": "w_plus"},
}


def network(classes: int = 0, seed: int = 0) -> StyleGAN2Adapter:
    torch.manual_seed(seed)
    found = StyleGAN2(replace(CONFIG, c_dim=classes))
    found.mapping.w_avg.copy_(torch.randn(CONFIG.w_dim) * 0.1)
    return StyleGAN2Adapter(found)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for classes in (0, CLASSES):
        generators.save_safetensors(network(classes), root / f"{classes}.safetensors")
    return {classes: str(root / f"{classes}.safetensors") for classes in (0, CLASSES)}


class Drawn:
    """A run of rows drawn into a space, without its analyses."""

    def __init__(self, root, model, space="z", analyses=ANALYSES, block_rows=64):
        self.spec = RunSpec.model_validate(
            {
                "name": "drawn",
                "dataset": {"kind": "sampled", "n": N},
                "generator": model,
                "invert": {"space": space, "block_rows": block_rows},
                "analyse": analyses,
                "output": str(root / "out"),
            }
        )
        self.identity = identify_run(self.spec, root / "out")
        source = open_source(self.spec.dataset, self.identity.facts)
        self.index = update_index(DatasetIndex.empty(), source, self.spec.dataset)[0]
        self.index.save(root / "out/index.parquet")
        invert(self.index, source, self.identity, engine=InOneProcess())
        self.store = LatentStore.open(self.identity.path)
        self.path = root / "out/directions" / self.store.path.rpartition("/")[2]

    def codes(self, space):
        return np.asarray(self.store.array(f"latents/{space}")[:])

    def analyse(self, engine=None):
        fp = self.identity.facts.fingerprint
        return analyse(
            self.spec, self.store, self.index, fp, self.path, engine or InProcess(keep=False)
        )


@pytest.fixture(scope="module")
def drawn(models, tmp_path_factory):
    return Drawn(tmp_path_factory.mktemp("drawn"), models[0])


def test_the_ways_from_each_space_are_those_of_the_model(models):
    facts = generators.facts(models[0])
    maps = [name for name in facts.spaces if name.startswith("features.")]
    assert len(maps) == 5

    def recorded(*way):
        return {name: (*way, name) for name in maps}

    assert ways(facts, ["z"]) == {"w": ("z", "w"), "w_plus": ("z", "w", "w_plus"),
                                  "s": ("z", "w", "w_plus", "s"),
                                  **recorded("z", "w", "w_plus")}  # fmt: skip
    assert ways(facts, ["w_plus"]) == {"s": ("w_plus", "s"), **recorded("w_plus")}
    assert ways(facts, ["s"]) == {} == ways(facts, [])
    spaces = Spaces({"w": (CONFIG.w_dim,)}, lambda: facts)
    assert list(spaces) == ["w", "w_plus", "s", *maps]
    assert spaces["s"] == facts.space("s").shape
    assert "z" not in spaces and len(spaces) == 8
    asked = Spaces({"w": (4,)}, lambda: pytest.fail("the file was read"))
    assert "w" in asked and asked["w"] == (4,)
    assert list(Spaces({"w": (4,)})) == ["w"]


@pytest.mark.parametrize("classes", [0, CLASSES])
def test_derived_codes_are_those_that_the_generator_makes(models, tmp_path, classes):
    of_z = Drawn(tmp_path / "z", models[classes])
    model = generators.load(models[classes])
    labels = [row % CLASSES for row in range(N)] if classes else None
    expected = model.convert(Code("z", torch.tensor(of_z.codes("z"))), "w", labels=labels).main
    of_w = Drawn(tmp_path / "w", models[classes], "w")
    data = fit_analysis("pca", of_z.spec, of_z.store, of_z.index, InProcess())[1]
    source = data.codes()
    found = np.concatenate([source.read(block)[1]["x"] for block in range(source.n_blocks)])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found, of_w.codes("w"))  # to the bit what drawing into w stores
    np.testing.assert_array_equal(data.codes_of(np.array([70, 3])), found[[70, 3]])


def test_a_derived_code_does_not_depend_on_the_codes_beside_it(models, drawn):
    facts = generators.facts(models[0])
    change = Conversion(models[0], facts.fingerprint, ("z", "w", "w_plus", "s"))
    codes, rows = drawn.codes("z"), np.arange(N)
    whole = change(codes, rows)
    assert whole.dtype == np.float32 and whole.shape == (N, *facts.space("s").shape)
    for part in (slice(0, 1), slice(3, 70), slice(ROWS, N), slice(0, 0)):
        np.testing.assert_array_equal(change(codes[part], rows[part]), whole[part])
    np.testing.assert_array_equal(change(codes[::-1].copy(), rows[::-1]), whole[::-1])
    with pytest.raises(UsageError, match="the file changed during the run"):
        Conversion(models[0], "e" * 64, ("z", "w"))(codes, rows)


@pytest.mark.parametrize("solver", ["covariance", "gram", "randomised"])
@pytest.mark.parametrize("layers", [None, [[1, 3]]])
def test_an_analysis_of_derived_codes_has_the_bits_of_one_of_stored_codes(
    models, tmp_path, solver, layers
):
    own = {"n_components": 3, "solver": solver, "layers": layers}
    found = {}
    for stored in ("w_plus", "z"):
        run = Drawn(tmp_path / stored, models[0], stored, {"pca": {**own, "space": "w_plus"}})
        engine = ScratchEngine.beside(InProcess(keep=False), tmp_path / "set")
        found[stored] = fit_analysis("pca", run.spec, run.store, run.index, engine)[0]
        assert engine.folder.exists() == (stored == "z" and solver != "covariance")
        engine.clear()
    assert found["z"].arrays.keys() == found["w_plus"].arrays.keys()
    for name, array in found["w_plus"].arrays.items():
        np.testing.assert_array_equal(found["z"].arrays[name], array)
    assert [d.space for d in found["z"].directions] == ["w_plus"] * 3


def test_components_are_carried_to_a_space_that_is_not_stored(models, tmp_path):
    spec = {"pca": {"space": "w", "n_components": 3, "regress_to": "z"}}
    run = Drawn(tmp_path, models[0], "z", spec)
    fitted = fit_analysis("pca", run.spec, run.store, run.index, InProcess())[0]
    z, w = run.codes("z").astype("f8"), None
    change = Conversion(models[0], run.identity.facts.fingerprint, ("z", "w"))
    w = change(run.codes("z"), np.arange(N)).astype("f8")
    scores = (w - w.mean(axis=0)) @ fitted.arrays["components"].T
    expected = np.linalg.lstsq(scores, z - z.mean(axis=0), rcond=None)[0]
    np.testing.assert_allclose(fitted.arrays["z_coefficients"], expected, atol=1e-6)


def test_one_set_holds_directions_of_several_spaces_each_measured_in_its_own(drawn):
    report = drawn.analyse()
    assert {name: entry["skipped"] for name, entry in report.items()} == {
        "pca": False,
        "sefa": False,
    }
    found = DirectionSet.load(drawn.path)
    assert found.space == "z" and found.spaces() == ["z", "w", "w_plus"]
    assert {d.space for d in found.of_space("w")} == {"w"} and len(found.of_space("w")) == 2
    change = Conversion(
        drawn.spec.generator, drawn.identity.facts.fingerprint, ("z", "w", "w_plus")
    )
    codes = change(drawn.codes("z"), np.arange(N))
    for direction in found.of_space("w_plus"):  # measured over all rows
        assert direction.sd == pytest.approx(np.std(direction.project(codes), ddof=1), rel=1e-6)
    # each is applied in its own space, on codes of z
    meter = Meter(generators.load(drawn.spec.generator), [])
    few = Samples("z", drawn.codes("z")[:3])
    for direction in found:
        edited = meter.edited(few, [Sweep(direction, (0.0, 3.0), shown=3, measured=False)])[0]
        assert (edited.pictures[:, 0] != edited.pictures[:, 1]).any()
    assert not list(drawn.path.parent.glob("*.partial"))
    again = drawn.analyse()
    assert all(entry["skipped"] for entry in again.values())
    stages = {s.name: s for stage in plan_stages(drawn.spec) for s in stage}
    assert stages["pca"].state == "current" and "converted from 'z'" in stages["pca"].notes[0]


def test_lineage_names_the_way_and_stored_spaces_keep_their_fingerprints(drawn):
    inputs = analysis_inputs("pca", drawn.spec, drawn.store, drawn.index)
    assert inputs["derived"] == {
        "w": {"way": ["z", "w"], "version": 1, "generator": drawn.identity.facts.fingerprint}
    }
    plain = drawn.spec.model_copy(
        update={"analyse": type(drawn.spec.analyse)(pca={"n_components": 3})}
    )
    assert "derived" not in analysis_inputs("pca", plain, drawn.store, drawn.index)


class Died(BaseException):
    pass


def test_killed_while_codes_are_kept_nothing_is_left_of_them(models, tmp_path, monkeypatch):
    spec = {"pca": {"space": "w", "n_components": 3, "solver": "gram"}}
    run = Drawn(tmp_path / "a", models[0], "z", spec)
    run.analyse()
    expected = DirectionSet.load(run.path)["pca.000"].vector
    shutil.rmtree(run.path)
    left = [1]

    def dying(file, array, allow_pickle, save=np.save):
        if not left[0]:
            raise Died
        left[0] -= 1
        save(file, array, allow_pickle=allow_pickle)

    with monkeypatch.context() as patch:
        patch.setattr("transforms.accumulate.derived.np.save", dying)
        patch.setattr(ScratchEngine, "clear", lambda self: None)  # as a kill leaves it
        with pytest.raises(Died):
            run.analyse()
    assert list(run.path.parent.glob("*.partial"))
    run.analyse()
    assert not list(run.path.parent.glob("*.partial"))
    np.testing.assert_array_equal(DirectionSet.load(run.path)["pca.000"].vector, expected)


@pytest.mark.parametrize(
    ("analyses", "times"),
    [
        ({"pca": {"space": "w", "n_components": 2}}, 1),
        ({"pca": {"space": "w", "n_components": 2, "solver": "gram"}}, 1),
        ({"pca": {"space": "w_plus", "n_components": 2, "layers": "each"}}, 2),
        ({"pca": {"space": "w", "n_components": 2}, "mean_difference": {"space": "w"}}, 1),
        ({"pca": {"space": "w", "n_components": 2}, "mean_difference": {"space": "w_plus"}}, 3),
    ],
)
def test_rows_are_converted_once_for_all_analyses_of_a_space(
    models, tmp_path, monkeypatch, analyses, times
):
    """The first of several sums alone, of which nobody knows that others follow, keeps nothing."""
    run, converted = Drawn(tmp_path, models[CLASSES], "z", analyses), []

    def counted(self, codes, rows, convert=Conversion.__call__):
        converted.append(len(rows))
        return convert(self, codes, rows)

    monkeypatch.setattr(Conversion, "__call__", counted)
    run.analyse()
    assert sum(converted) == times * N
    assert not list(run.path.parent.glob("*.partial"))


def test_what_is_kept_of_all_rows_serves_an_analysis_of_some(models, tmp_path):
    """Each annotator has measured other rows."""
    run = Drawn(tmp_path, models[0], "z", {"pca": {"space": "w"}})
    data = fit_analysis("pca", run.spec, run.store, run.index, InProcess())[1]
    source = data.codes()
    few = replace(source.source, source=FewRows(source.source.source))
    expected = [few.read(block) for block in range(few.n_blocks)]
    for first, then in ((source.source, few), (few, source.source)):
        folder = tmp_path / f"scratch{first is few}"
        for some in (first, then):
            kept = with_scratch(some, folder)
            found = [kept.read(block) for block in range(kept.n_blocks)]
        assert len(list(folder.rglob("*.npy"))) == few.n_blocks
        if then is few:
            for (rows, codes), (own_rows, own) in zip(found, expected, strict=True):
                np.testing.assert_array_equal(rows, own_rows)
                np.testing.assert_array_equal(codes["latents/w"], own["latents/w"])


@dataclass(frozen=True)
class FewRows:
    """Every third row of a source."""

    source: StoreBlocks

    @property
    def n_blocks(self):
        return self.source.n_blocks

    def part_key(self, blocks):
        return f"few {self.source.part_key(blocks)}"

    def read(self, block):
        rows, arrays = self.source.read(block)
        return rows[::3], {name: array[::3] for name, array in arrays.items()}


def test_codes_are_not_converted_by_another_model_than_theirs(models, tmp_path, drawn, monkeypatch):
    generators.save_safetensors(network(seed=1), tmp_path / "other.safetensors")
    spec = drawn.spec.model_copy(update={"generator": str(tmp_path / "other.safetensors")})
    monkeypatch.setattr("pipelines.analyses.spaces._FACTS", {})  # as in another process
    with pytest.raises(SpecError, match="'analyse.pca.space' is 'w'"):
        fit_analysis("pca", spec, drawn.store, drawn.index, InProcess())


def test_a_space_that_no_way_leads_to_is_refused_before_anything_runs(models, tmp_path):
    run = Drawn(tmp_path, models[0], "w", {"pca": {"space": "z"}})
    spaces = held_spaces(run.spec, run.identity)
    with pytest.raises(SpecError, match="'analyse.pca.space' is 'z'.*'s', 'w', 'w_plus'"):
        check_run(run.spec, run.index, spaces)


def test_labels_are_needed_where_the_way_needs_them(models, tmp_path):
    run = Drawn(tmp_path, models[CLASSES], "z")
    bare = run.spec.model_copy(
        update={"dataset": run.spec.dataset.model_copy(update={"kind": "folder", "labels": None})}
    )
    with pytest.raises(SpecError, match="'analyse.pca' reads codes of 'w'.*dataset.labels"):
        fit_analysis("pca", bare, run.store, run.index, InProcess())
