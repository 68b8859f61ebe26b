"""``run.json``: what a run did, for the report, for other commands and for people."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
from typing import TYPE_CHECKING

from pipelines.folder.checksums import noted
from pipelines.folder.specification import NOTED, plugins_of
from schemas.atomic import read_json, write_json

if TYPE_CHECKING:
    from pipelines.runs.run import Run

QUARANTINED = 3
OF_STORE = ("store", "directions", "generator_fp", "counts")
SHOWN_VERSIONS = (
    "apache-beam", "numpy", "onnxruntime", "pillow", "ray", "scipy", "torch", "zarr",
)  # fmt: skip


def write_record(state: Run, started: datetime.datetime, peak: int, code: int) -> None:
    """``run.json``: what ran, for the report and for people. Relative paths, no secrets.

    A run that ended before it came to its store leaves what is said of the one before: the store
    and the directions are still there.
    """
    finished = datetime.datetime.now(datetime.UTC)
    identity, before = state._identity, read_json(state.out / "run.json")
    held = {k: before[k] for k in OF_STORE if k in before}
    last = before.get("last_finished", {})  # what 'latentflow gc' keeps though a later run failed
    if identity is not None:
        paths = {
            "store": os.path.relpath(identity.path, state.out),
            "directions": os.path.relpath(state.directions_path, state.out),
        }
        counts = state.facts.get("counts", {})
        held = {**paths, "generator_fp": identity.facts.fingerprint, "counts": counts}
        last = paths if code in (0, QUARANTINED) else last
    facts = {
        "name": state.spec.name,
        "spec": state.spec.model_dump(mode="json"),
        "index": "index.parquet",
        "generator_fp": None,
        "counts": {},
        **held,
        "last_finished": last,
        "stages": state.stages,
        "versions": _versions(),
        NOTED: plugins_of(state.spec, None if identity is None else identity.facts.family),
        "peak_memory_mb": round(peak / 2**20, 1),
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "exit_code": code,
    }
    with noted(state.out, "run.json"):
        write_json(state.out / "run.json", facts)


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in SHOWN_VERSIONS}
