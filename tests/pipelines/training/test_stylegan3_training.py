"""The training of the bundled StyleGAN3, on a few pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from generators.encoders.load import LoadedEncoder
from generators.encoders.w_plus_encoder.network import EncoderConfig, WPlusEncoder
from pipelines.training import stylegan3
from pipelines.training.data import as_input

N = 12


@pytest.fixture(scope="module")
def material() -> stylegan3.Material:
    """Random pictures with an untrained encoder of more coordinates than w has."""
    rng = np.random.default_rng(0)
    data = {
        "images": rng.integers(0, 256, (N, 64, 64, 3), dtype=np.uint8),
        "landmarks": rng.uniform(0, 64, (N, 68, 2)).astype(np.float32),
    }
    torch.manual_seed(0)
    network = WPlusEncoder(EncoderConfig(64, (4, 4, 4, 4), 96, 3, 32))
    network.w_avg.normal_()
    encoder = LoadedEncoder(network)
    codes = rng.normal(size=(200, 96)) * np.linspace(3, 0.1, 96) + 2
    projection = stylegan3.Projection.of(codes, seed=5)
    w = projection(stylegan3.encoded(encoder, data["images"]))
    return stylegan3.Material(data, encoder, projection, w)


def test_w_keeps_the_distances_of_the_leading_components_at_unit_variance():
    rng = np.random.default_rng(1)
    plane, _ = np.linalg.qr(rng.normal(size=(96, stylegan3.W_DIM)))
    codes = rng.normal(size=(300, stylegan3.W_DIM)) @ plane.T * 7 + 5
    w = stylegan3.Projection.of(codes, seed=5)(codes).numpy()
    assert np.allclose(w.mean(axis=0), 0, atol=1e-5) and w.var(axis=0).mean() == pytest.approx(
        1, 0.01
    )
    apart, whole = (
        np.linalg.norm(w[0] - w[1:9], axis=1),
        np.linalg.norm(codes[0] - codes[1:9], axis=1),
    )
    assert np.ptp(apart / whole) < 1e-5


def test_the_encoder_of_w_is_the_other_one_with_the_projection(material):
    made = material.projection.encoder(material.encoder.network)
    with torch.no_grad():
        w, offsets = made(as_input(material.data["images"]))
    torch.testing.assert_close(w, material.w, atol=1e-4, rtol=1e-4)
    assert offsets.shape == (N, stylegan3.DESIGN.config.num_ws, stylegan3.W_DIM)
    assert not offsets.any()


def test_a_training_that_was_interrupted_ends_with_the_same_weights(material, tmp_path):
    whole, first, second = (stylegan3.Trainer(2) for _ in range(3))
    for _ in range(2):
        whole.advance(material.data, material.w)
    first.advance(material.data, material.w)
    first.save(tmp_path / "half.pt")
    second.load(tmp_path / "half.pt")
    second.advance(material.data, material.w)
    assert second.step == whole.step == 2
    for part in ("g", "g_ema"):
        a, b = (getattr(t, part).state_dict() for t in (whole, second))
        assert all(torch.equal(a[name], b[name]) for name in a)
    start = stylegan3.Trainer(2).g.synthesis.state_dict()
    moved = [
        name for name, value in start.items() if not torch.equal(value, a[f"synthesis.{name}"])
    ]
    assert any(name.endswith("magnitude_ema") for name in moved)
    assert not any("filter" in name or "freqs" in name for name in moved)
