"""Hypothesis profiles, seeds, and one small finished run that several tests read."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import settings
from places import ROOT

from pipelines.demo.faces import write_faces

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

SMALL_SPEC = """
name: small
dataset: {path: faces, pattern: "images/*.png", factors: faces/factors.csv}
invert: {batch_size: 32, block_rows: 64}
annotate:
  - {name: attributes, model: "bundled:faces64/attributes"}
  - {name: landmarks, model: "bundled:faces64/landmarks"}
  - {name: pose, model: "bundled:faces64/pose"}
analyse:
  pca: {n_components: 16}
  mean_difference: {factors: [expression, glasses], baseline: {expression: neutral, glasses: "no"}}
  svm:
  hosvd: {modes: [person, [expression, intensity], view]}
  nrsfm: {landmarks: landmarks, n_shapes: 4}
evaluate: {samples: 12, strengths: [-2, 2], holdout: {fraction: 0.34}}
ray: {actors: 1}
output: out
"""


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


@pytest.fixture
def rng() -> np.random.Generator:
    """The tests' randomness, the same in every run."""
    return np.random.default_rng(20240)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with faces/ (3 persons, 150 pictures), small.yaml and out/, the finished run; one for
    all workers. For reading only; copy it to change it."""
    own = tmp_path_factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "small"
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            making = root.with_suffix(".made")
            shutil.rmtree(making, ignore_errors=True)  # of a worker that failed
            write_faces(making / "faces", people=3, seed=4)
            (making / "small.yaml").write_text(SMALL_SPEC)
            done = latentflow("run", making / "small.yaml")
            assert done.returncode == 0, done.stderr
            making.rename(root)
    return root


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run on tiny models, made without Ray or Beam: 90 rows in 2 blocks, row
    3 quarantined, row 70 removed. For reading only; copy it to change it."""
    from tiny_run import make_tiny, run_tiny

    root = tmp_path_factory.mktemp("tiny") / "tiny"
    spec = make_tiny(root)
    (root / "images" / "0003.png").write_bytes(b"")
    run_tiny(spec, "index")
    (root / "images" / "0070.png").unlink()
    assert run_tiny(spec).exit_code == 3
    return root
