"""Scripts that show a fault: which of them still do.

``python -m benchmarks.cases FOLDER`` runs every ``*.sh`` of a folder by name, each in a process
group of its own, with the ``latentflow`` of this environment first on the PATH. A script sees to
its own temporary folder, prints what it saw and ends with 0 when all is right; its last line is
shown. ``--at-once`` scripts run side by side, and one that takes longer than ``--limit`` seconds
is ended with all that it started. Without a folder two scripts of a line each are run.

`fixed` of `tried` ended with 0; ``error`` is the number of the others.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

OWN = {
    "help": "latentflow --help >/dev/null && echo 'the command line answers'",
    "missing": "latentflow plan missing.yaml 2>&1; [ $? = 2 ] && echo 'a missing file is told'",
}


def main() -> int:
    """Parse the arguments and run; the exit code is 1 when a script did not end with 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="holds *.sh files")
    parser.add_argument("--limit", type=float, default=600, help="seconds a script (default 600)")
    parser.add_argument("--at-once", type=int, default=1, help="scripts side by side (default 1)")
    parser.add_argument("--smoke", action="store_true", help="no difference: FOLDER decides")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cases-") as own:
        folder = options.folder or write_scripts(Path(own), OWN)
        scripts = sorted(folder.glob("*.sh"))
        if not scripts:
            print(f"no *.sh file in {str(folder)!r}", file=sys.stderr)
            return 2
        rows = run_scripts(scripts, options.limit, options.at_once)
    fixed = sum(row["exit_code"] == 0 for row in rows)
    result = {"name": "cases", "fixed": fixed, "tried": len(rows), "error": len(rows) - fixed}
    print(json.dumps({**result, "rows": rows}))
    return int(fixed != len(rows))


def write_scripts(folder: Path, scripts: Mapping[str, str]) -> Path:
    """One file a script; the folder."""
    for name, text in scripts.items():
        (folder / f"{name}.sh").write_text(text + "\n")
    return folder


def run_scripts(scripts: Sequence[Path], limit: float, at_once: int) -> list[dict[str, Any]]:
    """Run them, print a line for each as soon as those before it have ended; their rows."""
    width = max(len(script.stem) for script in scripts) + 2
    print(f"{'name':<{width}}{'exit':>5}{'seconds':>9}  last line", flush=True)
    rows = []
    with ThreadPoolExecutor(at_once) as pool:
        for row in pool.map(lambda script: run_script(script, limit), scripts):
            code = "over" if row["exit_code"] is None else row["exit_code"]
            shown = f"{row['name']:<{width}}{code:>5}{row['seconds']:>9.1f}  {row['last_line']}"
            print(shown, flush=True)
            rows.append(row)
    return rows


def run_script(script: Path, limit: float) -> dict[str, Any]:
    """name, exit_code (None: over the limit), seconds and last_line of what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:  # a pipe would wait for whatever the script leaves
        process = subprocess.Popen(
            ["bash", str(script.resolve())], stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, env={**os.environ, "PATH": path}, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
            end(process)
        seconds = time.monotonic() - started
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    last = lines[-1] if lines else ""
    return {
        "name": script.stem, "exit_code": code, "seconds": round(seconds, 1), "last_line": last,
    }  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, in whatever groups they are now."""
    started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for child in started:
        if child.is_running():
            child.kill()
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
