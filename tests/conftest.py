"""Hypothesis profiles, seeds, and one small finished run that several tests read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from command_line import latentflow
from direct_zarr import direct_zarr
from hypothesis import settings
from places import shared

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
  pca: {n_components: 16, n_directions: 2}
  mean_difference: {factors: [expression, glasses], baseline: {expression: neutral, glasses: "no"}}
  svm: {attributes: [happiness, glasses]}
  hosvd: {modes: [person, [expression, intensity], view]}
  nrsfm: {landmarks: landmarks, n_shapes: 4}
evaluate: {samples: 12, strengths: [-2, 2], holdout: {fraction: 0.34}}
ray: {actors: 1}
output: out
"""


@pytest.fixture(autouse=True, scope="module")
def fast_zarr(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests in this process access zarr without its event loop, but where that is what they test:
    in modules marked with zarr_loop. Processes that tests start have it."""
    with nullcontext() if request.node.get_closest_marker("zarr_loop") else direct_zarr():
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """The tests' randomness, the same in every run."""
    return np.random.default_rng(20240)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with faces/ (3 persons, 150 pictures), small.yaml and out/, the finished run; one for
    all workers. For reading only; copy it to change it."""

    def make(root: Path) -> None:
        write_faces(root / "faces", people=3, seed=4)
        (root / "small.yaml").write_text(SMALL_SPEC)
        done = latentflow("run", root / "small.yaml")
        assert done.returncode == 0, done.stderr

    return shared(tmp_path_factory, "small", make)


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
