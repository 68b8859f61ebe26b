"""What is told of a run whose plug-ins' packages were taken out of the environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plugin_packages import forget, install
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.compare.two_runs import ComparedRun
from pipelines.folder.specification import load_run_spec, plugins_of
from schemas.errors import InputError, SpecError
from schemas.spec import parse_spec

SPEC = """
name: shore
dataset: {path: images}
invert: {method: waves}
analyse: {tides: {}}
output: out
"""
NOTED = {
    "latentflow.analyses": {"tides": "latentflow-shore"},
    "latentflow.inversions": {"waves": "latentflow-shore"},
}
TOLD = "was made with ['tides', 'waves'] of package 'latentflow-shore', which is not installed"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    facts = {"plugins": NOTED, "spec": {"name": "shore", "analyse": {"tides": {}}}}
    (tmp_path / "out" / "run.json").write_text(json.dumps(facts))
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path / "spec.yaml"


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan"],
        ["report"],
        ["edit", "-d", "tides.0", "--rows", "0", "--out", "a.png"],
        ["export", "--as", "directions", "--out", "a.npz"],
        ["verify"],
    ],
)
def test_every_command_tells_the_package_that_is_gone(spec: Path, arguments: list[str]) -> None:
    command, *options = arguments
    found = CliRunner().invoke(app, [command, str(spec), *options])
    assert isinstance(found.exception, SpecError) and TOLD in str(found.exception)
    assert "unknown key 'analyse.tides'" in str(found.exception)


def test_a_comparison_tells_it_of_a_run_folder(spec: Path) -> None:
    with pytest.raises(InputError, match="made with.*'tides'.*install it again"):
        ComparedRun.open(spec.parent / "out")


@pytest.mark.parametrize("noted", [None, {}, 3, {"latentflow.analyses": 3}])
def test_a_mistake_in_the_specification_is_not_laid_to_a_package(spec: Path, noted: object) -> None:
    (spec.parent / "out" / "run.json").write_text(json.dumps({"plugins": noted}))
    with pytest.raises(SpecError, match="unknown key 'analyse.tides'") as told:
        load_run_spec(spec)
    assert "package" not in str(told.value)
    for text in ("name: [", "3", "name: shore", "name: shore\noutput: [1]"):
        spec.write_text(text)
        with pytest.raises(SpecError):
            load_run_spec(spec)


def test_a_run_notes_the_packages_of_its_plug_ins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = """
from schemas.sections.invert import InvertSpec

class PLUGIN:
    section = InvertSpec
"""
    (tmp_path / "site").mkdir()
    install(tmp_path / "site", monkeypatch, "latentflow.inversions", "waves", method)
    plain = parse_spec("name: a\ndataset: {path: .}\nanalyse: {pca: }", "/")
    assert plugins_of(plain, None) == plugins_of(plain, "stylegan2") == {}
    foreign = plain.model_copy(
        update={"invert": plain.invert.model_copy(update={"method": "waves"})}
    )
    expected = {"latentflow.inversions": {"waves": "waves_package"}}
    assert plugins_of(foreign, "stylegan2") == expected
    monkeypatch.undo()
    forget()
