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
from schemas.fingerprint import digest
from schemas.spec import AnnotateSpec, EvaluateSpec

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


def is_finished(out: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether the evaluation in the folder is that of these inputs (`inputs_in_effect`)."""
    fingerprint = finished_fingerprint(out)
    if fingerprint is None or fingerprint == digest(inputs):
        return fingerprint is not None
    return inputs_in_effect(read_json(out / FOUND).get("inputs")) == inputs


def inputs_in_effect(inputs: Any) -> dict[str, Any]:
    """Inputs of an evaluation with all that changes no number and no picture at its default: what
    only the page shows, what only other stages use, and the order of the strengths.

    inputs : as `write_evaluation` notes them, by any release
    """
    found = dict(inputs) if isinstance(inputs, Mapping) else {}
    try:
        evaluate = dict(found["evaluate"])
        evaluate["strengths"] = sorted(set(map(float, evaluate["strengths"])))
        unused = ["holdout"] if evaluate["source"] == "prior" else ["truncation_psi"]
        default = EvaluateSpec().model_dump(mode="json")
        found["evaluate"] = evaluate | {key: default[key] for key in (*unused, "seed")}
        found["report"] = {**found["report"], "title": None}
        size = AnnotateSpec.model_fields["batch_size"].default
        found["annotate"] = [{**model, "batch_size": size} for model in found["annotate"]]
    except (KeyError, TypeError, ValueError):  # of a release that noted others
        return dict(inputs) if isinstance(inputs, Mapping) else {}
    return found


def pictures_of(samples: int, strengths: Sequence[float], directions: int) -> int:
    """Pictures that evaluating so many directions draws: every sample at every strength of each,
    and once as it is."""
    moved = len(set(strengths) - {0.0})
    return samples * (1 + directions * moved) if directions else 0


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
    was = inputs_in_effect(found.get("inputs"))
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
