"""A whole run with a plug-in of every kind, none of which a file of ours names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from latentflow_woodcut.family import PLUGIN as FAMILY
from onnx import TensorProto, helper
from PIL import Image
from places import ROOT
from tiny_run import run_tiny
from typer.testing import CliRunner, Result

from generators.families.base import Checkpoint
from generators.model_file import write_checkpoint
from generators.peers.directions import read_directions
from pipelines.cli import app
from pipelines.runs.plan import plan_stages
from pipelines.upkeep.verify import verify
from schemas.directions import DirectionSet
from schemas.errors import SpecError
from schemas.spec import load_spec
from schemas.store.latent_store import LatentStore

NAMES = ("woodcut", "tracing", "inks", "ica", "woodcut_axes", "latentflow_woodcut")
CLASSES, BLOCKS, SIZE = ("white", "grey", "sepia"), 4, (48, 32)
N = 300


def checkpoint() -> Checkpoint:
    """Smooth blocks that overlap, on papers of three shades."""
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]] / SIZE[1]
    rng = np.random.default_rng(0)
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.normal(size=(BLOCKS * 3, 3)) * 4]
    blocks = 0.15 * np.stack(waves).reshape(BLOCKS, 3, *SIZE)
    paper = np.full((len(CLASSES), 3, *SIZE), 0.1) * np.arange(3)[:, None, None, None]
    tensors = {"blocks": blocks.astype("f4"), "paper": paper.astype("f4")}
    return Checkpoint({"family": FAMILY.name}, tensors)


def sources() -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, BLOCKS) of independent uniform sources, and the axes of these, unit (BLOCKS, k)."""
    rng = np.random.default_rng(1)
    mixing = np.linalg.qr(rng.normal(size=(BLOCKS, BLOCKS)))[0] * (1 + np.arange(BLOCKS) / 4)
    return rng.uniform(-1, 1, (N, BLOCKS)) @ mixing.T, (mixing / np.linalg.norm(mixing, axis=0)).T


