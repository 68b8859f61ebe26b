"""Pictures answered as they come."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import generators
from generators.encoders import load_encoder
from generators.protocols import Code
from pipelines.cli import app
from pipelines.downstream.frames import new_files, told_latency
from schemas.errors import UsageError
from transforms.images.preprocess import to_float, to_uint8


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3)).astype("u1")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_picture_of_a_folder_is_answered_and_a_broken_one_is_told(tmp_path: Path) -> None:
    frames = tmp_path / "my frames"
    frames.mkdir()
    for k in range(3):
        (frames / f"{k}.png").write_bytes(png(k))
    (frames / "broken.png").write_bytes(png(9)[:100])
    spec = tmp_path / "s.yaml"
    spec.write_text(json.dumps({"name": "s", "dataset": {"path": "my frames"},
                                "generator": "bundled:faces64", "output": "run"}))  # fmt: skip
    result = CliRunner().invoke(app, ["answer", str(spec), str(frames)])
    assert result.exit_code == 0, result.output
    assert "3 frames" in result.output and "broken.png: truncated" in result.output
    out = tmp_path / "run" / "answers"
    assert len(list(out.iterdir())) == 6
    encoder, generator = load_encoder("bundled:faces64"), generators.load("bundled:faces64")
    image = np.asarray(Image.open(frames / "1.png"))[None]
    codes = encoder.encode(torch.from_numpy(to_float(image)))
    assert np.array_equal(np.load(out / "1.png.npy"), codes[0].numpy())
    with torch.no_grad():
        drawn = to_uint8(generator.draw(Code("w_plus", codes)).numpy())[0]
    assert np.array_equal(np.asarray(Image.open(out / "1.png.png")), drawn)


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["answer", str(tmp_path / "s.yaml"), str(tmp_path / "none")])
    assert isinstance(result.exception, UsageError) and "is no folder" in str(result.exception)
    spec = tmp_path / "s.yaml"
    spec.write_text("{name: s, dataset: {path: .}, generator: 'bundled:faces64'}")
    result = CliRunner().invoke(app, ["answer", str(spec), str(tmp_path), "--out", str(tmp_path)])
    assert isinstance(result.exception, UsageError) and "is the folder of" in str(result.exception)


def test_pictures_that_come_later_are_given_once_they_no_longer_grow(tmp_path: Path) -> None:
    now = [0.0]
    comes = {1: ("b.png", b"12"), 2: ("b.png", b"1234"), 5: ("c.png", b"1"), 6: (".d.png", b"1")}

    def wait(seconds: float) -> None:
        now[0] += 1
        if int(now[0]) in comes:
            name, data = comes[int(now[0])]
            (tmp_path / name).write_bytes(data)

    (tmp_path / "a.png").write_bytes(b"1")
    given = [(p.name, p.read_bytes()) for p in new_files(tmp_path, 4.0, lambda: now[0], wait)]
    assert given == [("a.png", b"1"), ("b.png", b"1234"), ("c.png", b"1")]


@pytest.mark.parametrize(("seconds", "text"), [([9.0, 0.01, 0.01], "3 frames, 10.0 ms"),
                                               ([], "0 frames, nan")])  # fmt: skip
def test_the_first_frame_warms_up(seconds: list[float], text: str) -> None:
    assert told_latency(seconds).startswith(text)
