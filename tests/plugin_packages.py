"""Packages with plug-ins, made for one test."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from schemas import catalog


def forget() -> None:
    """Let the next look at a catalog find what is installed now."""
    importlib.invalidate_caches()
    catalog._entry_points.cache_clear()
    catalog._modules.cache_clear()


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, group: str, name: str, text: str
) -> None:
    """A package ``<name>_package`` whose ``PLUGIN`` is an entry point of the group, until the test
    ends. The monkeypatch must be undone before anything else looks at the catalog."""
    package = f"{name}_package"
    (folder / f"{package}.py").write_text(text)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {package}:PLUGIN\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, package, raising=False)
    forget()
