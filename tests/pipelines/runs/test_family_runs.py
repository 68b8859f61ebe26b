"""Every family of generators through a whole run, on the tiny model of its references."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from inversion_fixture import annotator
from PIL import Image
from tiny_run import run_tiny, write_spec

import generators
from benchmarks.families import compared, references_of
from generators.model_file import write_checkpoint
from generators.protocols import Code, Generator
from pipelines.downstream.finished_run import FinishedRun, edit_run
from schemas.spec import load_spec
from schemas.store.reasons import Status

ROWS = 8


def pictures_of(model: Generator, folder: Path) -> None:
    """Pictures that the model draws, from which its codes can be found, and what they show."""
    codes = model.sample(model.facts.default_space, range(ROWS))
    labels = [seed % model.facts.classes for seed in range(ROWS)] if model.facts.classes else None
    with torch.no_grad():
        drawn = model.draw(codes, labels=labels).clamp(-1, 1)
    folder.mkdir()
    lines = ["file,bright,label"]
    bright = drawn.mean(dim=(1, 2, 3)).argsort().argsort() >= ROWS // 2
    for i, image in enumerate(drawn.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(np.uint8((image + 1) * 127.5 + 0.5)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{'yes' if bright[i] else 'no'},{labels[i] if labels else 0}")
    (folder.parent / "factors.csv").write_text("\n".join(lines) + "\n")


def inversion_error(model: Generator, finished: FinishedRun) -> float:
    """Mean squared error of the stored codes' pictures, that of the mean code's being 1."""
    files = [finished.spec.dataset.path + f"/{i}.png" for i in range(ROWS)]
    seen = torch.from_numpy(np.stack([np.asarray(Image.open(f)) for f in files]))
    seen = seen.permute(0, 3, 1, 2) / 127.5 - 1
    stored = finished.samples(range(ROWS), model.facts)
    labels = stored.classes
    centre = model.centre(stored.space, labels).expand(*stored.codes.shape)
    with torch.no_grad():
        found, mean = (
            float((model.draw(code, labels=labels).clamp(-1, 1) - seen).square().mean())
            for code in (stored.code(), Code(stored.space, centre))
        )
    return found / mean


@pytest.mark.parametrize("family", compared())
def test_a_family_is_inverted_sampled_annotated_analysed_evaluated_and_edited(
    family: str, tmp_path: Path
) -> None:
    write_checkpoint(references_of(family).tiny(), tmp_path / "g.safetensors")
    model = generators.load(tmp_path / "g.safetensors")
    assert model.facts.family == family
    pictures_of(model, tmp_path / "images")
    annotator(tmp_path, "marks", "scores", ["bright"])
    labels = {"labels": "label"} if model.facts.classes else {}
    said = {
        "name": family,
        "generator": "g.safetensors",
        "annotate": [{"name": "marks", "model": "marks.onnx"}],
        "analyse": {
            "pca": {"n_components": 2, "n_directions": 1},
            "mean_difference": {"factors": ["bright"], "baseline": {"bright": "no"}},
        },
        "evaluate": {"samples": 2, "strengths": [1], "source": "prior"},
    }
    images = {"path": "images", "factors": "factors.csv", **labels}
    invert = {"method": "optimise", "steps": 8, "learning_rate": 0.1, "batch_size": ROWS}
    spec = write_spec(tmp_path, {**said, "dataset": images, "invert": invert, "output": "out"})
    assert run_tiny(spec, "evaluate").exit_code == 0

    finished = FinishedRun.of(load_spec(spec))
    for stage in ("invert", "marks", "marks@render"):
        assert (finished.store.status(stage) == Status.OK).all()
    assert inversion_error(model, finished) < 0.95
    effects = json.loads((tmp_path / "out/evaluation.json").read_text())["directions"]
    assert {effect["name"] for effect in effects} == {"pca.000", "mean.bright"}
    (strip,) = edit_run(finished.spec, ["mean.bright"], tmp_path / "e.png", [0, 1], [-2, 0, 2])
    width = model.facts.size[1]
    drawn = np.asarray(Image.open(strip), np.int64)
    assert drawn.shape[1] >= 3 * width
    assert np.abs(drawn[:, :width] - drawn[:, -width:]).max() > 0
