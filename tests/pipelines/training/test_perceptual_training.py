"""The training of the feature network: what is drawn and spoiled, the export, and its figures."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from generators.annotators import load_annotator
from generators.annotators.card import read_card
from generators.facerig import random_faces, render
from generators.perceptual import load_perceptual
from generators.perceptual.files import BUNDLED, FEATURES64
from pipelines.training.data import as_input, expressive
from pipelines.training.perceptual import FEATURES, Learner, description, onnx_model, two_spoiled
from pipelines.training.perceptual_figures import by_network, by_pixels, frechet, right_order
from pipelines.training.pictures import DISTORTIONS, KEPT_ASIDE, cut_out, drawn

ALL = {**DISTORTIONS, **KEPT_ASIDE}


@pytest.fixture(scope="module")
def pictures():
    return np.concatenate([drawn(3, 5), cut_out(2, 5)])


def test_a_picture_is_a_function_of_its_seed_and_number(pictures):
    np.testing.assert_array_equal(pictures[:2], drawn(2, 5))
    assert len(np.unique(np.concatenate([pictures[:3], drawn(3, 6)]), axis=0)) == 6
    np.testing.assert_array_equal(pictures[3:], cut_out(2, 5))
    assert pictures.dtype == np.uint8 and pictures.shape == (5, 64, 64, 3)


@pytest.mark.parametrize("name", sorted(ALL))
def test_severity_zero_changes_nothing_and_more_spoils_more(name, pictures):
    images, noise = as_input(pictures), torch.Generator().manual_seed(0)
    assert not set(DISTORTIONS) & set(KEPT_ASIDE)
    errors = []
    for severity in (0.0, 0.5, 1.0):
        given = ALL[name](images, torch.full((5,), severity), noise)
        assert given.shape == images.shape and given.isfinite().all()
        errors.append(float((given - images).square().mean()))
    limit = {"jpeg": 2e-2, "few_levels": 2e-3}.get(name, 1e-9)  # the mildest are not nothing
    assert errors[0] <= limit and errors[0] < errors[1] < errors[2]
    alone = ALL[name](images[:1], torch.full((1,), 0.5), torch.Generator().manual_seed(0))
    assert alone.shape == (1, 3, 64, 64)


def test_of_two_spoiled_pictures_the_second_is_spoiled_more(pictures):
    images = as_input(pictures).repeat(8, 1, 1, 1)
    rng, noise = np.random.default_rng(0), torch.Generator().manual_seed(0)
    a, b, how = two_spoiled(images, images[:4].flip(3), rng, noise)
    less, more = how.sum(dim=1).split(len(images))
    assert torch.equal(b[:4], images[:4].flip(3)) and (less[:4] <= 0.25).all()
    assert (more[4:] - less[4:] > 0.19).all() and (how > 0).sum(dim=1).max() == 1
    assert a.abs().max() <= 1 and b.abs().max() <= 1


def test_the_export_is_an_annotator_and_a_distance_of_the_same_numbers(tmp_path, pictures):
    torch.manual_seed(0)
    network = Learner().network.eval()
    onnx.save(onnx_model(network), tmp_path / "features.onnx")
    (tmp_path / "features.json").write_text(json.dumps(description()))
    found = load_annotator(str(tmp_path / "features.onnx")).annotate(pictures)
    with torch.no_grad():
        wanted = network(as_input(pictures)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    distance = load_perceptual(str(tmp_path / "features.onnx"))
    a, b = as_input(pictures[:2]), as_input(pictures[2:4])
    with torch.no_grad():
        torch.testing.assert_close(distance.between(a, b), by_network(network).distance(a, b))


def test_figures_of_pixels_are_what_can_be_counted(pictures):
    found = right_order(by_pixels(), as_input(pictures))
    assert 0.9 < found["one kind"] <= 1 and 0.6 < found["two kinds"] < 1
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4000, 3)) * [1, 2, 3]
    closed = 0.5**2 * 3 + (2 - 1) ** 2 + (1 - 2) ** 2 + (4 - 3) ** 2
    assert frechet(a, a / [1, 2, 3] * [2, 1, 4] + 0.5) == pytest.approx(closed, rel=0.1)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


# ---- the bundled network


def test_the_bundled_network_is_small_described_and_deterministic(pictures):
    card = read_card(BUNDLED)
    assert (card.kind, len(card.names), card.licence) == ("features", 192, "Apache-2.0")
    files = {path.name: path.stat().st_size for path in FEATURES.iterdir()}
    assert set(files) == {"features.onnx", "features.json", "features.md"}
    assert sum(files.values()) <= 4 << 20
    model = load_annotator(BUNDLED)
    whole = model.annotate(pictures)
    assert (whole >= 0).all() and not model.notes
    np.testing.assert_array_equal(whole, model.annotate(pictures))
    np.testing.assert_allclose(model.annotate(pictures[2:3]), whole[2:3], rtol=1e-5, atol=1e-6)


def test_the_bundled_distance_sees_expressions_where_pixels_see_the_light():
    """The card's first figure, on a dozen persons of no training set."""
    faces = random_faces(12, 77)
    images, stronger = (as_input(render(f, 64, 1).images) for f in (faces, expressive(faces, 77)))
    distance, noise = load_perceptual(BUNDLED), torch.Generator().manual_seed(0)
    assert distance.title == FEATURES64.title == "LPIPS*"
    shares = []
    for compared in (distance.between, by_pixels().distance):
        changed = compared(images, stronger)
        near = [
            compared(images, ALL[name](images, torch.full((12,), 0.2), noise))
            for name in ("light", "shift")
        ]
        shares.append(float(torch.stack([d < changed for d in near]).float().mean()))
    assert shares[0] > shares[1] + 0.4
