"""`latentflow` as people type it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from places import ROOT


def latentflow(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
    )


def answered(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What `latentflow` does, in this process: where the process is not what is tested."""
    from pipelines.cli import main

    out, err, given = io.StringIO(), io.StringIO(), [str(argument) for argument in arguments]
    with redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ, COLUMNS="200"):
        try:
            main(given)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())
