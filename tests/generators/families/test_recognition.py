"""Which family a file belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

import generators
import schemas.catalog
from generators.families import catalog
from generators.families.base import Checkpoint
from generators.model_file import read_checkpoint, write_checkpoint
from schemas.errors import CheckpointError, PluginError, UnsafeCheckpointError
from schemas.fingerprint import digest
from schemas.sections.generator_settings import NoSettings
from tests.stylegan2_layouts import tiny


class Claims:
    """A family that claims whatever it is shown."""

    name, settings = "other", NoSettings
    bundled = MappingProxyType({"others64": Path("others64.bin")})

    def __init__(self, claim: Any = None) -> None:
        self.claim = claim

    def recognise(self, contents: Any) -> Any:
        if isinstance(self.claim, Exception):
            raise self.claim
        return self.claim or Checkpoint({"family": "other"}, {"a": np.zeros(1, np.float32)})


class Two:
    """StyleGAN2 and another family, or what goes wrong when that is imported."""

    def __init__(self, other: Any) -> None:
        self.other = other

    def names(self) -> tuple[str, ...]:
        return ("stylegan2", "other")

    def __iter__(self) -> Iterator[Any]:
        return iter([self.load(name) for name in self.names()])

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def load(self, name: str) -> Any:
        if name == "stylegan2":
            from generators.families.stylegan2 import PLUGIN

            return PLUGIN
        if isinstance(self.other, Exception):
            raise self.other
        return self.other


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(tiny().network.state_dict(), tmp_path / "g.pt")
    return tmp_path / "g.pt"


def test_two_claims_are_refused_unless_the_family_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "FAMILIES", Two(Claims()))
    with pytest.raises(CheckpointError, match="'stylegan2', 'other'.*family: "):
        read_checkpoint(file)
    assert read_checkpoint(file, family="stylegan2").family == "stylegan2"
    assert read_checkpoint(file, family="other").family == "other"


def test_a_family_that_is_broken_or_refuses_stops_no_other(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "none.pt")
    broken = PluginError("generator family 'other' of package 'p' cannot be imported")
    for other in (broken, Claims(CheckpointError("no other either"))):
        monkeypatch.setattr(catalog, "FAMILIES", Two(other))
        assert read_checkpoint(file).family == "stylegan2"
        with pytest.raises(CheckpointError, match="no other either|holds no generator") as caught:
            read_checkpoint(tmp_path / "none.pt")
        assert ("package 'p' cannot be imported" in str(caught.value)) == (other is broken)
    for other, told in ((Claims(KeyError("odd")), "KeyError: 'odd'"), (Claims("yes"), "'yes'")):
        monkeypatch.setattr(catalog, "FAMILIES", Two(other))
        assert read_checkpoint(file).family == "stylegan2"
        with pytest.raises(CheckpointError, match=f"generator family 'other' .*{told}"):
            read_checkpoint(tmp_path / "none.pt", family="other")
    monkeypatch.setattr(catalog, "FAMILIES", Two(Claims(UnsafeCheckpointError("runs code"))))
    with pytest.raises(UnsafeCheckpointError):
        read_checkpoint(file)


def test_a_family_brings_models_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "FAMILIES", Two(Claims()))
    assert generators.resolve("bundled:others64") == Path("others64.bin")
    with pytest.raises(CheckpointError, match="bundled:faces64.*bundled:others64"):
        generators.resolve("bundled:nowhere")


class Clumsy(Claims):
    """A family that gives whatever it is told to."""

    gives: Any = None

    def checked(self, checkpoint: Checkpoint) -> Checkpoint:
        return checkpoint

    def facts(self, checkpoint: Checkpoint) -> Any:
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives

    build = facts


CLUMSY = Clumsy()


def test_a_mistake_of_another_packages_family_is_told_as_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g.safetensors"
    write_checkpoint(Checkpoint({"family": "other"}, {"a": np.zeros(1, np.float32)}), path)
    point = EntryPoint("other", f"{__name__}:CLUMSY", catalog.FAMILIES.group)
    monkeypatch.setattr(schemas.catalog, "_entry_points", lambda group: {"other": point})
    found = generators.facts(tiny_file(tmp_path))
    lost = replace(found, default_space="nowhere")
    for gives, told in (
        (IndexError("no such layer"), "'facts' .IndexError: no such layer.: repair or remove"),
        (None, "gives 'NoneType' with default space None in 'facts', expected 'ModelFacts'"),
        (lost, "gives 'ModelFacts' with default space 'nowhere'"),
    ):
        monkeypatch.setattr(Clumsy, "gives", gives)
        with pytest.raises(PluginError, match=f"generator family 'other'.*{told}"):
            generators.facts(path)
    monkeypatch.setattr(Clumsy, "gives", IndexError("no such layer"))
    with pytest.raises(PluginError, match=f"package '{__name__}:CLUMSY' failed in 'build'"):
        generators.load(path)
    monkeypatch.setattr(Clumsy, "gives", found)
    assert generators.facts(path) is found


def test_another_version_of_a_family_is_another_generator(tmp_path: Path) -> None:
    path = tiny_file(tmp_path)
    found = generators.facts(path)
    assert found.fingerprint == found.network_fp == generators.fingerprint(path)
    sampled = replace(found, sampler_fp="ab")
    assert sampled.fingerprint == digest({"network": found.network_fp, "sampler": "ab"})
    apart = {replace(facts, version=n).fingerprint for facts in (found, sampled) for n in (1, 2, 3)}
    assert len(apart) == 6


def tiny_file(folder: Path) -> Path:
    generators.save_safetensors(tiny(), folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"family": "plian"}, "'g.json' beside it says 'family': 'plian'.*did you mean 'plain'"),
        ({"family": 3}, "'family': 3, which is none"),
        ({"famly": "plain"}, "'g.json' beside it has a key 'famly'.*'family'"),
        ({"Family": "plain"}, "has a key 'Family'"),
    ],
)
def test_a_declaration_that_is_misspelt_is_told(file: Path, said: Any, told: str) -> None:
    file.with_suffix(".json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=told):
        read_checkpoint(file)
    for other in ({}, {"epochs": 3, "fam": 1}, [1], {"format": "mine", "family": "smith"}):
        file.with_suffix(".json").write_text(json.dumps(other))
        assert read_checkpoint(file).family == "stylegan2"


def test_a_family_that_is_not_installed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    write_checkpoint(Checkpoint({"family": "absent"}, {"a": np.zeros(1, np.float32)}), path)
    with pytest.raises(CheckpointError, match="family 'absent'.*install"):
        generators.facts(path)
