"""Encoders of drawings: the lines of a picture, and a training that sees these alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conformance.encoder import EncoderSuite
from scipy.ndimage import gaussian_filter

import generators
from generators.encoders import load_encoder, save_encoder
from generators.encoders.sketch import PLUGIN, SketchSettings
from generators.encoders.sketch.network import blurred, lines_of
from schemas.errors import UsageError


def disc(inside: float, outside: float, side: int = 64) -> torch.Tensor:
    """A picture of two greys, (1, 3, side, side)."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    within = (x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 4) ** 2
    return torch.where(within, inside, outside).float().expand(1, 3, -1, -1).contiguous()


def test_the_blur_is_scipy_s():
    grey = torch.rand(1, 1, 24, 31, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter(grey[0, 0].numpy(), 1.5, mode="nearest", truncate=5 / 1.5)
    np.testing.assert_allclose(blurred(grey, 1.5)[0, 0].numpy(), expected, atol=1e-6)


def test_lines_lie_on_the_dark_side_of_edges_and_nowhere_else():
    lines = lines_of(disc(-0.2, 0.3))
    assert set(lines.unique().tolist()) == {-1.0, 1.0} and lines.shape == (1, 3, 64, 64)
    black = lines[0, 0] < 0
    y, x = torch.where(black)
    distance = ((x - 32) ** 2 + (y - 32) ** 2).float().sqrt()
    assert black.any() and bool(((distance > 10) & (distance < 16)).all())
    assert not (lines_of(torch.full((1, 3, 64, 64), 0.2)) < 0).any()


def test_a_drawing_stays_what_it_is_and_one_on_black_is_turned():
    drawing = lines_of(disc(-0.2, 0.3))
    assert torch.equal(lines_of(drawing), drawing)
    assert torch.equal(lines_of(-drawing), drawing)


def test_lines_do_not_depend_on_the_picture_s_light_nor_on_those_beside_it():
    picture = disc(-0.2, 0.3)
    dim = (picture + 1) * 0.5 - 1
    both = lines_of(torch.cat([picture, dim]))
    assert torch.equal(both[:1], lines_of(picture)) and torch.equal(both[:1], both[1:])


def network(seed: int = 0):
    facts = generators.facts("bundled:faces64")
    settings = SketchSettings(width=0.05)
    design = PLUGIN.design(facts, "w", settings)
    torch.manual_seed(seed)
    found = PLUGIN.fresh(design, torch.randn(8, 64))
    torch.nn.init.normal_(next(p for p in found.parameters() if p.ndim > 1), std=0.1)
    assert found.architecture() == design
    return found


class TestSketch(EncoderSuite):
    @pytest.fixture
    def path(self, tmp_path):
        return str(save_encoder(network(), tmp_path / "e.safetensors"))

    @pytest.fixture
    def encoder(self, path):
        return load_encoder(path)

    @pytest.fixture
    def again(self, path):
        return load_encoder(path)

    @pytest.fixture
    def images(self):
        return torch.cat([disc(-0.2 - k / 10, 0.3) for k in range(4)])

    def test_a_picture_and_its_drawing_have_one_code(self, encoder, images):
        codes = encoder.encode(images)
        assert torch.equal(encoder.encode(lines_of(images, 0.05)), codes)


def test_what_cannot_be_trained_inside_is_told():
    for name in ("sketch", "psp"):
        with pytest.raises(UsageError, match=f"'{name}', which cannot .* 'convolutional' or"):
            PLUGIN.design(generators.facts("bundled:faces64"), "w", SketchSettings(of=name))
