"""The files of an evaluation.

``evaluation.json`` holds what was found, ``evaluation.npz`` the pictures. While directions are
measured, what is done lies in the folder ``evaluation.partial``, so that a run that is interrupted
or killed need not measure it again; see `pipelines.evaluation.actors_meter`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.folder.checksums import intact, noted
from schemas.atomic import read_json, replacing, write_json

FOUND, PICTURES, SO_FAR = "evaluation.json", "evaluation.npz", "evaluation.partial"


def finished_fingerprint(out: Path) -> str | None:
    """The fingerprint of the finished evaluation.

    None without one, where text or pictures are not what was written, and where they are of two: a
    run may be killed between them.
    """
    if not (intact(out, FOUND) and intact(out, PICTURES)):
        return None
    fingerprint = read_json(out / FOUND).get("fingerprint")
    drawn = _arrays(out / PICTURES, ["fingerprint"]).get("fingerprint")
    return str(fingerprint) if drawn is not None and str(drawn) == fingerprint else None


def write_evaluation(
    out: Path,
    found: Mapping[str, Any],
    pictures: Mapping[str, np.ndarray],
    inputs: Mapping[str, Any],
    fingerprint: str,
) -> None:
    """Write a finished evaluation, pictures first."""
    with noted(out, FOUND, PICTURES):
        with replacing(out / PICTURES) as file:
            np.savez(file, allow_pickle=False, fingerprint=np.array(fingerprint), **pictures)
        write_json(out / FOUND, {**found, "fingerprint": fingerprint, "inputs": inputs})


def known_effects(out: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Effect and pictures of every direction that was measured before in the very same way.

    inputs : of the evaluation to be made, see `pipelines.runs.lineage.evaluation_inputs`.
    """
    if finished_fingerprint(out) is None:
        return {}
    found = read_json(out / FOUND)
    fitted: dict[str, Any] = {"directions": {}, "models": {}}
    was = found.get("inputs", {})
    if {**was, **fitted} != {**inputs, **fitted}:
        return {}
    pictures = _arrays(out / PICTURES)
    return {
        effect["name"]: (effect, pictures[f"strips/{effect['name']}"])
        for effect in found["directions"]
        if was["directions"].get(effect["name"]) == inputs["directions"].get(effect["name"])
        and f"strips/{effect['name']}" in pictures
    }


def _arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an npz file, all by default; none of them where one cannot be read."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in names or found.files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return {}
