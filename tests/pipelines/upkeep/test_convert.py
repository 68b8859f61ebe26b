"""`latentflow convert`: any family's file as our safetensors and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import answered

import generators
import pipelines.upkeep.convert
from benchmarks.families import compared, references_of
from generators.model_file import read_checkpoint, write_checkpoint
from pipelines.upkeep.convert import convert
from schemas.errors import CheckpointError, LatentflowError, UsageError
from tests.generators.families.references import r3gan as references_r3gan
from tests.networks import biggan
from tests.networks.plain import ONNX, declare, onnx_file
from tests.stylegan2_layouts import tiny


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(tiny().network.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_the_command_says_what_it_read_assumed_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "network-snapshot.pkl"
    case = references_r3gan.arrays()["bfloat16 stages, drawn in float32"]
    path.write_bytes(case["file"].tobytes())
    done = answered("convert", path)
    assert done.returncode == 0, done.stderr
    fingerprint = read_checkpoint(path).fingerprint
    assert done.stdout.splitlines()[:3] == [
        f"r3gan, 16 x 16, fingerprint {fingerprint}",
        "left out: bfloat16, in which 2 stages compute: all is drawn in float32",
        "left out: entries 'G', 'D', 'cur_nimg' (3)",
    ]
    written = tmp_path / "network-snapshot.safetensors"
    assert f"wrote {written} and network-snapshot.json" in done.stdout
    assert generators.fingerprint(written) == fingerprint
    again = answered("convert", path)
    assert again.returncode == 2 and "exists already" in again.stderr
    assert answered("convert", path, "--overwrite").returncode == 0


def test_what_lies_beside_a_generator_is_told_at_every_depth(tmp_path: Path) -> None:
    state = {f"decoder.{name}": value for name, value in tiny().network.state_dict().items()}
    beside = {f"encoder.{i}": torch.zeros(1) for i in range(8)}
    held = {"state_dict": state | beside, "opts": {}, "step": 3}
    torch.save({"last": held, "latent_avg": torch.zeros(8)}, tmp_path / "e4e.pt")
    assert convert(str(tmp_path / "e4e.pt")).left_out == (
        "entries 'latent_avg' (1)",
        "entries 'opts', 'step' (2)",
        "tensors 'encoder.0', 'encoder.1', 'encoder.2', 'encoder.3', 'encoder.4', 'encoder.5' (8)",
    )
    again = convert(str(tmp_path / "e4e.safetensors"), tmp_path / "again.safetensors")
    assert again.left_out == ()


def test_what_is_assumed_is_told_and_stays_open(weights: Path, tmp_path: Path) -> None:
    found = convert(str(weights), tmp_path / "new" / "g.safetensors")
    assert set(found.assumed) == {"lr_multiplier", "conv_clamp"}
    assert any(line.startswith("conv_clamp none is assumed") for line in found.lines())
    read = read_checkpoint(found.paths[0])
    assert read.assumed == {"lr_multiplier": 0.01, "conv_clamp": None}
    given = read_checkpoint(found.paths[0], settings={"conv_clamp": 256.0})
    assert given.fingerprint == read_checkpoint(weights, settings={"conv_clamp": 256.0}).fingerprint


def test_a_program_becomes_tensors_that_draw_the_same(tmp_path: Path) -> None:
    path = declare(onnx_file(tmp_path / "g.onnx"), **ONNX)
    with pytest.raises(UsageError, match="'.*g.json' is a part of what is converted.*--out"):
        convert(str(path), overwrite=True)
    assert json.loads((tmp_path / "g.json").read_text())["family"] == "plain"
    found = convert(str(path), tmp_path / "h.safetensors")
    before, after = generators.load(path), generators.load(found.paths[0])
    assert before.facts == after.facts
    codes = before.sample("z", [1, 2])
    assert torch.equal(before.draw(codes, labels=[0, 1]), after.draw(codes, labels=[0, 1]))


def test_a_folder_becomes_a_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "biggan-deep-1.5"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(biggan.HF_CONFIG))
    torch.save(biggan.hf_state(), folder / "pytorch_model.bin")
    monkeypatch.chdir(folder)
    found = convert(".")
    assert found.paths[0] == tmp_path / "biggan-deep-1.5.safetensors"
    assert read_checkpoint(found.paths[0]).fingerprint == read_checkpoint(folder).fingerprint


@pytest.mark.parametrize("family", compared())
def test_every_family_is_written_and_read_again(family: str, tmp_path: Path) -> None:
    read = references_of(family).tiny()
    write_checkpoint(read, tmp_path / "a.safetensors")
    found = convert(str(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert read_checkpoint(found.paths[0]).fingerprint == read.fingerprint
    for ending in ("safetensors", "json"):
        first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in "ab")
        assert first == second


# ---- what is refused -----------------------------------------------------------------------------


def test_a_folder_without_weights_is_told_by_whatever_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "..", str(tmp_path)):
        with pytest.raises(CheckpointError, match="is a folder: "):
            convert(name)


def test_targets_that_are_taken_or_none_are_refused(weights: Path, tmp_path: Path) -> None:
    for out, told in (
        (tmp_path / "g.pt", "ends in '.safetensors'"),
        (tmp_path / "taken.safetensors", "exists already: .*--overwrite"),
        (tmp_path / "beside.safetensors", "'.*beside.json' exists already"),
    ):
        (tmp_path / "taken.safetensors").write_bytes(b"mine")
        (tmp_path / "beside.json").write_text('{"mine": 1}')
        with pytest.raises(UsageError, match=told):
            convert(str(weights), out)
    with pytest.raises(UsageError, match="generator.safetensors' is a part of what is converted"):
        convert("bundled:faces64", overwrite=True)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        convert(str(weights), tmp_path / "folder.safetensors", overwrite=True)
    made = convert(str(weights), tmp_path / "own.safetensors").paths[0]
    before = made.read_bytes()
    with pytest.raises(UsageError, match="is a part of what is converted"):
        convert(str(made), overwrite=True)
    assert made.read_bytes() == before
    assert (tmp_path / "taken.safetensors").read_bytes() == b"mine"


def test_what_is_no_generator_is_refused_and_nothing_written(tmp_path: Path) -> None:
    (tmp_path / "text.pkl").write_text("hello, this is no checkpoint")
    np.save(tmp_path / "array.npy", np.zeros(3))
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pt")
    for name in ("text.pkl", "array.npy", "other.pt", "missing.pkl"):
        with pytest.raises(CheckpointError):
            convert(str(tmp_path / name))
    for source in ("https://example.org/g.pkl", "bundled:nowhere"):
        with pytest.raises(LatentflowError):
            convert(source, tmp_path / "x.safetensors")
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.json"))
    done = answered("convert", tmp_path / "other.pt", "--family", "styelgan2")
    assert done.returncode == 2 and "'stylegan2'" in done.stderr


@pytest.mark.parametrize("files", [0, 1])
def test_a_killed_conversion_leaves_nothing_that_is_read_and_runs_again(
    files: int, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """files : that are written before the process ends."""
    import schemas.atomic

    written: list[Path] = []
    replace = schemas.atomic.os.replace

    def dying(temporary: Path, path: Path) -> None:
        if len(written) == files:
            raise KeyboardInterrupt
        written.append(path)
        replace(temporary, path)

    out = tmp_path / "out.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(schemas.atomic.os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            convert(str(weights), out)
    assert not out.exists() and len(list(tmp_path.glob("out.*"))) == files
    (tmp_path / f"out.safetensors.{'0' * 32}.partial").write_bytes(b"what a kill leaves")
    found = convert(str(weights), out)
    assert read_checkpoint(found.paths[0]).fingerprint == read_checkpoint(weights).fingerprint
    assert not list(tmp_path.glob("*.partial"))


def test_a_family_that_cannot_be_written_is_told(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(checkpoint, path: Path) -> None:
        first = next(iter(checkpoint.tensors))
        tensors = {**checkpoint.tensors, first: checkpoint.tensors[first] + 1}
        write_checkpoint(type(checkpoint)(checkpoint.architecture, tensors), path)

    monkeypatch.setattr(pipelines.upkeep.convert, "write_checkpoint", changed)
    with pytest.raises(CheckpointError, match="another fingerprint"):
        convert(str(weights), tmp_path / "out.safetensors")
