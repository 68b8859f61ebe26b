"""The benchmark of sketches runs in its smoke form."""

from __future__ import annotations

from benchmarks import sketches
from tests.benchmarks.test_benchmark_pca import smoke


def test_sketches(monkeypatch, capsys):
    code, result = smoke(sketches, monkeypatch, capsys)
    assert code == 0 and result["n"] == 4
    assert set(result["figures"]) == {"mean code", "lines", "picture"}
    assert result["figures"]["picture"]["psnr"] > 25 and result["latency_ms"]["median"] > 0
