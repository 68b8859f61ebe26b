"""A benchmark run as its user runs it, for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from places import ROOT


def benchmark(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """``python -m benchmarks.<name> <flags>``, whatever its exit code."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def smoke(name: str, *flags: str) -> tuple[str, dict[str, Any]]:
    """What a successful smoke run printed, and its last line's JSON."""
    done = benchmark(name, "--smoke", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(done.stdout.strip().splitlines()[-1])
