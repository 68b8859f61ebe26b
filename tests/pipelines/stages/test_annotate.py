"""Annotators and the annotation stages, without Ray."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from inversion_fixture import RESOLUTION, Setting, adapter, annotator, drawn, make, tree
from onnx import helper
from PIL import Image
from rich.console import Console

from generators.annotators.card import read_card
from generators.annotators.load import OnnxAnnotator, finish, load_annotator, prepare
from generators.protocols import Annotator, Code
from pipelines.engine.blocks import InProcess
from pipelines.engine.writer_guard import Guard
from pipelines.stages.annotate import (
    Originals,
    annotate,
    export_annotations,
    plan_annotate,
    stages_of,
)
from pipelines.stages.annotator_trial import try_annotators
from pipelines.stages.invert import invert
from schemas.errors import CheckpointError, StoreError, UntrustedError, UsageError
from schemas.index import DatasetIndex, NewRow
from schemas.spec import RunSpec
from schemas.spec_models import AnnotateSpec
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Reason
from tests.generators.annotators.test_crops import write
from transforms.images.annotate import annotate_batch
from transforms.images.preprocess import to_uint8
from transforms.inversion.method import render

SIZE = (RESOLUTION, RESOLUTION)
SCORES = ["smile", "glasses"]
POINTS = ["left", "right", "chin"]
POSE = ["yaw", "pitch", "roll"]


# ---- models ---------------------------------------------------------------------------------


def test_scores_equal_the_model_by_hand(tmp_path):
    path, weight = annotator(
        tmp_path, "a", "scores", SCORES, input={"mean": [0.1, 0, 0], "std": [2, 1, 1]}
    )
    images = drawn(5, 0)
    model = load_annotator(path)
    assert isinstance(model, Annotator) and model.names == tuple(SCORES)
    small = images.reshape(5, 8, 2, 8, 2, 3).astype(float).mean(axis=(2, 4))
    x = np.rint(small + 1e-9) / 127.5 - 1
    x = (x - [0.1, 0, 0]) / [2, 1, 1]
    expected = x.transpose(0, 3, 1, 2).reshape(5, -1) @ weight
    np.testing.assert_allclose(model.annotate(images), expected, atol=0.02)
    assert model.annotate(images).dtype == np.float32
    assert model.annotate(images[:0]).shape == (0, 2)


def test_layout_colour_and_range(tmp_path):
    given = {"colour": "BGR", "range": [0, 255], "resize": "nearest"}
    path, _ = annotator(tmp_path, "a", "scores", SCORES, size=16, layout="NHWC", input=given)
    images = drawn(2, 0)
    batch = prepare(images, read_card(path))
    np.testing.assert_array_equal(batch, images[..., ::-1].astype(np.float32))


def test_a_fixed_batch_dimension_changes_nothing(tmp_path):
    free, _ = annotator(tmp_path, "a", "scores", SCORES)
    fixed, _ = annotator(tmp_path, "b", "scores", SCORES, batch=2)
    images = drawn(5, 0)
    expected = load_annotator(free).annotate(images)
    np.testing.assert_allclose(load_annotator(fixed).annotate(images), expected, rtol=1e-5)


def test_activations(tmp_path):
    images, found = drawn(3, 0), {}
    for activation in (None, "sigmoid", "softmax"):
        path, _ = annotator(tmp_path, "a", "scores", SCORES, activation=activation)
        found[activation] = load_annotator(path).annotate(images).astype(float)
    raw = found[None]
    np.testing.assert_allclose(found["sigmoid"], 1 / (1 + np.exp(-raw)), rtol=1e-5)
    soft = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["softmax"], soft, rtol=1e-5)


@pytest.mark.parametrize(
    ("card", "value", "expected"),
    [
        ({}, [4.0, 2.0], [8.0, 4.0]),
        ({"coordinates": "unit"}, [0.25, 0.5], [4.0, 8.0]),
        ({"coordinates": "indices"}, [3.0, 0.0], [7.0, 1.0]),
        ({"axes": "yx"}, [4.0, 2.0], [4.0, 8.0]),
    ],
)
def test_landmarks_are_in_pixels_of_the_image(tmp_path, card, value, expected):
    path, _ = annotator(tmp_path, "lm", "landmarks", POINTS, size=8, **card)
    values = np.full((1, 3, 2), value, np.float32)
    np.testing.assert_allclose(finish(values, read_card(path), (16, 16))[0, 0], expected)
    assert load_annotator(path).annotate(drawn(4, 0)).shape == (4, 3, 2)


def test_no_face_and_not_finite(tmp_path):
    presence = {"output": "face", "threshold": 0.0}
    path, _ = annotator(tmp_path, "a", "scores", SCORES, face=True, presence=presence)
    images = np.full((3, RESOLUTION, RESOLUTION, 3), 200, np.uint8)
    images[1] = 10
    measured = annotate_batch(load_annotator(path), images)
    assert measured.reasons.tolist() == [Reason.NONE, Reason.NO_FACE, Reason.NONE]
    assert np.isnan(measured.values[1]).all() and np.isfinite(measured.values[[0, 2]]).all()

    class Infinite:
        fingerprint, name, kind, names = "", "x", "scores", ("a",)

        def annotate(self, images):
            return np.array([[1.0], [np.inf]], np.float32)

    assert annotate_batch(Infinite(), images[:2]).reasons.tolist() == [0, Reason.NOT_FINITE]


def test_fingerprint_is_of_the_numbers(tmp_path):
    path, _ = annotator(tmp_path, "a", "scores", SCORES)
    base = read_card(path).fingerprint
    card = json.loads(Path(path).with_suffix(".json").read_text())

    def fp(**changes) -> str:
        Path(path).with_suffix(".json").write_text(json.dumps({**card, **changes}))
        return read_card(path, "other name").fingerprint

    assert fp(licence="MIT", source="here", name="b") == base
    others = [fp(names=["x", "y"]), fp(activation="sigmoid")]
    others += [fp(input={**card["input"], "colour": "BGR"}), fp(output=0)]
    with open(path, "ab") as file:
        file.write(b"\x32\x01x")  # a doc_string
    assert len({base, *others, fp()}) == 6


def test_the_scheme_of_landmarks_is_known_and_changes_no_number(tmp_path):
    assert read_card("bundled:faces64/landmarks").scheme == "ibug68"
    path, _ = annotator(tmp_path, "lm", "landmarks", POINTS)
    card = json.loads(Path(path).with_suffix(".json").read_text())
    base = read_card(path)
    Path(path).with_suffix(".json").write_text(json.dumps({**card, "scheme": "ours"}))
    assert base.scheme is None and read_card(path).scheme == "ours"
    assert read_card(path).fingerprint == base.fingerprint
    Path(path).with_suffix(".json").write_text(json.dumps({**card, "scheme": "ibug68"}))
    with pytest.raises(CheckpointError, match="has 68 points, 'names' has 3"):
        read_card(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": "ibug68"}, "only for landmarks"),
        ({"kind": "guess"}, "'kind' is 'guess'"),
        ({"names": []}, "'names'"),
        ({"names": ["a", "a"]}, "each once"),
        ({"kind": "pose"}, "'yaw', 'pitch', 'roll'"),
        ({"activation": "tanh"}, "'activation' is 'tanh'"),
        ({"input": {"name": "image"}}, "key 'size' is missing"),
        ({"input": {"size": 8, "layout": "CHW"}}, "'layout' is 'CHW'"),
        ({"input": {"size": 8, "std": [1, 0, 1]}}, "'std'"),
        ({"input": {"size": 8, "mean": [1]}}, "'mean' has 1"),
        ({"input": {"size": 0}}, "give pixels, 1 to"),
        ({"input": {"size": [64, 1 << 20]}}, "give pixels, 1 to"),
        ({"output": "missing"}, "outputs \\['result'\\]"),
        ({"input": {"name": "x", "size": 8}}, "inputs \\['image'\\]"),
        ({"names": ["a", "b", "c"]}, "promises"),
    ],
)
def test_unusable_descriptions(tmp_path, change, message):
    path, _ = annotator(tmp_path, "a", "scores", SCORES)
    sidecar = Path(path).with_suffix(".json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_annotator(path).annotate(drawn(1, 0))


def test_unusable_files(tmp_path):
    path, _ = annotator(tmp_path, "a", "scores", SCORES)
    Path(path).write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="not a usable ONNX model"):
        load_annotator(path)
    Path(path).with_suffix(".json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_annotator(path)
    Path(path).with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match="no description"):
        load_annotator(path)
    for uri in (str(tmp_path / "none.onnx"), "bundled:nothing/x", "bundled:../annotators.py"):
        with pytest.raises(CheckpointError):
            read_card(uri)
    other = tmp_path / "a.bin"
    other.write_bytes(b"x")
    annotator(tmp_path, "a", "scores", SCORES)
    with pytest.raises(CheckpointError, match="'.bin'"):
        load_annotator(str(other))
    with pytest.raises(UsageError, match="uint8"):
        load_annotator(path).annotate(np.zeros((1, 8, 8, 3)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_needs_trust(tmp_path):
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"result": x.mean(dim=(2, 3))[:, :2]}

    annotator(tmp_path, "a", "scores", SCORES, size=16)
    path = tmp_path / "a.pt"
    torch.jit.script(Mean()).save(str(path))
    with pytest.raises(UntrustedError, match="--trust"):
        load_annotator(str(path))
    with pytest.raises(UntrustedError, match="--trust"):
        stages_of([AnnotateSpec(name="a", model=str(path))])
    images = drawn(3, 0)
    found = load_annotator(str(path), trust=True).annotate(images)
    expected = images.astype(float).mean(axis=(1, 2))[:, :2] / 127.5 - 1
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torch_files_that_are_no_program_and_results_of_several_parts(tmp_path):
    class Parts(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            means = x.mean(dim=(2, 3))[:, :2]
            return 2 * means, means.to(torch.bfloat16)

    annotator(tmp_path, "a", "scores", SCORES, size=16)
    path, sidecar = tmp_path / "a.pt", tmp_path / "a.json"
    card = json.loads(sidecar.read_text())
    torch.save({"weight": torch.zeros(2)}, path)
    for trust in (False, True):
        with pytest.raises(CheckpointError, match="no program that computes: export the model"):
            load_annotator(str(path), trust=trust)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        load_annotator(str(path), trust=True)
    torch.jit.script(Parts()).save(str(path))
    sidecar.write_text(json.dumps({**card, "output": None}))
    with pytest.raises(CheckpointError, match=r"outputs \[0, 1\], its description names None"):
        load_annotator(str(path), trust=True)
    sidecar.write_text(json.dumps({**card, "output": 1}))
    images = drawn(3, 0)
    expected = images.astype(float).mean(axis=(1, 2))[:, :2] / 127.5 - 1
    found = load_annotator(str(path), trust=True).annotate(images)
    np.testing.assert_allclose(found, expected, atol=4e-3)


def test_an_annotator_that_is_not_there_is_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder: it holds no file that ends in one of"):
        read_card(str(tmp_path))
    path, _ = annotator(tmp_path, "a", "scores", SCORES)
    with pytest.raises(
        CheckpointError, match=f"is a folder: give the file in it, such as {path!r}"
    ):
        read_card(str(tmp_path))
    with pytest.raises(CheckpointError, match="'somebody/landmarks' is the id of a model on a hub"):
        read_card("somebody/landmarks")


# ---- the stages -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    setting = make(tmp_path_factory.mktemp("annotate"), 80)
    annotator(setting.root, "attributes", "scores", SCORES)
    annotator(setting.root, "landmarks", "landmarks", POINTS)
    annotator(setting.root, "pose", "pose", POSE)
    return setting


def inverted(setting: Setting, root: Path, **spec) -> str:
    return invert(
        setting.index,
        setting.source,
        setting.identity(root, **spec),
        engine=InProcess(),
    ).store_path


def models(setting: Setting, *names: str, **spec) -> list[AnnotateSpec]:
    given = {"batch_size": 16, **spec}
    return [
        AnnotateSpec(name=n, model=str(setting.root / f"{n}.onnx"), **given)
        for n in names or ("attributes", "landmarks", "pose")
    ]


def run(setting: Setting, store: str, specs=None, **options):
    return annotate(
        setting.index,
        setting.source,
        store,
        models(setting) if specs is None else specs,
        generator_uri=setting.generator,
        engine=options.pop("engine", InProcess()),
        **options,
    )


@pytest.fixture(scope="module")
def done(setting, tmp_path_factory):
    path = inverted(setting, tmp_path_factory.mktemp("done"))
    steps: list[tuple[int, int]] = []
    result = run(setting, path, progress=lambda *step: steps.append(step))
    assert steps == [(0, 80), (64, 80), (80, 80)]
    return LatentStore.open(path), result


def test_image_and_render_are_what_the_model_says(setting, done):
    store, result = done
    assert result.stages[:3] == ("attributes", "landmarks", "pose")
    assert all(counts["reasons"] == {"empty": 1} for counts in result.counts.values())
    rows = [0, 70, 79]
    originals = np.stack([np.asarray(Image.open(setting.file(i))) for i in rows])
    codes = torch.from_numpy(store.array("latents/w_plus")[:][rows])
    renders = to_uint8(render(adapter(), Code("w_plus", codes)).numpy())
    for name, group in (("attributes", "annotations"), ("landmarks", "landmarks")):
        model = load_annotator(str(setting.root / f"{name}.onnx"))
        for stage, images in ((name, originals), (f"{name}@render", renders)):
            found = store.array(f"{group}/{stage}")[:][rows]
            np.testing.assert_allclose(found, model.annotate(images), atol=0.02)
    assert store.array("landmarks/landmarks").attrs["names"] == POINTS
    assert np.isnan(store.array("annotations/pose@render")[3]).all()


@pytest.mark.parametrize("crop", ["centre", "stretch"])
def test_the_original_is_measured_at_the_models_own_size(tmp_path, crop):
    """Or as it is inverted, where that is asked for; landmarks in the generator's pixels."""
    setting = make(tmp_path, 4)
    for row in range(4):
        large = np.random.default_rng(row).integers(0, 256, (48, 40, 3), np.uint8)
        Image.fromarray(large).save(setting.file(row))
    files = [setting.file(row) for row in range(4)]
    ids = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    rows = [NewRow(image_id, file.name, 40, 48) for image_id, file in zip(ids, files, strict=True)]
    setting = replace(setting, index=DatasetIndex.empty().append(rows))
    path, _ = annotator(tmp_path, "lm", "landmarks", POINTS, size=24, coordinates="unit")
    store = LatentStore.open(inverted(setting, tmp_path / "s", crop=crop), "r+")
    spec = AnnotateSpec(name="lm", model=path, render=False)
    model = load_annotator(path)
    found, commits = {}, {}
    for of in ("original", "resized", "original"):
        run(setting, store.path, [spec.model_copy(update={"of": of})])
        store.refresh()
        found[of] = store.array("landmarks/lm")[:]
        commits.setdefault(of, store.commit_of("lm", 0))
        assert commits[of] == store.commit_of("lm", 0)
    for row in range(4):
        image = Image.open(setting.file(row))
        box = (0, 4, 40, 44) if crop == "centre" else (0, 0, 40, 48)
        own = image.crop(box).resize((24, 24), Image.Resampling.LANCZOS)
        seen = image.crop(box).resize((RESOLUTION,) * 2, Image.Resampling.LANCZOS)
        for of, picture in (("original", own), ("resized", seen)):
            expected = model.predict(np.asarray(picture)[None], SIZE).values[0]
            np.testing.assert_array_equal(found[of][row], expected)
    assert np.abs(found["original"] - found["resized"]).max() > 0.1
    assert commits["original"] != commits["resized"]


