"""The benchmark of trainings of encoders runs in its smoke form."""

from __future__ import annotations

from benchmarks import train_encoder
from tests.benchmarks.test_benchmark_pca import smoke


def test_train_encoder(monkeypatch, capsys):
    code, result = smoke(train_encoder, monkeypatch, capsys)
    assert code == 0 and result["name"] == "train_encoder"
    assert result["held_out"] == 4 and result["timed_steps"] == 2 + 4  # and those of the probe
    assert result["ours_s"] > 0 and result["r2"]["worst"] <= result["r2"]["median"]
