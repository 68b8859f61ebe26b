"""The benchmarks of principal components run in their smoke form."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks import pca, scaling
from transforms.pca.fit import fit_pca


def smoke(module, monkeypatch, capsys):
    """Run a benchmark in this process: (exit code, the JSON of its last line)."""
    monkeypatch.setattr(sys, "argv", [module.__name__, "--smoke"])
    code = module.main()
    return code, json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_pca(monkeypatch, capsys):
    code, result = smoke(pca, monkeypatch, capsys)
    assert code == 0 and result["name"] == "pca" and result["error"] < 1e-6
    assert {"ours_s", "peer_s", "ratio", "peak_mb", "floor_s"} <= set(result)
    assert [r["column_mean"] for r in result["rows"]] == [0.0, 1e3]
    # the peer's angle shows that the error can be seen: it does not resolve the gap
    assert result["rows"][0]["peer_error"] > 1e-4 and result["peak_mb"] > 20


def test_the_planted_spectrum_is_the_rows_own(tmp_path):
    path = str(tmp_path / "rows.zarr")
    pca.write_rows(path, 3000, 24, 6, 5.0)
    x = np.concatenate(list(pca.blocks(path)))
    found = fit_pca(x, solver="covariance")
    expected = pca.spectrum(24, 6)
    np.testing.assert_allclose(found.singular_values**2 / 3000, expected, rtol=1e-5)
    assert 1 - expected[6] / expected[5] == pytest.approx(pca.GAP)
    assert pca.angle(found.components[:6], pca.lapack(path, 6)) < 1e-6
    assert pca.angle(found.components[1:7], pca.lapack(path, 6)) > 0.99


def test_scaling(monkeypatch, capsys):
    code, result = smoke(scaling, monkeypatch, capsys)
    assert code == 0 and result["name"] == "scaling" and result["ours_s"] > 0
    for analysis, passes in (("pca", 1), ("hyperplanes", 4)):
        rows = [r for r in result["rows"] if r["analysis"] == analysis]
        assert [(r["n_rows"], r["cache"]) for r in rows] == [
            (500, "in"), (500, "out"), (1000, "in"), (1000, "out"),
        ]  # fmt: skip
        assert all(r["passes"] >= passes and r["once_s"] > 0 for r in rows)
        assert {f"{analysis} in", f"{analysis} out"} <= set(result["spreads"])
    assert result["error"] >= 0