def test_originals_of_a_generator_that_is_not_square(tmp_path):
    """The crop has the generator's ratio: only images of which it is the whole size are alike."""
    sizes = [(8, 16), (12, 16), (8, 20), (16, 32)]  # width, height
    rows = [NewRow("0" * 63 + str(i), str(i), *size) for i, size in enumerate(sizes)]
    path, _ = annotator(tmp_path, "a", "scores", SCORES, size=8)
    (stage,) = stages_of([AnnotateSpec(name="x", model=path, render=False)])
    assert stage.view((16, 8)).size == (8, 8)
    originals = Originals(DatasetIndex.empty().append(rows), 99, (16, 8), "centre")
    found = ["of" in originals.inputs(stage, slice(i, i + 1)) for i in range(4)]
    assert found == [False, False, False, True]


def test_fingerprints_stay_where_the_measured_values_do(tmp_path):
    """Blocks of images that have the generator's size, and models that see what was inverted."""
    sizes = [(16, 16), (20, 16), (16, 20), (32, 32), (-1, -1)]
    rows = [NewRow("0" * 63 + str(i), str(i), *size) for i, size in enumerate(sizes)]
    index = DatasetIndex.empty().append(rows)
    other, _ = annotator(tmp_path, "a", "scores", SCORES, size=8)
    same, _ = annotator(tmp_path, "b", "scores", SCORES, size=16)

    def changed(path: str, crop: str, **spec) -> list[bool]:
        (stage,) = stages_of([AnnotateSpec(name="x", model=path, render=False, **spec)])
        originals = Originals(index, 99, SIZE, crop)
        found = [originals.inputs(stage, slice(i, i + 1)) for i in range(5)]
        assert all(inputs.pop("max_pixels") == 99 for inputs in found)
        return [inputs == {"of": "original"} for inputs in found]

    assert changed(other, "centre") == [False, False, False, True, True]
    assert changed(other, "stretch") == [False, True, True, True, True]
    assert changed(other, "centre", of="resized") == changed(same, "stretch") == [False] * 5
    removed = index.remove([3, 4])
    (stage,) = stages_of([AnnotateSpec(name="x", model=other, render=False)])
    assert "of" not in Originals(removed, 99, SIZE, "centre").inputs(stage, slice(0, 5))


