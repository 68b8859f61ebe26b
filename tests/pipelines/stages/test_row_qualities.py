"""What every inverted row stores beside its code, and stores that were made before it was known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conformance.folder import adapter, make, tree

from generators.protocols import Code
from pipelines.engine.blocks import InProcess
from pipelines.folder.qualities import Quality, quality_told, stored_qualities
from pipelines.stages.invert import invert, plan_invert
from schemas.store.latent_store import LatentStore
from transforms.inversion.catalog import method_named
from transforms.inversion.editability import editability

N = 70
LPIPS = "quality/lpips_star"


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """70 images in two blocks; row 3 is an empty file."""
    return make(tmp_path_factory.mktemp("qualities"), N)


def short(setting, rows):
    return setting.index.__class__(setting.index.table.slice(0, rows), setting.index.factors)


def run(setting, identity, rows=N):
    invert(short(setting, rows), setting.source, identity, engine=InProcess())
    return LatentStore.open(identity.path)


def test_every_code_is_stored_with_its_editability(setting, tmp_path):
    identity = setting.identity(tmp_path)
    store = run(setting, identity)
    assert stored_qualities(store) == ["psnr", "ssim", "mse", "editability"]
    codes = torch.from_numpy(store.array("latents/w_plus")[:])
    wanted = editability(adapter(), Code("w_plus", codes)).numpy()
    np.testing.assert_allclose(store.array("quality/editability")[:], wanted, rtol=1e-6)
    assert np.flatnonzero(np.isnan(wanted)).tolist() == [3]


def test_methods_that_take_gradient_steps_measure_lpips_star_unasked(setting, tmp_path):
    steps = {"method": "optimise", "steps": 2}
    plain = setting.identity(tmp_path, **steps)
    assert "perceptual" not in plain.method
    asked = setting.identity(tmp_path, **steps, perceptual={})
    found = [run(setting, each, 5).array(LPIPS)[:] for each in (plain, asked)]
    np.testing.assert_array_equal(*found)
    assert np.isfinite(found[0][[0, 1, 2, 4]]).all()


def test_a_store_of_before_stays_as_it_is_until_all_of_it_is_made_anew(
    setting, tmp_path, monkeypatch
):
    identity = setting.identity(tmp_path)
    before = tuple(a for a in identity.arrays if a.path != "quality/editability")
    old = run(setting, replace(identity, arrays=before), 64)
    files = tree(old.path)
    assert not plan_invert(short(setting, 64), identity).work
    run(setting, identity, 64)
    assert tree(old.path) == files
    grown = run(setting, identity)
    assert stored_qualities(grown) == ["psnr", "ssim", "mse"]
    assert grown.committed("invert").any(axis=1).all()
    assert not plan_invert(setting.index, identity).work
    monkeypatch.setattr(type(method_named("encoder")), "version", 2)
    anew = run(setting, identity)
    assert np.isfinite(anew.array("quality/editability")[:]).sum() == N - 1
    whole = run(setting, setting.identity(tmp_path / "whole"))
    assert tree(anew.path) == tree(whole.path)


def test_the_worse_end_of_a_quality_follows_its_sense():
    values = np.arange(101.0)
    assert (
        quality_told("psnr").worst(values) == 5 and quality_told("lpips_star").worst(values) == 95
    )
    assert quality_told("loss_start").worst(values) is None
    assert quality_told("darts_error") == Quality("darts error", 4)
