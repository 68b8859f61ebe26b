"""Catalogs: our own folder, other packages' entry points, and what is wrong with either."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import catalog
from schemas.catalog import Catalog
from schemas.errors import PluginError, UsageError


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog[str]]:
    """A folder with two plug-ins of ours, and three packages that bring one each."""
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "__init__.py").touch()
    (tmp_path / "shapes" / "base.py").touch()
    for name in ("cube", "ball"):
        (tmp_path / "shapes" / f"{name}.py").write_text(f"PLUGIN = {name!r}\n")
    _package(tmp_path, "cone", "shapes.test", "PLUGIN = 'cone'\n")
    _package(tmp_path, "torn", "shapes.test", "import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    _forget()
    yield Catalog("shape", "shapes", "shapes.test")
    _forget()
    ours = ("shapes", "disc_package")
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]


def _forget() -> None:
    importlib.invalidate_caches()
    catalog._entry_points.cache_clear()
    catalog._modules.cache_clear()


def _package(folder: Path, name: str, group: str, text: str, package: str = "") -> None:
    package = package or f"{name}_package"
    (folder / f"{package}.py").write_text(text)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {package}:PLUGIN\n")


def test_plugins_of_the_folder_and_of_packages_are_found_by_name(shapes: Catalog[str]) -> None:
    assert shapes.own() == ("ball", "cube")
    assert shapes.names() == ("ball", "cube", "cone", "torn")
    assert "shapes.cube" not in sys.modules, "a name is known before anything is imported"
    assert shapes.load("cube") == "cube"
    assert shapes.load("cone") == "cone"
    assert "cone" in shapes and "base" not in shapes


def test_a_plugin_that_cannot_be_imported_is_told_and_stops_no_other(shapes: Catalog[str]) -> None:
    assert list(shapes) == ["ball", "cube", "cone"]
    assert list(shapes.broken()) == ["torn"]
    with pytest.raises(PluginError, match=r"'torn' of package 'torn_package'.*nothing_of_that_nam"):
        shapes.load("torn")


@pytest.mark.parametrize("text", ["PLUGIN = 42\n", "PLUGIN = str\n"])
def test_what_is_no_plugin_of_the_kind_stops_no_other(
    shapes: Catalog[str], tmp_path: Path, text: str
) -> None:
    _package(tmp_path, "disc", "shapes.test", text)
    _package(tmp_path, "exit", "shapes.test", "raise SystemExit(3)\n")
    _forget()
    checked = dataclasses.replace(shapes, base=str)
    assert list(checked) == ["ball", "cube", "cone"]
    assert list(checked.broken()) == ["disc", "exit", "torn"]
    with pytest.raises(PluginError, match=r"'disc' of package 'disc_package' is .*'builtins.str'"):
        checked.load("disc")


def test_an_unknown_name_is_refused_with_the_one_like_it(shapes: Catalog[str]) -> None:
    with pytest.raises(UsageError, match="shape 'cubes' is not known: did you mean 'cube'"):
        shapes.load("cubes")


@pytest.mark.parametrize("name", ["cube", "cone"])
def test_two_plugins_of_one_name_are_refused(
    shapes: Catalog[str], tmp_path: Path, name: str
) -> None:
    _package(tmp_path, name, "shapes.test", "PLUGIN = 'other'\n", package=f"other_{name}")
    _forget()
    with pytest.raises(PluginError, match=f"'other_{name}'.*'{name}'|'{name}'.*'other_{name}'"):
        shapes.names()
