"""The benchmark of inversion: what it compares, and that it goes on where it was ended."""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import pytest

from benchmarks import invert_quality
from benchmarks._inversions import HIGHER, PROJECTOR, RIG, SAMPLED, Piece
from benchmarks.invert_quality import better, comparisons, edits_followed, pairs, row_of


def piece(method, space="w", rows=4, **more):
    return Piece(RIG, method, space, rows, **more)


def test_figures_are_compared_in_their_sense_over_the_rows_that_both_have():
    ours, theirs = piece("hybrid", rows=3), piece("encoder", rows=5)
    told = {"mse": np.array([1.0, 2, 3]), "psnr": np.array([20.0, 21, 22])}
    other = {"mse": np.array([2.0, 2, 3, 0, 0]), "psnr": np.array([20.5, 21, 22, 0, 0])}
    found = {ours: told, theirs: other}
    assert better("mse", ours, theirs, found) is True
    assert better("psnr", ours, theirs, found) is False
    assert better("psnr", ours, theirs, found, margin=-0.3) is True
    assert better("psnr", ours, theirs, {ours: told}) is None
    wanted = {"methods": [ours, theirs], "projector": [piece(PROJECTOR), piece("optimise")]}
    held = comparisons(wanted, found)
    assert held["hybrid beats encoder in w: mse"] is True
    assert held["pivotal tuning beats hybrid: mse"] is None
    assert held["optimise at most the official projector's loss: optimise in w"] is None
    told = row_of(ours, {**told, "seconds": np.full(3, 0.5)})
    assert (told["psnr"], told["seconds"]) == (21.0, 0.5)
    assert told["psnr, 5 % worse"] < 21 and told["mse, 5 % worse"] > 2 and "psnr" in HIGHER


def test_encoders_of_most_equal_steps_are_compared(tmp_path):
    for name in ("DSE-0-428", "DSE-0-1000", "MSE_only-0-428", "MSE_only-1-1000", "w_AT-0-428"):
        (tmp_path / f"{name}.safetensors").touch()
    found = pairs(tmp_path)
    assert list(found) == [0] and [file.stem for file in found[0]] == [
        "DSE-0-428",
        "MSE_only-0-428",
    ]
    assert pairs(None) == {}
    held = comparisons({"encoders": []}, {})
    assert len(held) == 12 and set(held.values()) == {None}


def test_edits_are_set_beside_editability():
    rng, found = np.random.default_rng(0), {}
    for k, method in enumerate((SAMPLED, "hybrid", "optimise")):
        scores = rng.uniform(0.5, 0.6, 40) / (k + 1)
        moved = 3 * scores[:, None] + rng.normal(0, 0.01, (40, 5))
        found[piece(method, edited=True)] = {"editability": scores, "moved": moved}
    told = edits_followed(found)
    assert told["spearman"] > 0.95 and told["spearman_within"] > 0.8
    assert told["pieces"]["hybrid in w"]["rows"] == 40
    assert edits_followed({})["spearman"] is None


def test_a_run_that_was_ended_goes_on(tmp_path, monkeypatch, capsys):
    flags = ["--smoke", "--work", str(tmp_path), "--parts", "projector"]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["invert_quality", *flags, *more])
        code = invert_quality.main()
        return code, json.loads(capsys.readouterr().out.strip().splitlines()[-1])

    code, told = run("--minutes", "0")
    assert code == 3 and not told["complete"] and not told["rows"]
    code, told = run()
    assert (
        code == 0 and told["complete"] and len(told["rows"]) == 4 and len(told["comparisons"]) == 2
    )
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npz")}
    assert run()[1]["rows"] == told["rows"]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npz")} == kept


def test_every_method_that_can_be_used_is_in_the_table():
    options = argparse.Namespace(rows=500, passes=3200, smoke=False)
    found = {(p.method, p.space): p.rows for p in invert_quality.of_methods(RIG, options)}
    assert found[("encoder", "w_plus")] == 500 and found[("hybrid", "w_plus")] == 32
    assert found[("in_domain", "w")] == 32 and ("optimise", "s") in found
    assert not any(method == "vae" for method, _ in found)


def test_an_unknown_part_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["invert_quality", "--parts", "methods,darts"])
    with pytest.raises(SystemExit):
        invert_quality.main()
    assert "--parts has ['darts']" in capsys.readouterr().err
