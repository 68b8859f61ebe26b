"""Inversion: numerics, and the stage without Ray (`test_ray.py` has the rest)."""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from inversion_fixture import RESOLUTION, W_DIM, Setting, adapter, drawn, index_of, make, tree
from PIL import Image
from places import GOLDEN
from plugin_packages import forget, install

import generators
import pipelines.stages.invert as pipeline
from generators.encoders.files import read_encoder
from generators.encoders.load import load_encoder, save_encoder
from generators.protocols import Code
from pipelines.engine.blocks import InProcess
from pipelines.engine.writer_guard import Guard
from pipelines.folder.store_identity import method_of
from pipelines.runs.plan import plan_stages
from pipelines.sources.block_images import in_halves
from pipelines.stages.invert import invert, plan_invert
from schemas.errors import CheckpointError, LockedError, PluginError, SpecError, UsageError
from schemas.sections.invert import invert_section
from schemas.spec import json_schema, parse_spec
from schemas.store.latent_store import LatentStore
from schemas.store.lock import StoreLock
from schemas.store.reasons import Reason, Status
from transforms.images.metrics import psnr, ssim
from transforms.images.preprocess import to_float, to_uint8
from transforms.inversion.catalog import invert_batch, method_named
from transforms.inversion.descent import descend
from transforms.inversion.loss import RowLosses, feature_distance
from transforms.inversion.method import Images, render, row_generator
from transforms.inversion.steps.rules import ramp

ID = "00" * 31 + "07"


# ---- numerics -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator():
    return adapter()