def write_amounts(folder: Path) -> None:
    """A model that gives the amount of each ink in a picture, and its description."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 48, 32])
    amounts = helper.make_tensor_value_info("amounts", TensorProto.FLOAT, ["n", 3])
    node = helper.make_node("ReduceMean", ["image"], ["amounts"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph([node], "inks", [image], [amounts])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.save(model, str(folder / "inks.onnx"))
    given = {"name": "image", "size": [48, 32], "layout": "NCHW", "range": [0, 1]}
    card = {"name": "inks", "kind": "inks", "names": ["red", "green", "blue"], "input": given}
    (folder / "inks.json").write_text(json.dumps(card))


@pytest.fixture(scope="module")
def prints(tmp_path_factory: pytest.TempPathFactory, installed: Path) -> Path:
    """Prints of known codes, models, and a specification that has been run."""
    folder = tmp_path_factory.mktemp("prints")
    write_checkpoint(checkpoint(), folder / "press.safetensors")
    write_amounts(folder)
    (folder / "images").mkdir()
    codes, _ = sources()
    tensors = checkpoint().tensors
    lines = ["file,shade"]
    for i, code in enumerate(codes):
        inked = tensors["paper"][i % 3] + np.tensordot(code, tensors["blocks"], 1)
        pixels = np.rint((np.tanh(inked).transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i:03}.png")
        lines.append(f"{i:03}.png,{i % 3}")
    (folder / "prints.csv").write_text("\n".join(lines) + "\n")
    spec = {
        "name": "prints",
        "dataset": {"path": "images", "factors": "prints.csv", "labels": "shade"},
        "generator": "press.safetensors",
        "invert": {"method": "tracing", "edge": 0.999, "block_rows": 64},
        "annotate": [{"name": "inks", "model": "inks.onnx"}],
        "analyse": {"ica": {"n_components": 4}, "mean_difference": {"factors": ["shade"]}},
        "evaluate": {"samples": 8, "strengths": [-1, 1]},
        "output": "out",
    }
    (folder / "prints.yaml").write_text(yaml.safe_dump(spec))
    run = latentflow(installed, "run", str(folder / "prints.yaml"))
    assert run.returncode == 0, run.stderr
    return folder


def latentflow(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own that has the package."""
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments],
        env={**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_method_finds_the_codes_of_the_family(prints: Path) -> None:
    (path,) = (prints / "out" / "stores").glob("prints-*")
    store = LatentStore.open(str(path))
    np.testing.assert_allclose(store.array("latents/latent")[:], sources()[0], atol=0.02)
    noted = json.loads((prints / "out" / "run.json").read_text())
    assert noted["spec"]["invert"]["space"] == "latent", "the family's own, as none is named"


def test_the_kind_of_annotator_is_stored_and_names_attributes(prints: Path) -> None:
    (path,) = (prints / "out" / "stores").glob("prints-*")
    shares = LatentStore.open(str(path)).array("annotations/inks@render")[:]
    assert shares.shape == (N, 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    evaluation = json.loads((prints / "out" / "evaluation.json").read_text())
    assert evaluation["attributes"] == ["red", "green", "blue"]


def test_the_analysis_finds_the_planted_sources(prints: Path) -> None:
    (path,) = (prints / "out" / "directions").iterdir()
    directions = [d for d in DirectionSet.load(path) if d.method == "ica"]
    assert [d.name for d in directions] == [f"ica.{i:03}" for i in range(4)]
    cosines = np.abs(np.stack([d.vector for d in directions]) @ sources()[1].T)
    assert (cosines.max(axis=1) > 0.97).all() and len(set(cosines.argmax(axis=1))) == 4
    assert "Independent components" in (prints / "out" / "report.html").read_text()


def test_rows_are_drawn_from_another_package_s_model(prints: Path) -> None:
    """A family with one space, whose pictures depend on the class and whose codes do not."""
    spec = {
        "name": "drawn",
        "dataset": {"kind": "sampled", "n": 60, "labels": {"0": 1, "2": 2}},
        "generator": "press.safetensors",
        "invert": {"block_rows": 64},
        "annotate": [{"name": "inks", "model": "inks.onnx"}],
        "analyse": {
            "pca": {"n_components": 2},
            "svm": {"labels": "factors"},
            "mean_difference": {},
        },
        "evaluate": {"samples": 4, "strengths": [-1, 1]},
        "output": "drawn",
    }
    path = prints / "drawn.yaml"
    path.write_text(yaml.safe_dump(spec))
    assert run_tiny(path, "report").exit_code == 0
    states = {part.state for stage in plan_stages(load_spec(path)) for part in stage}
    assert states == {"current"}
    assert verify(prints / "drawn").ok
    (stored,) = (prints / "drawn" / "stores").glob("drawn-*")
    store = LatentStore.open(str(stored))
    normal = [np.random.default_rng(seed).standard_normal(BLOCKS) for seed in range(60)]
    np.testing.assert_allclose(store.array("latents/latent")[:], normal, atol=1e-6)
    tensors = checkpoint().tensors
    paper = tensors["paper"][np.where(np.arange(60) % 3, 2, 0)]
    inked = np.tanh(paper + np.tensordot(np.stack(normal), tensors["blocks"], 1))
    amounts = ((inked + 1) / 2).mean(axis=(2, 3))
    shares = store.array("annotations/inks@render")[:]
    np.testing.assert_allclose(shares, amounts / amounts.sum(axis=1, keepdims=True), atol=0.01)
    (path,) = (prints / "drawn" / "directions").iterdir()
    assert {"svm.label-2", "pca.000"} <= {d.name for d in DirectionSet.load(path)}


def here(*arguments: str) -> Result:
    """The command line, in this process."""
    return CliRunner().invoke(app, arguments)


def test_all_of_it_is_current_until_a_key_of_it_changes(prints: Path) -> None:
    whole = here("plan", str(prints / "prints.yaml"))
    assert whole.exit_code == 0 and "stale" not in whole.output, whole.output
    changed = (prints / "prints.yaml").read_text().replace("n_components: 4", "n_components: 3")
    (prints / "fewer.yaml").write_text(changed)
    told = here("plan", str(prints / "fewer.yaml")).output
    assert "n_components" in told and "4 -> 3" in told
    wrong = changed.replace("edge: 0.999", "edges: 0.999")
    (prints / "wrong.yaml").write_text(wrong)
    with pytest.raises(SpecError, match="did you mean 'edge'"):
        load_spec(prints / "wrong.yaml")


def test_the_format_takes_directions_out_and_in(prints: Path) -> None:
    spec, axes = str(prints / "prints.yaml"), prints / "axes.npz"
    out = here("export", spec, "--as", "woodcut_axes", "-d", "ica.000", "--out", str(axes))
    assert out.exit_code == 0, out.output
    (path,) = (prints / "out" / "directions").iterdir()
    stored = DirectionSet.load(path)
    (entry,) = read_directions(axes, space="latent", generator_fp=stored.generator_fp)
    np.testing.assert_allclose(entry.vector, stored["ica.000"].vector, atol=1e-6)
    model = ["--space", "latent", "--generator", str(prints / "press.safetensors")]
    came = here("import", spec, str(axes), *model, "--name", "carved")
    assert came.exit_code == 0, came.output
    assert DirectionSet.load(path)["carved"].method == "imported"


def test_without_the_package_the_specification_names_what_is_missing(
    prints: Path, tmp_path: Path
) -> None:
    refused = latentflow(tmp_path, "plan", str(prints / "prints.yaml"))
    assert refused.returncode == 2
    assert "tracing" in refused.stderr + refused.stdout
    assert "of package 'latentflow-woodcut'" in refused.stderr, "the run noted what it used"


def test_no_file_of_ours_names_a_plugin() -> None:
    words = re.compile(r"\b(" + "|".join(NAMES) + r")\b")
    rooms = ("schemas", "generators", "transforms", "pipelines", "benchmarks")
    ours = [p for room in rooms for p in (ROOT / room).rglob("*") if p.suffix in (".py", ".j2")]
    ours += [ROOT / "setup.py", ROOT / "pyproject.toml"]
    assert len(ours) > 200
    assert [p for p in ours if words.search(p.read_text())] == []
