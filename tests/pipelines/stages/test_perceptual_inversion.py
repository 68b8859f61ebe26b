"""Perceptual distances in inversion: a quality of every reconstruction, and a term of the loss."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conformance.folder import adapter, make, tree
from PIL import Image

from generators.perceptual import load_perceptual, read_perceptual
from generators.perceptual.files import BUNDLED
from generators.protocols import Code
from pipelines.engine.blocks import InProcess
from pipelines.folder.store_identity import method_of
from pipelines.orchestration.locations import locations
from pipelines.stages.invert import invert, plan_invert
from schemas.errors import SpecError, UsageError
from schemas.sections.invert import invert_section
from schemas.sections.perceptual import OWN
from schemas.spec import load_spec
from schemas.store.latent_store import LatentStore
from transforms.images.preprocess import to_uint8
from transforms.inversion.catalog import invert_batch
from transforms.inversion.loss import RowLosses, feature_distance
from transforms.inversion.method import Images, render, row_generator

N = 5


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Five images; row 3 is an empty file."""
    return make(tmp_path_factory.mktemp("perceptual"), N)


def run(setting, root, **keys):
    identity = setting.identity(root, **keys)
    invert(setting.index, setting.source, identity, engine=InProcess())
    return LatentStore.open(identity.path)


def test_every_reconstruction_is_measured_and_nothing_else_changes(setting, tmp_path):
    plain, store = run(setting, tmp_path), run(setting, tmp_path, perceptual={})
    assert plain.path != store.path
    assert set(store.arrays("invert")) == {*plain.arrays("invert"), "quality/lpips_star"}
    for path in plain.arrays("invert"):
        np.testing.assert_array_equal(store.array(path)[:], plain.array(path)[:])
    rows = [0, 1, 2, 4]
    codes = torch.from_numpy(store.array("latents/w_plus")[:][rows])
    drawn = to_uint8(render(adapter(), Code("w_plus", codes)).numpy())
    images = np.stack([np.asarray(Image.open(setting.file(row))) for row in rows])
    wanted = load_perceptual(BUNDLED)(images, drawn)
    found = store.array("quality/lpips_star")[:]
    assert (wanted > 0).all() and np.isnan(found[3])
    np.testing.assert_allclose(found[rows], wanted, rtol=1e-5)


def test_a_block_that_was_cut_off_is_made_again(setting, tmp_path):
    whole = run(setting, tmp_path / "a", perceptual={})
    store = LatentStore.open(run(setting, tmp_path / "b", perceptual={}).path, "r+")
    (Path(store.path) / "quality" / "lpips_star" / "c" / "0").unlink()
    store._write_commit("invert", 0, bytes(32))
    identity = setting.identity(tmp_path / "b", perceptual={})
    assert len(plan_invert(setting.index, identity).work) == 1
    run(setting, tmp_path / "b", perceptual={})
    assert tree(store.path) == tree(whole.path)


def test_the_network_is_part_of_the_stores_identity(setting, tmp_path):
    def fp(**keys):
        return setting.identity(tmp_path, **keys).store_fp

    assert fp(perceptual=None) == fp() != fp(perceptual={})
    copy = tmp_path / "copy.onnx"
    shutil.copy(Path(__file__).parents[3] / "generators/bundled/features64/features.onnx", copy)
    assert fp(perceptual={"network": str(copy)}) == fp(perceptual={})
    steps = {"method": "optimise", "steps": 2}
    assert fp(**steps, perceptual_weight=0.0) == fp(**steps)
    weighted = setting.identity(tmp_path, **steps, perceptual_weight=1.0)
    assert weighted.method["perceptual"] == read_perceptual(OWN).fingerprint
    assert weighted.method["perceptual_weight"] == 1.0
    assert "quality/lpips_star" in {array.path for array in weighted.arrays}
    assert "perceptual" not in method_of(invert_section({"method": "optimise"}), None)
    other = replace(weighted, method={**weighted.method, "perceptual": "0" * 64})
    with pytest.raises(UsageError, match="a file that 'invert' names changed during the run"):
        invert(setting.index, setting.source, other, engine=InProcess())


def test_the_loss_has_the_distance_by_its_weight():
    generator, distance = adapter(), load_perceptual(OWN)
    pixels = render(generator, generator.sample("w_plus", [1, 2], truncation=0.5))
    drawn = render(generator, generator.sample("w_plus", [3, 4], truncation=0.5))
    keys = {"method": "optimise", "steps": 6, "learning_rate": 0.1, "pixel_weight": 2.0}
    section = invert_section({**keys, "space": "w_plus", "perceptual_weight": 0.5})
    wanted = 2 * (drawn - pixels).square().flatten(1).mean(dim=1)
    wanted = wanted + 0.5 * feature_distance(drawn, pixels) + 0.5 * distance.between(drawn, pixels)
    rngs = [row_generator(0, 1, "ab" * 32) for _ in range(2)]
    images = Images(pixels, generator, section, None, rngs, distance)
    torch.testing.assert_close(RowLosses(images)(drawn), wanted)
    with pytest.raises(UsageError, match="name a perceptual distance: give 'perceptual'"):
        invert_batch(replace(images, perceptual=None))


def test_the_weight_moves_a_reconstruction_towards_the_perceptual_distance():
    """Noise that no code reaches: nearer by the perceptual distance, at a price in pixels."""
    generator, distance = adapter(), load_perceptual(OWN)
    pixels = render(generator, generator.sample("w_plus", [1, 2], truncation=0.5))
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    pixels = (pixels + 0.3 * noise).clamp(-1, 1)
    perceived, squared = {}, {}
    for weight in (0.0, 5.0):
        keys = {"steps": 12, "space": "w_plus", "perceptual_weight": weight}
        section = invert_section({"method": "optimise", **keys})
        rngs = [row_generator(0, 1, "ab" * 32) for _ in range(2)]
        by = distance if weight else None
        code = invert_batch(Images(pixels, generator, section, None, rngs, by)).code
        drawn = render(generator, code)
        perceived[weight] = distance.between(drawn, pixels)
        squared[weight] = (drawn - pixels).square().flatten(1).mean(dim=1)
    assert bool((perceived[5.0] < perceived[0.0]).all())
    assert bool((squared[5.0] > squared[0.0]).all())


def test_wrong_keys_are_refused(tmp_path):
    def section(**keys):
        return invert_section({"method": "optimise", **keys})

    with pytest.raises(ValueError, match="'pixel_weight', .*'perceptual_weight' are all 0"):
        section(pixel_weight=0, feature_weight=0)
    assert section(pixel_weight=0, feature_weight=0, perceptual_weight=1).compared_by.network == OWN
    with pytest.raises(ValueError, match="'linear' is .*does not take: leave it out"):
        section(perceptual={"linear": "vgg.pth"})
    spec = tmp_path / "spec.yaml"
    text = "name: a\ndataset: {path: .}\ngenerator: 'bundled:'\ninvert: {perceptual: %s}\n"
    spec.write_text(text % "{network: vgg16.pth, linear: vgg.pth}")
    watched = locations(load_spec(spec))["perceptual"]
    assert watched == [tmp_path / "vgg16.pth", tmp_path / "vgg.pth"]
    spec.write_text(text % "{}")
    assert "perceptual" not in locations(load_spec(spec))
    spec.write_text(text % "null, perceptual_weight: 1")
    with pytest.raises(SpecError, match="key of method .*'hybrid' and .*'optimise'"):
        load_spec(spec)
