"""The benchmark of families, on one whose pictures are planted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import families

PICTURES = np.random.default_rng(0).normal(size=(2, 3, 8, 8))
PLANTED = SimpleNamespace(
    REFERENCES={"same": lambda: (PICTURES, PICTURES)},
    OFFICIAL={
        "theirs/off": lambda checkout: (PICTURES + len(list(checkout.iterdir())), PICTURES),
        "absent/off": lambda checkout: (PICTURES, PICTURES),
    },
)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(families, "compared", lambda: ("planted",))
    monkeypatch.setattr(families, "references_of", lambda family: PLANTED)
    monkeypatch.setattr(sys, "argv", ["families", *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    return families.main()


def test_the_last_line_tells_the_worst_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs" / "code").mkdir(parents=True)
    assert run(monkeypatch) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"] == 0
    assert run(monkeypatch, "--official", str(tmp_path)) == 1
    *printed, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["name"] == "families" and found["error"] == pytest.approx(1 / PICTURES.std())
    assert [row["case"] for row in found["rows"]] == ["same", "theirs/off"]
    assert any("left out  absent/off: no" in line for line in printed)
    with pytest.raises(SystemExit):
        run(monkeypatch, "--official", str(tmp_path / "nowhere"))
    assert "is no folder" in capsys.readouterr().err
