"""The tables of the diverse similarity encoder, in their smoke form, in this process."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import distance

import generators
from benchmarks import paper_002
from benchmarks._dse_training import Size, Training, file_of, train
from generators.perceptual import load_perceptual


@pytest.fixture(scope="module")
def models() -> Any:
    generator = generators.load("bundled:faces64")
    codes = generator.sample("w_plus", range(5)).main
    return generator, load_perceptual("bundled:features64/features"), codes


def test_the_tables_are_printed_and_kept(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["paper_002", "--smoke", "--work", str(tmp_path)])
    assert paper_002.main() == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    tables = result["tables"]
    assert result["complete"] and {"III", "IV", "V", "figure"} == set(tables)
    assert "x'2 w/ (AT1, AT2)" in tables["IV"] and "1 iterations, w/o SSIM" in tables["V"]
    for row in tables["III"].values():
        assert row["PSNR"] > 5 and -1 <= row["CS"] <= 1
    assert result["error"] == len(result["failed"])
    (kept,) = tmp_path.glob("figures-*.json")
    assert json.loads(kept.read_text()) == tables


def test_a_training_that_was_ended_goes_on_to_the_same_bits(models, tmp_path) -> None:
    size = Size(steps=2, batch=2, width=(2, 4))
    whole, part = (Training(*models, "w/o AT", 0, size) for _ in range(2))
    whole.run(2)
    part.run(1)
    part.save(tmp_path / "wo_AT-0.pt")
    assert train(tmp_path, *models, "w/o AT", 0, size, lambda: 0.0) is False
    assert not file_of(tmp_path, "w/o AT", 0, 2).exists()
    assert train(tmp_path, *models, "w/o AT", 0, size, lambda: 1.0)
    resumed = Training(*models, "w/o AT", 0, size)
    resumed.load(tmp_path / "wo_AT-0.pt")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], tensor), name


def test_pictures_are_compared_as_the_paper_prints_it(models) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + 20, 0, 255).astype(np.uint8)
    x, y = (v.reshape(3, -1) / 127.5 - 1 for v in (a, b))
    wanted = [1 - distance.cosine(p, q) for p, q in zip(x, y, strict=True)]
    np.testing.assert_allclose(paper_002.cosines(a, b), wanted, rtol=1e-5)
    middle = paper_002.scaled(np.repeat(a[:, :1], 16, axis=1), 2)
    assert middle.shape == a.shape and (middle[:, 0, 0] == a[:, 0, 5]).all()