def test_failing_images_are_reasons_and_the_first_is_told(setting, tmp_path, monkeypatch):
    path, original = inverted(setting, tmp_path), OnnxAnnotator._run

    def fails(self, batch):
        outputs = original(self, batch)
        if (outputs[0][:, 0] > limit).any():
            raise RuntimeError("too bright")
        return outputs

    files = [setting.file(row) for row in range(80) if row != 3]
    images = np.stack([np.asarray(Image.open(f)) for f in files])
    scores = load_annotator(str(setting.root / "attributes.onnx")).annotate(images)[:, 0]
    limit = float(np.sort(scores)[-8:-6].mean())
    monkeypatch.setattr(OnnxAnnotator, "_run", fails)
    specs = models(setting, "attributes", render=False)
    result = run(setting, path, specs)
    assert result.counts["attributes"]["reasons"] == {"empty": 1, "model_failed": 7}
    uri = files[int(np.flatnonzero(scores > limit)[0])].name
    assert result.failed == {"attributes": (uri, "too bright")}
    assert run(setting, path, specs).blocks_done == 0


def test_a_face_that_is_not_found_is_counted_for_every_annotator_that_looks_there(
    setting, tmp_path
):
    """The score of the box is the mean brightness; the box itself is always the same."""
    path = inverted(setting, tmp_path)
    names = ["left", "top", "right", "bottom", "score"]
    weight = np.zeros((3 * RESOLUTION**2, 5))
    weight[:, 4] = 1 / len(weight)
    nodes = [
        helper.make_node("MatMul", ["flat", "weight"], ["score"]),
        helper.make_node("Add", ["score", "box"], ["out"]),
    ]
    files = [setting.file(row) for row in range(80) if row != 3]
    levels = np.sort([np.asarray(Image.open(f)).mean() for f in files])
    write(
        tmp_path, "finder", nodes, {"weight": weight, "box": [2, 2, 14, 14, 0]},
        kind="boxes", names=names, input={"size": RESOLUTION, "range": [0, 255]},
        presence={"output": "out", "index": 4, "threshold": float(levels[4:6].mean())},
    )  # fmt: skip
    crop = {"by": "finder", "scale": 1.5}
    uris = [
        annotator(tmp_path, "a", "scores", SCORES, crop=crop)[0],
        annotator(tmp_path, "lm", "landmarks", POINTS, crop=crop)[0],
        annotator(tmp_path, "whole", "scores", SCORES)[0],
    ]
    specs = [AnnotateSpec(name=Path(u).stem, model=u, of="resized", render=False) for u in uris]
    result = run(setting, path, specs)
    lost = {"empty": 1, "no_face": 5}
    assert [result.counts[spec.name]["reasons"] for spec in specs] == [lost, lost, {"empty": 1}]
    assert run(setting, path, specs).blocks_done == 0


