"""The files of an evaluation: a finished one, and what was measured so far of one that is not.

``evaluation.json`` holds what was found, ``evaluation.npz`` the pictures. While directions are
measured, those that are done lie in ``evaluation.partial.npz``, so that a run that is interrupted
or killed need not measure them again.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.folder.checksums import intact, noted
from schemas.atomic import read_json, replacing, write_json
from schemas.fingerprint import pretty_json

if TYPE_CHECKING:
    from pipelines.evaluation.meter import Effects

FOUND, PICTURES, SO_FAR = "evaluation.json", "evaluation.npz", "evaluation.partial.npz"
KEEP_EVERY_S = 10.0


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
    """Write a finished evaluation, pictures first, and take away what was kept on the way."""
    with noted(out, FOUND, PICTURES):
        with replacing(out / PICTURES) as file:
            np.savez(file, allow_pickle=False, fingerprint=np.array(fingerprint), **pictures)
        write_json(out / FOUND, {**found, "fingerprint": fingerprint, "inputs": inputs})
    (out / SO_FAR).unlink(missing_ok=True)


def known_effects(out: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Effect and pictures of every direction that was measured before in the very same way.

    inputs : of the evaluation to be made, see `pipelines.runs.lineage.evaluation_inputs`.
    """
    known: dict[str, Any] = {}
    fitted: dict[str, Any] = {"directions": {}, "models": {}}
    for found, pictures in (_finished(out), _so_far(out)):
        was = found.get("inputs", {})
        if {**was, **fitted} != {**inputs, **fitted}:
            continue
        known |= {
            effect["name"]: (effect, pictures[f"strips/{effect['name']}"])
            for effect in found["directions"]
            if was["directions"].get(effect["name"]) == inputs["directions"].get(effect["name"])
            and f"strips/{effect['name']}" in pictures
        }
    return known


class KeptSoFar:
    """Keeps what was measured so far, every `KEEP_EVERY_S` seconds, for `known_effects`."""

    def __init__(self, out: Path, inputs: Mapping[str, Any]) -> None:
        self._out, self._inputs = out, inputs
        self._last = time.monotonic()

    def __call__(self, effects: Effects) -> None:
        """Effects of the directions that are done."""
        if time.monotonic() - self._last < KEEP_EVERY_S:
            return
        facts = {"inputs": self._inputs, "directions": [effect for effect, _ in effects.values()]}
        strips = {f"strips/{name}": pictures for name, (_, pictures) in effects.items()}
        with replacing(self._out / SO_FAR) as file:
            np.savez(
                file,
                allow_pickle=False,
                facts=np.frombuffer(pretty_json(facts), np.uint8),
                **strips,
            )
        self._last = time.monotonic()


def _finished(out: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if finished_fingerprint(out) is None:
        return {}, {}
    return read_json(out / FOUND), _arrays(out / PICTURES)


def _so_far(out: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    pictures = _arrays(out / SO_FAR)
    return json.loads(pictures["facts"].tobytes()) if pictures else {}, pictures


def _arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an npz file, all by default; none of them where one cannot be read."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in names or found.files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return {}
