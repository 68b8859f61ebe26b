"""The landmark benchmark runs in its smoke form and ends with one line of JSON."""

from __future__ import annotations

import numpy as np

from benchmarks.nrsfm import measure
from tests.smoke import smoke
from transforms.nrsfm.cameras import rotation_of_angles


def test_smoke_run():
    _, result = smoke("nrsfm")
    assert result["name"] == "nrsfm" and result["error"] == 0 and result["peer_reached"]
    assert {"ours_s", "peer_s", "ratio", "peak_mb"} <= set(result)
    assert result["peer_value"] <= result["ours_value"] * (1 + 2e-4)


def test_a_limit_that_is_not_kept_is_counted(tmp_path):
    rng = np.random.default_rng(0)
    world = rng.standard_normal((60, 3, 17))  # no sequence at all: nothing to recover
    shapes = rotation_of_angles(rng.uniform(-1, 1, (60, 3))) @ world
    shapes -= shapes.mean(axis=2, keepdims=True)
    np.savez(tmp_path / "dance.npz", W=shapes[:, :2], S=shapes)
    np.savez(tmp_path / "other.npz", W=shapes[:, :2], S=shapes)
    assert measure(tmp_path / "dance.npz")["missed"] == 1
    assert measure(tmp_path / "other.npz")["missed"] == 0
