"""Installs the package beside this file, as `pip install` does, and lets the catalogs see it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import shared
from plugin_packages import forget

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the installed package and its entry points."""
    return shared(tmp_path_factory, "installed", install)


def install(target: Path) -> None:
    source = target.with_suffix(".source")
    names = [p for p in HERE.rglob("*") if p.suffix in (".py", ".toml") and "test" not in p.stem]
    for path in names:  # pip builds inside the source's folder
        copy = source / path.relative_to(HERE)
        copy.parent.mkdir(exist_ok=True, parents=True)
        copy.write_bytes(path.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        + ["--no-build-isolation", "--target", str(target), str(source)],
        check=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )


@pytest.fixture(scope="module", autouse=True)
def known(installed: Path) -> Iterator[None]:
    """The catalogs have the plug-ins of the package while a module of this folder is tested."""
    sys.path.insert(0, str(installed))
    forget()
    yield
    sys.path.remove(str(installed))
    forget()
