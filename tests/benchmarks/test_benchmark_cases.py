"""Scripts that show a fault, run in order and with a limit."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import psutil

from benchmarks.cases import write_scripts
from tests.smoke import benchmark

SCRIPTS = {
    "1_passes": "command -v latentflow; echo right",
    "2_fails": "echo 'out of order' >&2; exit 3",
    "3_hangs": "setsid sleep 300 & echo $! > sleeper; echo started; wait",
    "4_is_quiet": "exit 0",
}


def test_a_table_and_the_number_that_pass(tmp_path):
    write_scripts(tmp_path, {k: f"cd {tmp_path}\n{text}" for k, text in SCRIPTS.items()})
    (tmp_path / "notes.txt").write_text("exit 1\n")
    started = time.monotonic()
    done = benchmark("cases", str(tmp_path), "--limit", "1")
    assert time.monotonic() - started < 60
    assert done.returncode == 1, done.stdout + done.stderr
    *table, last = done.stdout.strip().splitlines()
    result = json.loads(last)
    assert [result[key] for key in ("name", "fixed", "tried", "error")] == ["cases", 2, 4, 2]
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == sorted(SCRIPTS)
    assert [row["exit_code"] for row in rows.values()] == [0, 3, None, 0]
    assert [row["last_line"] for row in rows.values()] == ["right", "out of order", "started", ""]
    assert rows["3_hangs"]["seconds"] >= 1
    assert [line.split()[:2] for line in table[1:]] == [
        ["1_passes", "0"], ["2_fails", "3"], ["3_hangs", "over"], ["4_is_quiet", "0"],
    ]  # fmt: skip
    sleeper = int((tmp_path / "sleeper").read_text())
    assert not psutil.pid_exists(sleeper) or psutil.Process(sleeper).status() == "zombie"


def test_the_command_line_is_that_of_this_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.defpath)
    write_scripts(tmp_path, {"where": 'dirname "$(command -v python3)"'})
    result = json.loads(benchmark("cases", str(tmp_path)).stdout.splitlines()[-1])
    assert result["rows"][0]["last_line"] == str(Path(sys.executable).parent)


def test_a_folder_without_scripts_is_told(tmp_path):
    done = benchmark("cases", str(tmp_path))
    assert done.returncode == 2 and str(tmp_path) in done.stderr
