"""The benchmark of sampled rows runs in its smoke form."""

from __future__ import annotations

from benchmarks import sampled
from tests.benchmarks.test_benchmark_pca import smoke


def test_sampled(monkeypatch, capsys):
    code, result = smoke(sampled, monkeypatch, capsys)
    assert code == 0 and result["name"] == "sampled" and result["ratio"] > 0
    assert result["error"] < 1e-6  # the analyses of derived rows are those of stored ones
    assert result["recovered"] > 0.8  # the planes are those that the labels were planted with
    assert {"mapping", "pca", "hyperplanes", "ours"} == set(result["seconds"])
    assert set(result["bytes"]) == {"directions", "index.parquet", "statistics", "stores"}
    assert result["peak_mb"] > 20
