"""The benchmark of evaluation and start, in its smoke form, and how it compares figures."""

from __future__ import annotations

import json
import math

from benchmarks.evaluation_speed import forget_evaluation, in_turn, largest_difference, main


def test_the_last_line_is_the_result(tiny, capsys):
    assert main(["--smoke", "--run", str(tiny)]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["name"] == "evaluation_speed" and result["error"] == 0
    assert result["ratio"] == result["peer_s"] / result["ours_s"]
    assert [r["part"] for r in result["rows"]] == ["evaluation"]


def test_figures_differ_by_numbers_and_wholly_by_all_else():
    a = {"x": [1.0, {"y": 2}], "name": "d", "none": None, "seconds": 4.0}
    assert largest_difference(a, {**a, "seconds": 9.0}) == 0.0
    assert largest_difference(a, {**a, "x": [1.0, {"y": 2.5}]}) == 0.5
    for other in ({**a, "x": [1.0]}, {**a, "name": "e"}, {**a, "none": 0.0}, {"x": a["x"]}):
        assert largest_difference(a, other) == math.inf


def test_an_evaluation_is_forgotten_with_its_checksums(tmp_path):
    (tmp_path / "evaluation.json").write_text("{}")
    (tmp_path / "checksums.json").write_text('{"evaluation.json": "1", "run.json": "2"}')
    forget_evaluation(tmp_path)
    assert json.loads((tmp_path / "checksums.json").read_text()) == {"run.json": "2"}
    assert not (tmp_path / "evaluation.json").exists()


def test_builds_take_turns():
    calls = []
    medians = in_turn(3, lambda: calls.append("a") or len(calls), lambda: calls.append("b") or 0.0)
    assert calls == list("ababab") and medians == [3, 0.0]