def test_annotators_are_tried_on_the_datasets_images(setting, tmp_path, monkeypatch):
    """Where a model works on none that it is tried on, as a detector may not."""
    original, told = OnnxAnnotator._run, io.StringIO()
    seen: list[np.ndarray] = []

    def fails(self, batch):
        seen.append(batch)
        if len(seen) < enough:
            raise RuntimeError("no face")
        return original(self, batch)

    monkeypatch.setattr(OnnxAnnotator, "_run", fails)

    def attempt() -> None:
        seen.clear()
        console = Console(file=told, width=200)
        spec = RunSpec(name="tiny", dataset={"path": "."})
        specs = models(setting, "landmarks")
        try_annotators(specs, setting.index, setting.source, spec, False, console)

    enough = 8
    attempt()
    assert len(seen) == 8
    enough = 99
    with pytest.raises(CheckpointError, match="first 15 images, such as '00000.png': no face"):
        attempt()
    monkeypatch.undo()
    attempt()
    assert "read as x, y, x, y" in told.getvalue()


def test_only_what_is_missing_is_made(setting, tmp_path):
    path = inverted(setting, tmp_path)
    run(setting, path, models(setting, "attributes", render=False))
    before = LatentStore.open(path).committed("attributes").copy()
    both = run(setting, path, models(setting, "attributes", "pose"))
    assert both.stages == ("attributes", "pose", "attributes@render", "pose@render")
    assert np.array_equal(LatentStore.open(path).committed("attributes"), before)
    again = run(setting, path, models(setting, "attributes", "pose"))
    assert (again.blocks_done, again.blocks_skipped) == (0, 2)
    everything = run(setting, path)
    whole = inverted(setting, tmp_path / "whole")
    assert run(setting, whole).counts == everything.counts
    for stage in everything.stages:  # alone or together, today or tomorrow: the same bytes
        mine, other = (LatentStore.open(p).committed(stage) for p in (path, whole))
        assert np.array_equal(mine, other)
    a, b = tree(path), tree(whole)
    assert {k: v for k, v in a.items() if "/c/" in k} == {k: v for k, v in b.items() if "/c/" in k}


