"""Datasets of rows drawn from the generator's prior: no images, every stage behind as ever."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from inversion_fixture import CONFIG, make, tree
from places import ROOT
from tiny_run import run_tiny, spec_of, write_annotators, write_spec

import generators
from generators.annotators import load_annotator
from generators.families.stylegan2.adapter import StyleGAN2Adapter
from generators.families.stylegan2.network import StyleGAN2
from generators.protocols import Code, ModelFacts
from pipelines.downstream.finished_run import FinishedRun, edit_run
from pipelines.engine.blocks import InProcess
from pipelines.folder.store_identity import identify
from pipelines.runs.plan import plan_stages
from pipelines.runs.run import run
from pipelines.sources.open import open_source
from pipelines.sources.sampled import row_id
from pipelines.stages import sample
from pipelines.stages.index import update_index
from pipelines.stages.invert import invert, plan_invert
from pipelines.upkeep.verify import verify
from schemas.errors import RunInterruptedError, SpecError
from schemas.index import DatasetIndex, FactorColumn, FactorInfo
from schemas.sections.dataset import DatasetSpec
from schemas.sections.invert import invert_section
from schemas.spec import load_spec
from schemas.store import LatentStore
from schemas.store.reasons import Reason, Status
from transforms.images.preprocess import to_uint8

CLASSES = 3


def network(classes: int = 0, seed: int = 0) -> StyleGAN2Adapter:
    torch.manual_seed(seed)
    found = StyleGAN2(replace(CONFIG, c_dim=classes))
    found.mapping.w_avg.copy_(torch.randn(CONFIG.w_dim) * 0.1)
    return StyleGAN2Adapter(found)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Generators without classes and with three, by their number."""
    root = tmp_path_factory.mktemp("models")
    for classes in (0, CLASSES):
        generators.save_safetensors(network(classes), root / f"{classes}.safetensors")
    return {classes: str(root / f"{classes}.safetensors") for classes in (0, CLASSES)}


def dataset(n, **more):
    return DatasetSpec(kind="sampled", n=n, **more)


def opened(spec, classes=0):
    """The source, for a generator of so many classes."""
    return open_source(spec, ModelFacts("none", "", (1, 1), {}, "z", classes=classes))


def indexed(spec, classes=0, before=None):
    source = opened(spec, classes)
    return update_index(before or DatasetIndex.empty(), source, spec)[0]


def drawn(root, model, spec, index=None, engine=None, **invert_keys):
    """The store of a sampled dataset, made now, and its index."""
    keys = {"block_rows": 64, "space": "w", **invert_keys}
    identity = identify(
        root, invert_section(keys), name="drawn", seed=5, generator_uri=model, dataset=spec
    )
    index = index or indexed(spec, identity.facts.classes)
    source = open_source(spec, identity.facts)
    invert(index, source, identity, engine=engine or InProcess())
    return LatentStore.open(identity.path), index


def codes(store, space="w"):
    return np.asarray(store.array(f"latents/{space}")[:])


# ---- rows ------------------------------------------------------------------------------------


def test_rows_are_seeds_that_are_appended_and_removed():
    first = indexed(dataset(4, seed=10))
    assert first.uris == [f"seed/{seed}" for seed in range(10, 14)]
    assert first.image_ids == [row_id(seed) for seed in range(10, 14)]
    more = indexed(dataset(6, seed=10), before=first)
    assert more.image_ids[:4] == first.image_ids and more.n_rows == 6
    fewer = indexed(dataset(3, seed=10), before=more)
    assert fewer.image_ids == more.image_ids and fewer.active.tolist() == [True] * 3 + [False] * 3
    assert indexed(dataset(4, seed=10, truncation=0.5), before=first).equals(first)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (None, "012012"),
        ("in turn", "012012"),
        (2, "222222"),
        ([2, 0], "202020"),
        ({0: 10, 2: 20}, "022022"),
    ],
)
def test_the_class_of_a_row_depends_on_its_seed_alone(labels, expected):
    index = indexed(dataset(6, labels=labels), CLASSES)
    levels = index.decoded().column("label").to_pylist()
    assert levels == list(expected)
    assert index.image_ids == [row_id(s, int(c)) for s, c in enumerate(expected)]
    later = indexed(dataset(3, seed=3, labels=labels), CLASSES)
    assert later.image_ids == index.image_ids[3:]


