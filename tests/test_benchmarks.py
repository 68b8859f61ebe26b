"""Benchmarks run in their smoke form and end with one line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["real_images"])
def test_a_benchmark_s_last_line_is_its_result(name):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--smoke"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["name"] == name and result["error"] == 0
    assert {"ours_s", "peer_s", "ratio", "peak_mb"} <= set(result)
