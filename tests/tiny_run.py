"""A whole run on tiny models, without Ray or Beam: seconds where `latentflow run` takes a minute.

Used by tests and by the equivalence benchmark. The stages are those of `pipelines.runs.run`; only
the two engines are replaced by the in-process ones.
"""

from __future__ import annotations

import io
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import PropertyMock, patch

import numpy as np
import yaml
from direct_zarr import direct_zarr
from in_process import InProcess as Sums
from inversion_fixture import adapter, annotator, drawn, encoder_network
from PIL import Image
from rich.console import Console

import generators
import pipelines.runs.run
from generators.encoders.load import save_encoder
from pipelines.engine.blocks import InProcess
from pipelines.runs.run import RunResult
from schemas.spec import load_spec

PERSONS, EXPRESSIONS, VIEWS = ("ann", "bea", "cid", "dan", "eva"), ("calm", "glad", "sad"), "lr"
COLUMNS = ("file", "person", "expression", "view", "light")
POINTS = [f"p{i}" for i in range(9)]


def spec_of(root: Path, **changes) -> dict:
    """The specification of a tiny run in ``root``, as it is written to spec.yaml."""
    return {
        "name": "tiny",
        "dataset": {"path": "images", "pattern": "*.png", "factors": "factors.csv"},
        "generator": "generator.safetensors",
        "encoder": "encoder.safetensors",
        "invert": {"batch_size": 16, "block_rows": 64},
        "annotate": [
            {"name": "marks", "model": "marks.onnx"},
            {"name": "points", "model": "points.onnx"},
            {"name": "angle", "model": "angle.onnx"},
        ],
        "analyse": {
            "pca": {"n_components": 6},
            "mean_difference": {"baseline": {"expression": "calm"}},
            "svm": {"labels": "image", "threshold": 0.1, "max_passes": 10, "tolerance": 1e-3},
            "hosvd": {"modes": ["person", "expression"], "missing": "drop_person"},
            "nrsfm": {"landmarks": "points", "n_shapes": 2, "regressor": 0.01},
        },
        "evaluate": {"samples": 4, "strengths": [-1, 1], "holdout": {"fraction": 0.4}},
        "max_quarantined": 1.0,
        "output": "out",
        **changes,
    }


def factors_of(number: int) -> list[str]:
    """person, expression, view and light of picture ``number``: a complete design."""
    person = PERSONS[number // 6 % len(PERSONS)]
    light = f"{np.random.default_rng(number).normal():.3f}"
    return [person, EXPRESSIONS[number // 2 % 3], VIEWS[number % 2], light]


def write_image(path: Path, seed: int) -> None:
    """A smooth picture of its own for each seed."""
    Image.fromarray(drawn(1, seed + 10)[0]).save(path)


def write_spec(root: Path, spec: dict) -> Path:
    """spec.yaml, as people write it."""
    path = root / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def write_factors(root: Path, rows: dict[str, list[str]]) -> None:
    """factors.csv from file name -> values."""
    lines = [",".join(COLUMNS), *(",".join([name, *row]) for name, row in rows.items())]
    (root / "factors.csv").write_text("\n".join(lines) + "\n")


def write_model(path: Path, seed: int) -> None:
    """generator.safetensors or encoder.safetensors of a seed."""
    if path.name.startswith("generator"):
        generators.save_safetensors(adapter(seed), path)
    else:
        save_encoder(encoder_network(seed), path)


def write_annotators(root: Path, version: str = "") -> None:
    """Scores, landmarks and angles. version : another one gives other weights."""
    folder = root / f"weights{version}"  # the fixture seeds its weights by the name's length
    folder.mkdir(exist_ok=True)
    kinds = {
        "marks": ("scores", ["smile", "glasses"]),
        "points": ("landmarks", POINTS),
        "angle": ("pose", ["yaw", "pitch", "roll"]),
    }
    for name, (kind, names) in kinds.items():
        annotator(folder, name + version, kind, names)
        for ending in (".onnx", ".json"):
            data = (folder / f"{name}{version}{ending}").read_bytes()
            (root / f"{name}{ending}").write_bytes(data)


def make_tiny(root: Path, n: int = 90) -> Path:
    """Pictures, factors, models and specification in ``root``; returns the specification."""
    (root / "images").mkdir(parents=True)
    for number in range(n):
        write_image(root / "images" / f"{number:04}.png", number)
    write_factors(root, {f"{number:04}.png": factors_of(number) for number in range(n)})
    write_model(root / "generator.safetensors", 0)
    write_model(root / "encoder.safetensors", 0)
    write_annotators(root)
    return write_spec(root, spec_of(root))


class NoPeak(nullcontext):
    """In place of `pipelines.engine.memory.PeakMemory`."""

    peak = 0

    def __enter__(self):
        return self


@contextmanager
def in_process():
    """Replaces Ray and Beam by the engines that work in this process."""
    name = "pipelines.engine.beam"  # not imported for the patch: it would bring all of Beam
    before = sys.modules.get(name)
    sys.modules[name] = SimpleNamespace(analysis_engine=lambda spec, store: Sums())
    try:
        with (
            direct_zarr(),
            patch.object(pipelines.runs.run.Run, "ray", PropertyMock(return_value=InProcess())),
            patch.object(
                pipelines.runs.run, "PeakMemory", NoPeak
            ),  # sampling costs more than the run
        ):
            yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def run_tiny(spec: Path, until: str = "analyse", **options) -> RunResult:
    """`pipelines.runs.run.run` on a specification file, in this process; silent without a
    console."""
    options.setdefault("console", Console(file=io.StringIO()))
    with in_process():
        return pipelines.runs.run.run(load_spec(spec), until=until, **options)
