"""The benchmark of drift in its smoke form, in this process, and the copies that it makes."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

from benchmarks import drift
from generators.encoders.load import load_encoder


def test_drift(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["drift", "--smoke", "--out", str(tmp_path)])
    assert drift.main() == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["name"] == "drift" and result["error"] == round(1 - result["accuracy"], 4)
    assert {"ours_s", "peer_s", "ratio", "peak_mb", "accuracy_cosine"} <= set(result)
    assert [row["copy"] for row in result["rows"]] == ["mirrored-1", "rotated"]
    rotated = result["rows"][1]
    # 25 faces do not fix a rotation of 64 coordinates, but lead some of the way
    assert rotated["relation"] == "rotation" and rotated["identity_error"] > 1.0
    assert rotated["map_error"] < 0.7 * rotated["identity_error"]
    assert result["calls"] == sum(row["directions"] for row in result["rows"]) >= 4
    assert (tmp_path / "rotated" / "drift.html").stat().st_size > 10_000


def test_a_rotated_copy_draws_the_same_and_a_tuned_one_learns():
    base = drift.Model("old", drift.generators.load(drift.MODEL), load_encoder(drift.MODEL))
    images = drift.faces(4, 0)
    codes = base.codes(images)
    turned = drift.rotated(base)
    assert np.abs(turned.codes(images) - codes).max() > 0.1

    def draw(model):
        with torch.no_grad():
            return model.generator.synthesise(torch.from_numpy(model.codes(images))).numpy()

    np.testing.assert_allclose(draw(turned), draw(base), atol=1e-3)
    assert turned.generator.fingerprint != base.generator.fingerprint
    mirrored = images[:, :, ::-1]
    tuned = drift.trained(base, "t", images, mirrored, 8, 4)

    def error(model):
        return float(np.square(draw(model) - drift.pixels(mirrored.copy()).numpy()).mean())

    assert error(tuned) < 0.8 * error(base)
    assert tuned.encoder.fingerprint == base.encoder.fingerprint