def test_renders_follow_their_codes(tmp_path):
    setting = make(tmp_path, 70)
    annotator(setting.root, "attributes", "scores", SCORES)
    data = setting.file(5).read_bytes()
    setting.file(5).unlink()
    path = inverted(setting, tmp_path / "stores")
    specs = models(setting, "attributes")
    first = run(setting, path, specs)
    assert first.counts["attributes@render"]["reasons"] == {"empty": 1, "missing": 1}
    assert run(setting, path, specs).blocks_done == 0
    setting.file(5).write_bytes(data)
    inverted(setting, tmp_path / "stores")
    second = run(setting, path, specs)
    assert second.blocks_done == 1
    assert all(c["reasons"] == {"empty": 1} for c in second.counts.values())


def test_renders_wait_for_codes(setting, tmp_path):
    path = inverted(setting, tmp_path)
    LatentStore.open(path, "r+")._write_commit("invert", 1, bytes(32))
    result = run(setting, path)
    assert result.counts["pose"]["pending"] == 0
    assert result.counts["pose@render"]["pending"] == 16
    store = LatentStore.open(path)
    plan = plan_annotate(setting.index, store, stages_of(models(setting, "pose")), 1 << 26, SIZE)
    assert plan.fps["pose@render"][1] is None and plan.work == plan.work[:1]


