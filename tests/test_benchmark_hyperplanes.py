"""The hyperplane benchmark in its smoke form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_last_line_is_the_result():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hyperplanes", "--smoke", "--repeats", "1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["name"] == "hyperplanes" and result["error"] <= 1e-6 and result["converged"]
    assert {"ours_s", "peer_s", "ratio", "peak_mb", "beam_s"} <= set(result)
    assert result["beam_difference"] < 1e-3 and len(result["growth"]) == 6
