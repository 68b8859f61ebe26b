"""A run's specification, and which packages its plug-ins came from.

``run.json`` notes the packages of the plug-ins that a run used, by the group of their entry points.
Once one of them is taken out of the environment, the specification names keys and methods that
nobody knows: whoever reads it is told what brought them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from generators.families.catalog import FAMILIES
from schemas.atomic import read_json
from schemas.catalog import Catalog
from schemas.errors import SpecError
from schemas.sections import catalog as analyses
from schemas.sections import invert as inversions
from schemas.spec import MAX_SPEC_BYTES, RunSpec, load_spec

NOTED = "plugins"
"""Key of ``run.json``: group -> plug-in -> package."""


def load_run_spec(path: str | os.PathLike[str]) -> RunSpec:
    """`schemas.spec.load_spec`; its SpecError also tells the packages that the run in the
    specification's folder was made with and that are not installed."""
    try:
        return load_spec(path)
    except SpecError as e:
        out = _output_of(Path(path))
        gone = removed({} if out is None else read_json(out / "run.json"))
        if not gone:
            raise
        raise SpecError(f"{e}\nthe run in {str(out)!r} {gone}") from e


def removed(facts: Mapping[str, Any]) -> str:
    """What a run was made with and is not installed, with the cure; empty where all is there.

    facts : of ``run.json``
    """
    noted = facts.get(NOTED)
    gone: dict[str, list[str]] = {}
    for group, plugins in noted.items() if isinstance(noted, Mapping) else ():
        there = _brought(group)
        for name, package in plugins.items() if isinstance(plugins, Mapping) else ():
            if name not in there:
                gone.setdefault(str(package), []).append(name)
    if not gone:
        return ""
    what = " and ".join(f"{names!r} of package {package!r}" for package, names in gone.items())
    return f"was made with {what}, which is not installed: install it again"


def plugins_of(spec: RunSpec, family: str | None) -> dict[str, dict[str, str]]:
    """What `removed` reads: the plug-ins of other packages that a run uses.

    family : of the generator, None where it is not known yet
    """
    used = {
        analyses.GROUP: [key for key, section in spec.analyse if section is not None],
        inversions.GROUP: [spec.invert.method],
        FAMILIES.group: [] if family is None else [family],
    }
    found = {}
    for group, names in used.items():
        brought = _brought(group)
        found[group] = {name: p for name in names if (p := brought.package_of(name)) is not None}
    return {group: plugins for group, plugins in found.items() if plugins}


def _brought(group: str) -> Catalog[Any]:
    """What other packages bring."""
    return Catalog("plug-in", None, group)


def _output_of(path: Path) -> Path | None:
    """The run folder of a specification that may be wrong otherwise."""
    try:
        with path.open("rb") as file:
            data = yaml.safe_load(file.read(MAX_SPEC_BYTES))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    output, name = (data.get(k) if isinstance(data, dict) else None for k in ("output", "name"))
    if isinstance(output, str):
        return path.absolute().parent / output
    return Path("runs", name) if isinstance(name, str) else None
