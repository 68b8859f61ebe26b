"""Benchmarks run in their smoke form and end with one line of JSON."""

from __future__ import annotations

import pytest

from tests.smoke import smoke


@pytest.mark.parametrize("name", ["real_images"])
def test_a_benchmark_s_last_line_is_its_result(name):
    _, result = smoke(name)
    assert result["name"] == name and result["error"] == 0
    assert {"ours_s", "peer_s", "ratio", "peak_mb"} <= set(result)