def test_a_batch_that_does_not_fit_is_halved(setting, tmp_path, monkeypatch):
    import pipelines.stages.annotate as pipeline

    original = pipeline.annotate_batch

    def limited(model, images, side):
        if len(images) > 4:
            raise MemoryError
        return original(model, images, side)

    monkeypatch.setattr(pipeline, "annotate_batch", limited)
    path = inverted(setting, tmp_path)
    result = run(setting, path)
    assert result.shrunk and result.counts["pose"]["ok"] == 79


def test_refusals(setting, tmp_path):
    path = inverted(setting, tmp_path)
    import generators

    generators.save_safetensors(adapter(seed=9), tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="was made with"):
        annotate(
            setting.index,
            setting.source,
            path,
            models(setting),
            generator_uri=str(tmp_path / "other.safetensors"),
            engine=InProcess(),
        )
    longer = setting.index.append([])
    short = longer.__class__(longer.table.slice(0, 10), longer.factors)
    with pytest.raises(StoreError, match="80 rows, the index 10"):
        annotate(
            short,
            setting.source,
            path,
            models(setting),
            generator_uri=setting.generator,
            engine=InProcess(),
        )
    assert not list(tmp_path.glob("*.lock"))


def test_a_model_that_changes_during_the_run_is_noticed(setting, tmp_path, monkeypatch):
    path = inverted(setting, tmp_path)
    copy, _ = annotator(tmp_path, "attributes", "scores", SCORES)
    original = Guard.of

    def change(lock):
        annotator(tmp_path, "attributes", "scores", SCORES, activation="sigmoid")
        return original(lock)

    monkeypatch.setattr(Guard, "of", change)
    with pytest.raises(UsageError, match="changed"):
        run(setting, path, [AnnotateSpec(name="attributes", model=copy)])


def test_parquet_for_pandas(setting, done, tmp_path):
    store, _ = done
    columns = export_annotations(store, setting.index, tmp_path / "a.parquet")
    frame = pd.read_parquet(tmp_path / "a.parquet")
    assert list(frame.columns) == columns and len(frame) == 80
    assert columns[:5] == ["row", "image_id", "uri", "status", "reason"]
    assert frame.status.value_counts().to_dict() == {"ok": 79, "quarantined": 1}
    assert frame.reason[3] == "empty" and frame.uri[3] == "00003.png"
    scores = store.array("annotations/attributes@render")[:]
    np.testing.assert_array_equal(frame["attributes@render.glasses"], scores[:, 1])
    points = np.stack(frame["landmarks"].to_list()).reshape(80, 3, 2)
    np.testing.assert_array_equal(points, store.array("landmarks/landmarks")[:])
    assert np.isnan(frame["pose.yaw"][3])
    first = (tmp_path / "a.parquet").read_bytes()
    export_annotations(store, setting.index, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == first
