"""The hyperplane benchmark in its smoke form."""

from __future__ import annotations

from tests.smoke import smoke


def test_the_last_line_is_the_result():
    _, result = smoke("hyperplanes", "--repeats", "1")
    assert result["name"] == "hyperplanes" and result["error"] <= 1e-6 and result["converged"]
    assert {"ours_s", "peer_s", "ratio", "peak_mb", "beam_s"} <= set(result)
    assert result["beam_difference"] < 1e-3