def test_a_table_names_rows_by_their_seed_and_what_does_not_fit_is_told_of_seeds(tmp_path):
    (tmp_path / "t.csv").write_text("seed,mood\n10,glad\n11,sad\n12,glad\n99,sad\n")
    spec = dataset(4, seed=10, factors=str(tmp_path / "t.csv"), key="seed")
    index, report = update_index(DatasetIndex.empty(), opened(spec), spec)
    assert index.decoded().column("mood").to_pylist() == ["glad", "sad", "glad", None]
    assert "1 of its rows match no seed and 1 seeds have no row" in report.lines()[0]
    fewer = dataset(3, seed=10, factors=str(tmp_path / "t.csv"), key="seed")
    report = update_index(index, opened(fewer), fewer)[1]
    assert "1 row removed for ever: 'dataset' no longer lists their seeds" in report.lines()[0]


def test_labels_that_change_make_other_rows():
    before = indexed(dataset(6), CLASSES)
    after = indexed(dataset(6, labels=[0, 1]), CLASSES, before)
    kept = [s for s in range(6) if s % CLASSES == s % 2]
    assert np.flatnonzero(after.active[:6]).tolist() == kept and after.active.sum() == 6


@pytest.mark.parametrize(
    ("keys", "classes", "told"),
    [
        ({"kind": "sampled"}, 0, "'dataset.n' is missing"),
        ({"kind": "sampled", "n": 3, "path": "x"}, 0, "'path' needs 'kind: folder'"),
        ({"path": "x", "truncation": 0.5}, 0, "'truncation' needs 'kind: sampled', got 'folder'"),
        ({"path": "x", "labels": [1, 2]}, 0, "'labels' is .* of images are read from a factor"),
        ({}, 0, "'dataset.path' is missing"),
        ({"kind": "sample", "n": 3}, 0, "did you mean 'sampled'"),
        ({"kind": "sampled", "n": 3, "labels": [1, 1]}, 3, "more than once"),
        ({"kind": "sampled", "n": 3, "labels": [1, 7, "x"]}, 3, r"names \['7', 'x'\].* 0 to 2"),
        ({"kind": "sampled", "n": 3, "labels": 1}, 0, "has no classes: leave it out"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys, classes, told):
    with pytest.raises((SpecError, ValueError), match=told):
        opened(DatasetSpec(**keys), classes)


# ---- codes -----------------------------------------------------------------------------------


def test_codes_are_the_generators_own(models, tmp_path):
    """Of each row what the model gives for its seed and class alone; truncation is linear."""
    model = generators.load(models[CLASSES])
    whole, index = drawn(tmp_path, models[CLASSES], dataset(100))
    half, _ = drawn(tmp_path, models[CLASSES], dataset(100, truncation=0.5))
    one_hot = torch.eye(CLASSES)[torch.arange(100) % CLASSES]
    with torch.no_grad():
        alone = [model.sample("w", [s], labels=one_hot[s : s + 1]).main[0] for s in range(100)]
    np.testing.assert_allclose(codes(whole), np.stack(alone), atol=1e-6)
    mean = model.w_avg.numpy()
    np.testing.assert_allclose(codes(half), mean + 0.5 * (codes(whole) - mean), atol=1e-6)
    assert whole.arrays("invert") == ["latents/w"] and half.path != whole.path
    classes, _ = index.categorical("label")
    assert classes.tolist() == [s % CLASSES for s in range(100)]


def test_bits_follow_the_seed(models, tmp_path):
    """Not the batch size, the order of the blocks, the actors, or the other rows."""
    plain, _ = drawn(tmp_path / "a", models[0], dataset(150))
    other, _ = drawn(
        tmp_path / "b", models[0], dataset(150), engine=InProcess(backwards=True), batch_size=7,
        actors=3,
    )  # fmt: skip
    assert tree(plain.path) == tree(other.path)
    shifted, _ = drawn(tmp_path / "c", models[0], dataset(100, seed=37))
    np.testing.assert_array_equal(codes(shifted), codes(plain)[37:137])


def test_more_rows_change_no_byte_of_those_before(models, tmp_path):
    spec = dataset(70)
    store, index = drawn(tmp_path, models[0], spec)
    before, files = codes(store), tree(store.path)
    more = dataset(140)
    grown, index = drawn(tmp_path, models[0], more, indexed(more, before=index))
    assert grown.path == store.path and grown.n_rows == 140
    np.testing.assert_array_equal(codes(grown)[:70], before)
    first = [name for name in files if re.search(r"c/0(/|$)", name)]
    assert first and all(tree(grown.path)[name] == files[name] for name in first)
    fewer, index = drawn(tmp_path, models[0], dataset(65), indexed(dataset(65), before=index))
    assert (fewer.status("invert") == Status.REMOVED).sum() == 75
    assert np.isnan(codes(fewer)[65:]).all()
    np.testing.assert_array_equal(codes(fewer)[:65], before[:65])


class Killed(InProcess):
    """An engine that ends after its first block."""

    def map_blocks(self, actor, arguments, items, actors=None):
        yield from super().map_blocks(actor, arguments, items[:1], actors)
        raise RunInterruptedError("killed")


def test_a_killed_run_goes_on_with_the_same_bytes(models, tmp_path):
    spec = dataset(150)
    whole, index = drawn(tmp_path / "whole", models[0], spec)
    with pytest.raises(RunInterruptedError):
        drawn(tmp_path / "cut", models[0], spec, engine=Killed())
    again, _ = drawn(tmp_path / "cut", models[0], spec)
    assert tree(again.path) == tree(whole.path)
    keys = invert_section(
        {"block_rows": 64, "space": "w", "max_pixels": 5}
    )  # nothing of images counts
    identity = identify(
        tmp_path / "cut", keys, name="drawn", seed=9, generator_uri=models[0], dataset=spec
    )
    assert plan_invert(index, identity).work == []


def test_draws_that_are_not_finite_are_set_aside(models, tmp_path, monkeypatch):
    def overflowing(generator, space, seeds, labels, truncation, draw=sample.draw_rows):
        found = draw(generator, space, seeds, labels, truncation)
        found[f"latents/{space}"][labels == 1, 0] = np.inf
        return found

    monkeypatch.setattr(sample, "draw_rows", overflowing)
    store, _ = drawn(tmp_path, models[CLASSES], dataset(9))
    assert store.reason("invert").tolist() == [0, Reason.NOT_FINITE, 0] * 3
    assert np.isnan(codes(store)[1::3]).all()


def test_rows_without_a_class_of_their_own_are_set_aside(models, tmp_path):
    """A table that gives a row another class, or none, than it was listed with."""
    spec = dataset(4)
    index = indexed(spec, CLASSES)
    column = index.table.column("label").to_pylist()
    assert column == [0, 1, 2, 0]
    info = index.factors["label"]
    other = index.with_factors({"label": FactorColumn(info, np.array([0, -1, 0, 0], np.int16))})
    store, _ = drawn(tmp_path, models[CLASSES], spec, other)
    assert store.reason("invert").tolist() == [0, Reason.NO_LABEL, Reason.CHANGED, 0]


def test_z_is_standard_normal():
    z = network().sample("z", range(1500)).main.double().numpy()
    n = len(z)
    assert abs(z.mean(axis=0)).max() < 4 / n**0.5
    assert abs(np.cov(z.T) - np.eye(z.shape[1])).max() < 6 / n**0.5


# ---- a whole run -----------------------------------------------------------------------------


def test_a_whole_run(models, tmp_path):
    write_annotators(tmp_path)
    shutil.copy(models[CLASSES], tmp_path / "generator.safetensors")
    shutil.copy(models[CLASSES].replace(".safetensors", ".json"), tmp_path / "generator.json")
    spec = spec_of(
        tmp_path,
        dataset={"kind": "sampled", "n": 90, "truncation": 0.7},
        invert={"block_rows": 64},
        annotate=[{"name": "marks", "model": "marks.onnx"}],
        analyse={"pca": {"n_components": 2}, "mean_difference": {"baseline": {"label": 0}}},
        evaluate={"samples": 2, "strengths": [1]},
    )
    del spec["encoder"]
    path = write_spec(tmp_path, spec)
    assert run_tiny(path, "report").exit_code == 0
    assert {part.state for stage in plan_stages(load_spec(path)) for part in stage} == {"current"}
    found = verify(tmp_path / "out")
    assert found.ok and not found.notes
    assert [stage.stage for stage in found.stages] == ["invert", "marks@render"]
    run = FinishedRun.of(load_spec(path))
    names = {direction.name for direction in run.directions}
    assert {"mean.label-1", "mean.label-2", "pca.000"} <= names
    x, classes = run.store.array("latents/w_plus")[:], run.index.categorical("label")[0]
    apart = (x[classes == 1].mean(axis=0) - x[classes == 0].mean(axis=0)).ravel()
    own = run.direction("mean.label-1").vector.ravel()
    assert own @ apart / np.linalg.norm(apart) == pytest.approx(1, abs=1e-6)
    text = (tmp_path / "out" / "report.html").read_text()
    assert "90 sampled rows" in text and "truncation 0.7" in text
    assert not list((tmp_path / "out").rglob("*.png"))


def test_what_is_asked_of_images_is_refused(models, tmp_path):
    write_annotators(tmp_path)
    spec = spec_of(
        tmp_path,
        dataset={"kind": "sampled", "n": 90},
        generator=models[0],
        invert={"crop": "stretch", "space": "z"},
        annotate=[{"name": "marks", "model": "marks.onnx", "render": False}],
        analyse={"svm": {"labels": "image"}, "sefa": {}, "s_space": {"space": "z"}},
    )
    with pytest.raises(SpecError) as refused:
        plan_stages(load_spec(write_spec(tmp_path, spec)))
    for key in ("'encoder'", "'invert.crop'", "'annotate[0].render'", "'analyse.svm.labels'",
                "'analyse.sefa.space'", "'analyse.s_space.space'"):  # fmt: skip
        assert key in str(refused.value)


# ---- class labels ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["encoder", "optimise"])
def test_images_are_inverted_with_their_class(models, tmp_path, monkeypatch, method):
    """Of a labelled dataset; a row without a label is set aside, and a changed one made anew."""
    setting = make(tmp_path, 6)
    given = np.array([0, 1, -1, 2, 1, 0], np.int16)
    info = FactorInfo("categorical", "integer", ("0", "1", "2"))
    index = setting.index.with_factors({"kind": FactorColumn(info, given)})
    keys = {"method": method, "block_rows": 64, "batch_size": 4}
    spec = invert_section(keys | ({"steps": 1} if method == "optimise" else {}))
    seen = []

    def draw(self, code, *, labels=None, draw=StyleGAN2Adapter.draw, **options):
        seen.append(np.asarray(labels).tolist())
        return draw(self, code, labels=labels, **options)

    monkeypatch.setattr(StyleGAN2Adapter, "draw", draw)

    def inverted(index, labels="kind"):
        identity = identify(
            tmp_path / "stores", spec, name="labelled", seed=0, generator_uri=models[CLASSES],
            encoder_uri=setting.encoder,
            dataset=DatasetSpec(path=setting.source.root, labels=labels),
        )  # fmt: skip
        return invert(index, setting.source, identity, engine=InProcess()), identity

    result, identity = inverted(index)
    assert {tuple(labels) for labels in seen} == {(0, 1, 0, 2), (1, 0, 0, 0)}
    reasons = LatentStore.open(identity.path).reason("invert").tolist()
    assert reasons == [0, 0, Reason.NO_LABEL, Reason.EMPTY, 0, 0]
    assert plan_invert(index, identity).work == []
    other = index.with_factors({"kind": FactorColumn(info, np.roll(given, 1))})
    assert len(plan_invert(other, identity).work) == 1
    unlabelled, identity = inverted(index, None)
    assert identity.path == result.store_path and unlabelled.blocks_done == 1


def test_images_without_classes_are_refused_before_they_are_indexed(models, tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(models[CLASSES], tmp_path / "images" / "a.png")  # an image that cannot be read
    spec = spec_of(tmp_path, generator=models[CLASSES], dataset={"path": "images"})
    spec |= {"invert": {"method": "optimise", "space": "z"}, "annotate": [], "analyse": {"pca": {}}}
    del spec["encoder"]
    for told in (plan_stages, run):
        with pytest.raises(SpecError, match="'dataset.labels' is missing: codes of 'z'.*3 classes"):
            told(load_spec(write_spec(tmp_path, spec)))
    assert not list(tmp_path.rglob("index.parquet"))


def test_codes_of_z_are_drawn_with_their_class(models, tmp_path):
    """z is what only a class makes a picture of: renders, strips and samples all have it."""
    write_annotators(tmp_path)
    spec = spec_of(
        tmp_path,
        dataset={"kind": "sampled", "n": 70, "labels": {0: 1, 2: 2}},
        generator=models[CLASSES],
        invert={"block_rows": 64, "space": "z"},
        annotate=[{"name": "marks", "model": "marks.onnx"}],
        analyse={"mean_difference": {"factors": ["smile"]}},
        evaluate={"samples": 2, "strengths": [1], "source": "dataset"},
    )
    del spec["encoder"]
    path = write_spec(tmp_path, spec)
    assert run_tiny(path, "evaluate").exit_code == 0
    run = FinishedRun.of(load_spec(path))
    classes = run.index.categorical("label")[0]
    model = generators.load(models[CLASSES])
    numbers = np.array([0, 2])[classes]
    z = torch.from_numpy(codes(run.store, "z"))
    with torch.no_grad():
        pictures = to_uint8(model.draw(Code("z", z), labels=numbers).numpy())
    measured = load_annotator(str(tmp_path / "marks.onnx")).annotate(pictures)
    held = run.store.array("annotations/marks@render")[:]
    np.testing.assert_allclose(held, measured, atol=0.05)
    strip = next(iter(edit_run(load_spec(path), ["mean.smile"], tmp_path / "s.png", [1], [0, 1])))
    assert strip.is_file()
    with pytest.raises(SpecError, match="'evaluate.truncation_psi' is 0.5.*of 'z' are not trunc"):
        prior = {"evaluate": {"source": "prior", "truncation_psi": 0.5}}
        plan_stages(load_spec(write_spec(tmp_path, spec | prior)))
    told = (
        "'dataset.truncation' is 0.5.*of 'z' are not truncated.*'invert.space' to one of 'w', 'w_"
    )
    with pytest.raises(SpecError, match=told):
        changed = spec | {"dataset": spec["dataset"] | {"truncation": 0.5}}
        plan_stages(load_spec(write_spec(tmp_path, changed)))


@pytest.mark.parametrize("name", ["sampled", "stylegan3"])
def test_the_example_is_a_specification(name):
    spec = load_spec(ROOT / "examples" / f"{name}.yaml")
    assert spec.dataset.sampled and {s.name: s.state for s in plan_stages(spec)} == {
        "index": "missing", "invert": "missing", "annotate": "missing", "analyse": "missing",
        "evaluate": "missing", "report": "missing",
    }  # fmt: skip


def test_components_of_w_are_regressed_to_z(models, tmp_path):
    """GANSpace, from a run that holds z alone: the components move w as their z directions do."""
    spec = spec_of(
        tmp_path,
        dataset={"kind": "sampled", "n": 200},
        generator=models[0],
        invert={"block_rows": 64, "space": "z"},
        annotate=[],
        analyse={"pca": {"n_components": 3, "space": "w", "regress_to": "z"}},
    )
    del spec["encoder"]
    path = write_spec(tmp_path, spec)
    assert run_tiny(path, "analyse").exit_code == 0
    run = FinishedRun.of(load_spec(path))
    assert run.direction("pca.000").space == "w"
    arrays, _ = run.directions.load_model("pca")
    assert any(name.startswith("z_") for name in arrays)
