"""The benchmark of tensor models in its smoke form."""

from __future__ import annotations

from tests.smoke import smoke


def test_the_last_line_is_the_result():
    printed, result = smoke("hosvd")
    assert result["name"] == "hosvd" and result["error"] < 1e-6
    assert {"ours_s", "peer_s", "ratio", "ratio_tucker", "peak_mb"} <= set(result)
    assert result["missing_cells_ratio"] < 1.05
    streamed = result["rows"][1]
    assert streamed["part"] == "streamed" and streamed["error"] < 0.05
    try:
        import tensorly  # noqa: F401
    except ImportError:
        assert "tensorly is absent" in printed
    else:
        assert result["ratio_tucker"] > 1