def planted(generator, n: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes near the mean, and their images."""
    draw = torch.Generator().manual_seed(seed)
    codes = generator.w_avg + 0.3 * torch.randn(
        n, *generator.facts.space("w").shape, generator=draw
    )
    return codes, render(generator, Code("w", codes))


def inverted(generator, images, encoder=None, rngs=(), **settings) -> torch.Tensor:
    """Codes of images by the method of the settings."""
    section = invert_section(settings).into("w_plus")
    return invert_batch(Images(images, generator, section, encoder, rngs)).code.main


def test_row_generator_follows_the_image():
    first = row_generator(5, 1, ID).standard_normal(4)
    assert np.array_equal(first, row_generator(5, 1, ID).standard_normal(4))
    words = [0, 0, 0, 0, 0, 0, 0, 7]
    expected = np.random.default_rng(np.random.SeedSequence([5, 1, *words])).standard_normal(4)
    assert np.array_equal(first, expected)
    for other in (row_generator(6, 1, ID), row_generator(5, 2, ID), row_generator(5, 1, "ff" * 32)):
        assert not np.array_equal(first, other.standard_normal(4))


def test_feature_distance_is_the_sum_of_its_definition():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2, 3, 8, 8))
    expected = np.zeros(2)
    d = a - b
    for level in range(2):
        if level:
            d = d.reshape(2, 3, 4, 2, 4, 2).mean(axis=(3, 5))
        dx, dy = np.diff(d, axis=3), np.diff(d, axis=2)
        expected += (dx**2).mean(axis=(1, 2, 3)) + (dy**2).mean(axis=(1, 2, 3))
    found = feature_distance(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found.numpy(), expected / 2, rtol=1e-6)
    flat = torch.zeros(1, 3, 8, 8)
    assert float(feature_distance(flat, flat + 0.5)) == 0.0  # absolute brightness is not judged


def test_learning_rate_ramps():
    assert ramp(0.0, 0.05) == 0.0 and ramp(0.0) == 1.0
    assert ramp(0.5, 0.05) == ramp(0.5) == 1.0
    assert 0.0 < ramp(0.99, 0.05) < 0.01


@pytest.mark.parametrize("space", ["w", "w_plus"])
def test_optimise_recovers_planted_images(generator, space):
    _, images = planted(generator, 3)
    rngs = [row_generator(0, 1, f"{i:064x}") for i in range(3)]
    settings = {"method": "optimise", "space": space, "steps": 60, "learning_rate": 0.1}
    codes = inverted(generator, images, rngs=rngs, **settings)
    assert tuple(codes.shape) == (3, *generator.facts.space(space).shape)
    mean = generator.w_avg.expand(3, *generator.facts.space(space).shape)
    before = (render(generator, Code(space, mean)) - images).square().mean()
    after = (render(generator, Code(space, codes)) - images).square().mean()
    assert after < 0.1 * before


def test_rows_are_optimised_independently(generator):
    _, images = planted(generator, 3)

    def run(rows: list[int]) -> torch.Tensor:
        rngs = [row_generator(0, 1, f"{i:064x}") for i in rows]
        settings = {"method": "optimise", "space": "w", "steps": 8}
        return inverted(generator, images[rows], rngs=rngs, **settings)

    together = run([0, 1, 2])
    torch.testing.assert_close(together[1:2], run([1]), rtol=0, atol=1e-4)
    torch.testing.assert_close(together, run([2, 1, 0]).flip(0), rtol=0, atol=1e-4)


def test_a_row_that_is_not_a_number_touches_no_other(generator):
    _, images = planted(generator, 2)
    broken = images.clone()
    broken[0] = torch.nan
    settings = invert_section({"method": "hybrid", "space": "w", "steps": 4})
    start = Code("w", generator.w_avg.expand(2, W_DIM))
    codes = descend(Images(broken, generator, settings), start).code.main
    assert torch.isnan(codes[0]).all()
    fine = descend(Images(images, generator, settings), start).code.main
    torch.testing.assert_close(codes[1], fine[1])


def test_hybrid_never_ends_worse_than_the_encoder(generator, setting):
    encoder = load_encoder(setting.encoder)
    _, images = planted(generator, 4)
    encoded = inverted(generator, images, encoder)
    torch.testing.assert_close(encoded, encoder.encode(images))
    for rate in (0.05, 50.0):  # the second one diverges
        settings = {"method": "hybrid", "steps": 5, "learning_rate": rate, "feature_weight": 0.0}
        codes = inverted(generator, images, encoder, **settings)
        loss = RowLosses(Images(images, generator, invert_section(settings)))
        losses = [loss(render(generator, Code("w_plus", c))) for c in (codes, encoded)]
        assert (losses[0] <= losses[1] + 1e-6).all()


def test_encoder_space_and_size_are_brought_to_the_generator(generator, setting):
    plus, w = load_encoder(setting.encoder), load_encoder(setting.encoder, space="w")
    images = torch.from_numpy(to_float(drawn(2, 5)))
    assert w.fingerprint == plus.fingerprint == read_encoder(setting.encoder).fingerprint
    codes = inverted(generator, images, w, space="w")
    torch.testing.assert_close(codes, w.network(images)[0])
    spread = inverted(generator, images, w)
    torch.testing.assert_close(spread[:, 3], codes)
    mean = inverted(generator, images, plus, space="w")
    torch.testing.assert_close(mean, plus.encode(images).mean(dim=1))
    large = torch.nn.functional.interpolate(images, scale_factor=2)
    assert inverted(generator, large, plus).shape == (2, *generator.facts.space("w_plus").shape)


def test_missing_encoder_and_random_numbers(generator):
    images = torch.zeros(1, 3, RESOLUTION, RESOLUTION)
    with pytest.raises(UsageError, match="encoder"):
        inverted(generator, images, method="hybrid")
    with pytest.raises(UsageError, match="rngs"):
        inverted(generator, images, method="optimise", starts=2)


def test_encoder_files(setting, tmp_path):
    network = load_encoder(setting.encoder).network
    path = save_encoder(network, tmp_path / "e.safetensors", licence="MIT")
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["licence"] == "MIT"
    assert about["fingerprint"] == load_encoder(str(path)).fingerprint
    about["architecture"]["features"] = 17
    path.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="do not belong together"):
        load_encoder(str(path))
    del about["fingerprint"]
    path.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_encoder(str(path))
    for uri in ("bundled:no-such-set", str(tmp_path / "none.safetensors"), "bundled:../../x"):
        with pytest.raises(CheckpointError):
            load_encoder(uri)


# ---- the stage ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    return make(tmp_path_factory.mktemp("invert"), 150)


def run(setting: Setting, root: Path, index=None, engine=None, seed=0, progress=None, **spec):
    return invert(
        setting.index if index is None else index,
        setting.source,
        setting.identity(root, seed, **spec),
        engine=engine or InProcess(),
        progress=progress,
    )


class NoEngine:
    """Fails the test when work is sent to it."""

    gpus_per_actor = 0.0
    actors = 1

    def map_blocks(self, *args, **kwargs):
        raise AssertionError("nothing was to be done")


def test_every_row_has_a_code_or_a_reason(setting, tmp_path):
    steps = []
    result = run(setting, tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert result.counts["ok"] == 149 and result.counts["reasons"] == {"empty": 1}
    assert (result.blocks_done, result.blocks_skipped, result.shrunk) == (3, 0, False)
    assert steps == [(n, 150) for n in (0, 16, 64, 128, 150)]  # a batch comes first, by itself
    store = LatentStore.open(result.store_path)
    images = to_float(np.stack([np.asarray(Image.open(setting.file(i))) for i in (0, 149)]))
    codes = store.array("latents/w_plus")[:][[0, 149]]
    expected = load_encoder(setting.encoder).encode(torch.from_numpy(images))
    np.testing.assert_allclose(codes, expected.numpy(), atol=1e-5)
    shown = to_uint8(render(adapter(), Code("w_plus", expected)).numpy())
    originals = to_uint8(images)
    for name, metric in (("psnr", psnr), ("ssim", ssim)):
        found = store.array(f"quality/{name}")[:][[0, 149]]
        np.testing.assert_allclose(found, metric(originals, shown), rtol=1e-3)
    assert np.isnan(store.array("latents/w_plus")[3]).all()
    again = run(setting, tmp_path, engine=NoEngine())
    assert (again.blocks_done, again.blocks_skipped) == (0, 3)
    assert again.counts == result.counts


def test_bytes_do_not_depend_on_order_or_interruption(setting, tmp_path):
    whole = run(setting, tmp_path / "a")
    backwards = run(setting, tmp_path / "b", engine=InProcess(backwards=True))
    assert tree(whole.store_path) == tree(backwards.store_path)
    store = LatentStore.open(backwards.store_path, "r+")
    store._write_commit("invert", 1, bytes(32))  # as a run killed before its commit leaves it
    shard = next(Path(store.path, "latents/w_plus").rglob("c/1/*/*"))
    shard.write_bytes(shard.read_bytes()[:100])
    leftover = shard.with_name(f"0.{'1' * 32}.partial")
    leftover.write_bytes(b"half")
    finished = run(setting, tmp_path / "b")
    assert (finished.blocks_done, finished.blocks_skipped) == (1, 2)
    assert tree(whole.store_path) == tree(backwards.store_path)


def test_batch_size_changes_rounding_only(setting, tmp_path):
    kept = {}
    for size in (16, 7):
        result = run(setting, tmp_path / str(size), batch_size=size)
        kept[size] = LatentStore.open(result.store_path).array("latents/w_plus")[:]
    np.testing.assert_allclose(kept[16], kept[7], atol=1e-5)


def test_appended_rows_touch_only_their_blocks(setting, tmp_path):
    first = setting.index
    short = first.__class__(first.table.slice(0, 100), first.factors)
    run(setting, tmp_path, index=short)
    grown = run(setting, tmp_path)
    assert (grown.blocks_done, grown.blocks_skipped) == (2, 1)
    scratch = run(setting, tmp_path / "scratch")
    assert tree(grown.store_path) == tree(scratch.store_path)
    removed = run(setting, tmp_path, index=setting.index.remove([70]))
    assert (removed.blocks_done, removed.counts["removed"]) == (1, 1)
    assert LatentStore.open(removed.store_path).status("invert")[70] == Status.REMOVED


def test_rows_that_cannot_be_read_are_tried_again(tmp_path):
    setting = make(tmp_path, 70)
    gone, changed = setting.file(5), setting.file(6)
    data = gone.read_bytes()
    gone.unlink()
    kept = changed.read_bytes()
    Image.fromarray(drawn(1, 77)[0]).save(changed)
    result = run(setting, tmp_path / "stores")
    assert result.counts["reasons"] == {"changed": 1, "empty": 1, "missing": 1}
    still = run(setting, tmp_path / "stores")
    assert (still.blocks_done, still.blocks_skipped) == (0, 2)
    gone.write_bytes(data)
    back = run(setting, tmp_path / "stores")
    assert (back.blocks_done, back.counts["reasons"]) == (1, {"changed": 1, "empty": 1})
    assert run(setting, tmp_path / "stores", engine=NoEngine()).counts == back.counts
    changed.write_bytes(kept)
    assert index_of(changed.parent).image_ids == setting.index.image_ids


def test_a_batch_that_does_not_fit_is_halved(setting, tmp_path, monkeypatch):
    whole = run(setting, tmp_path / "whole")
    original = pipeline.InvertWorker._codes

    def limited(self, images, image_ids, rows):
        if rows.stop - rows.start > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        if (rows.start, rows.stop) == (0, 1) or (rows.start == 0 and image_ids[0] == poor):
            raise MemoryError
        return original(self, images, image_ids, rows)

    poor = setting.index.image_ids[64]
    monkeypatch.setattr(pipeline.InvertWorker, "_codes", limited)
    halved = run(setting, tmp_path / "halved")
    assert halved.shrunk and halved.counts["reasons"] == {"empty": 1, "out_of_memory": 1}
    a, b = (LatentStore.open(r.store_path).array("latents/w_plus")[:] for r in (whole, halved))
    b[64] = a[64]
    np.testing.assert_allclose(a, b, atol=1e-5)
    monkeypatch.setattr(pipeline.InvertWorker, "_codes", original)
    assert run(setting, tmp_path / "halved").counts == whole.counts


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        in_halves(lambda rows: (_ for _ in ()).throw(RuntimeError("shapes")), slice(0, 4), print)


def test_codes_that_are_not_finite_are_quarantined(setting, tmp_path, monkeypatch):
    original = pipeline.invert_batch

    def broken(*args, **kwargs):
        found = original(*args, **kwargs)
        found.code.main[1] = torch.inf
        return found

    monkeypatch.setattr(pipeline, "invert_batch", broken)
    result = run(setting, tmp_path)
    assert result.counts["reasons"] == {"empty": 1, "not_finite": 10}
    reasons = LatentStore.open(result.store_path).reason("invert")
    assert reasons[1] == Reason.NOT_FINITE and reasons[0] == Reason.NONE


def test_identity_holds_what_changes_the_codes_and_nothing_else(setting, tmp_path):
    def fp(seed=0, **values):
        return setting.identity(tmp_path, seed, **values).store_fp

    base = fp()
    assert fp(batch_size=3, threads=2, actors=4, max_pixels=9, steps=7, learning_rate=1) == base
    others = [fp(space="w"), fp(crop="stretch"), fp(noise_mode="none"), fp(method="optimise")]
    others += [fp(method="hybrid"), fp(method="hybrid", steps=7), fp(seed=1), fp(block_rows=128)]
    assert len({base, *others}) == 9


def test_plan_of_a_store_that_does_not_exist_writes_nothing(setting, tmp_path):
    plan = plan_invert(setting.index, setting.identity(tmp_path / "none"))
    assert (plan.n_blocks, len(plan.work), sum(map(len, plan.work))) == (3, 3, 150)
    assert not (tmp_path / "none").exists()


def test_a_run_that_lost_its_lock_commits_nothing(setting, tmp_path, monkeypatch):
    def steal(self, work):
        Path(self.guard.lock_path).unlink(missing_ok=True)  # a new file, as a takeover makes
        Path(self.guard.lock_path).write_text(json.dumps({"owner": "another"}))
        return original(self, work)

    original = pipeline.InvertWorker.process
    monkeypatch.setattr(pipeline.InvertWorker, "process", steal)
    with pytest.raises(LockedError, match="another"):
        run(setting, tmp_path)
    store = LatentStore.open(next((tmp_path).glob("tiny-*[!k]")))
    assert not store.committed("invert").any()


def test_guard_knows_its_driver(tmp_path):
    with StoreLock(tmp_path / "store") as lock:
        guard = Guard.of(lock)
        guard.check()
        assert guard.driver_alive()
        assert not Guard("", "", guard.place, guard.pid, "0").driver_alive()
        assert not Guard("", "", guard.place, 2**22 + 1, guard.mark).driver_alive()
        assert Guard("", "", "elsewhere", 1, "0").driver_alive()
    with pytest.raises(LockedError):
        guard.check()


def test_golden(setting, tmp_path):
    """A changed result needs a changed `pipelines.stages.invert.VERSION`, or that of the method."""
    ways = {
        "encoder": {"method": "encoder"},
        "optimise": {"method": "optimise"},
        "hybrid": {"method": "hybrid"},
        "adam": {"method": "hybrid", "schedule": "adam"},
    }
    golden = json.loads((GOLDEN / "invert.json").read_text())
    assert golden["version"] == pipeline.VERSION
    for name, keys in ways.items():
        short = setting.index.__class__(setting.index.table.slice(0, 4), setting.index.factors)
        result = run(setting, tmp_path, index=short, steps=5, seed=1, **keys)
        codes = LatentStore.open(result.store_path).array("latents/w_plus")[:]
        found = np.round(codes[[0, 1, 2], 1].astype(float), 5)
        np.testing.assert_allclose(found, golden[name], atol=2e-3, err_msg=name)


def test_a_space_that_a_method_gives_no_codes_of(setting, tmp_path):
    with pytest.raises(UsageError, match="'wplus'.*w_plus"):
        setting.identity(tmp_path, space="wplus")
    with pytest.raises(UsageError, match="'z', and encoder .* gives codes of 'w' and 'w_plus'"):
        setting.identity(tmp_path, space="z")
    assert setting.identity(tmp_path, method="optimise", space="z").arrays[0].row_shape == (W_DIM,)


def test_the_space_is_the_generators_own_unless_one_is_named(setting, tmp_path, monkeypatch):
    own = setting.identity(tmp_path)
    assert own.store_fp == setting.identity(tmp_path, space="w_plus").store_fp
    other = replace(own.facts, default_space="w")
    monkeypatch.setattr(generators, "facts", lambda uri: other)
    found = setting.identity(tmp_path, method="optimise")
    assert found.space == found.spec.space == "w" and found.arrays[0].path == "latents/w"
    named = setting.identity(tmp_path, method="optimise", space="w")
    assert named.store_fp == found.store_fp


def test_the_description_of_a_method_is_that_of_the_first_release():
    """Stores are named by it: another one would make every store anew."""
    shared = {"space": "w", "noise_mode": "const", "crop": "centre"}
    steps = {"steps": 7, "learning_rate": 1.0, "pixel_weight": 1.0, "feature_weight": 0.5}
    expected = {
        "encoder": {"method": "encoder", **shared, "encoder": "ab"},
        "optimise": {"method": "optimise", **shared, **steps},
        "hybrid": {"method": "hybrid", **shared, **steps, "encoder": "ab"},
    }
    for name, description in expected.items():
        keys = {"method": name, "space": "w", "steps": 7, "learning_rate": 1, "batch_size": 3}
        assert method_of(invert_section(keys), "ab") == description


TOY = """
from typing import Annotated

import torch
from pydantic import Field

from generators.protocols import Code
from schemas.sections.invert import MODEL_FILE, SAME_CODES, InvertSpec, Needs
from schemas.sections.types import Integer, SpecPath
from transforms.inversion.method import Cost, InversionMethod, Inverted


class DartsSpec(InvertSpec):
    "Random codes, of which the best is kept."

    darts: Integer = Field(default=8, ge=1, description="Codes that are tried.")
    board: Annotated[SpecPath | None, MODEL_FILE] = Field(default=None, description="A file.")
    hurry: Annotated[Integer, SAME_CODES] = Field(default=0, description="Nothing.")

    @property
    def needs(self):
        return Needs(random=True)


class Darts(InversionMethod):
    section = DartsSpec

    def spaces(self, facts):
        return ("w",)

    def qualities(self, settings):
        return ("darts_error",)

    def cost(self, settings):
        return Cost(forward_passes=settings.darts, seconds=0.5)

    def invert(self, images):
        shape = images.generator.facts.space("w").shape
        centre = images.generator.centre("w")
        best = torch.zeros(len(images), *shape)
        error = torch.full((len(images),), torch.inf)
        for _ in range(images.settings.darts):
            darts = [torch.from_numpy(rng.standard_normal(shape)) for rng in images.rngs]
            codes = centre + 0.3 * torch.stack(darts).float()
            with torch.no_grad():
                drawn = images.generator.draw(Code("w", codes))
            now = (drawn - images.pixels).square().flatten(1).mean(dim=1)
            better = now < error
            best[better], error[better] = codes[better], now[better]
        best[~torch.isfinite(error)] = torch.nan
        return Inverted(Code("w", best), {"darts_error": error})


PLUGIN = Darts()
"""


@pytest.fixture
def darts(tmp_path_factory, monkeypatch):
    with monkeypatch.context() as patch:
        folder = tmp_path_factory.mktemp("package")
        install(folder, patch, "latentflow.inversions", "darts", TOY)
        yield
    forget()


def test_a_method_of_another_package_is_one_like_any(darts, setting, tmp_path):
    keys = {"method": "darts", "space": "w", "darts": 3}
    short = setting.index.__class__(setting.index.table.slice(0, 5), setting.index.factors)
    result = run(setting, tmp_path, index=short, **keys)
    store = LatentStore.open(result.store_path)
    assert result.counts["ok"] == 4 and store.attrs["method"]["darts"] == 3
    assert np.isfinite(store.array("quality/darts_error")[:][[0, 1, 2, 4]]).all()
    board = tmp_path / "board"
    fps = []
    for data in (b"a", b"a", b"b"):
        board.write_bytes(data)
        fps.append(setting.identity(tmp_path, board=str(board), **keys).store_fp)
    assert fps[0] == fps[1] != fps[2], "a file counts by its bytes"
    assert setting.identity(tmp_path, hurry=3, **keys).store_fp == result.store_fp
    choices = json_schema()["properties"]["invert"]["oneOf"]
    assert "darts" in [choice["properties"]["method"]["const"] for choice in choices]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{method: dart}", "'invert.method' is 'dart': did you mean 'darts'"),
        ("{method: darts, dart: 3}", "unknown key 'invert.dart'.*did you mean 'darts'"),
        ("{method: darts, darts: 0}", "'invert.darts' is 0.*Codes that are tried"),
        ("{method: darts, steps: 3}",
         "'invert.steps'.*of method 'encoder' .*'hybrid' .*'optimise'.*, and .* is 'darts'"),
        ("{darts: 3}", "'invert.darts'.*of method 'darts', and 'invert.method' is 'encoder'"),
    ],
)  # fmt: skip
def test_keys_of_another_package_are_refused_and_explained_like_ours(darts, text, told):
    with pytest.raises(SpecError, match=told):
        parse_spec(f"name: a\ndataset: {{path: b}}\ninvert: {text}\n", "/")


def test_a_method_of_another_version_makes_its_blocks_anew(darts, setting, tmp_path, monkeypatch):
    identity = setting.identity(tmp_path, method="darts", space="w")
    before = plan_invert(setting.index, identity).fps
    monkeypatch.setattr(type(method_named("darts")), "version", 2)
    after = plan_invert(setting.index, identity).fps
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_a_result_of_another_form_than_announced_is_refused(darts, setting, tmp_path, monkeypatch):
    monkeypatch.setattr(type(method_named("darts")), "qualities", lambda self, settings: ())
    with pytest.raises(PluginError, match="'darts' gave arrays of shapes.*darts_error"):
        run(setting, tmp_path, method="darts", space="w", darts=1)
    monkeypatch.setattr(type(method_named("darts")), "invert", lambda self, images: images.pixels)
    with pytest.raises(
        PluginError, match="'darts' gave 'Tensor' of 'NoneType', expected 'Inverted"
    ):
        run(setting, tmp_path, method="darts", space="w", darts=1)


def test_keys_without_effect_are_told():
    section = invert_section({"steps": 7, "pixel_weight": 0, "feature_weight": 0})
    given = {"steps": 7, "pixel_weight": 0, "feature_weight": 0}
    assert section.without_effect() == given
    assert invert_section({"method": "optimise", "steps": 7}).without_effect() == {}


def test_a_plan_tells_what_a_method_takes_before_it_runs(darts, setting, tmp_path):
    def notes(invert: str) -> list[str]:
        text = f"""
            name: a
            dataset: {{path: {setting.source.root}}}
            generator: {setting.generator}
            encoder: {setting.encoder}
            invert: {invert}
            output: {tmp_path / "out"}
        """
        index, stage, *_ = plan_stages(parse_spec(textwrap.dedent(text), "/"))
        return [*index.notes, *stage.notes]

    told = notes("{method: darts, space: w, darts: 3}")
    assert any("about 1.2 min at the rate that the method gives" in note for note in told)
    assert "each image: 3 passes through the generator; then 1 pass" in " ".join(told)
    told = notes("{steps: 7}")
    assert "invert.steps: 7 given, not used by method 'encoder'" in told
    assert "each image: 1 pass through the encoder; then 1 pass" in " ".join(told)
    assert "50 passes back through it" in " ".join(notes("{method: hybrid, steps: 50}"))
