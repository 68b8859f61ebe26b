"""The benchmark of tensor models in its smoke form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_last_line_is_the_result():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hosvd", "--smoke"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["name"] == "hosvd" and result["error"] < 1e-6
    assert {"ours_s", "peer_s", "ratio", "ratio_tucker", "peak_mb"} <= set(result)
    assert result["missing_cells_ratio"] < 1.05
    streamed = result["rows"][1]
    assert streamed["part"] == "streamed" and streamed["error"] < 0.05
    try:
        import tensorly  # noqa: F401
    except ImportError:
        assert "tensorly is absent" in done.stdout
    else:
        assert result["ratio_tucker"] > 1
