"""A whole run: index, invert, annotate, analyse, evaluate, report; only what is missing or stale.

Every stage decides by fingerprints whether it has anything to do, so a run that was interrupted,
or killed, is finished by running it again. ``run.json`` tells what the last run did.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from pipelines.index import build_index
from pipelines.invert import identify
from pipelines.memory import PeakMemory
from pipelines.progress import stage_progress
from pipelines.sources import Source, open_source
from schemas.atomic import write_json
from schemas.directions import DirectionSet
from schemas.errors import QuarantineExceededError, UsageError
from schemas.fingerprint import ContentHashCache, digest
from schemas.index import DatasetIndex
from schemas.lock import StoreLock
from schemas.reasons import Status
from schemas.spec import RunSpec
from schemas.store import LatentStore

if TYPE_CHECKING:
    from pipelines.ray_engine import RayEngine

STAGES = ("index", "invert", "annotate", "analyse", "evaluate", "report")
EVALUATE_VERSION = 1
REPORT_VERSION = 1
QUARANTINED = 3
SHOWN_VERSIONS = (
    "apache-beam", "numpy", "onnxruntime", "pillow", "ray", "scipy", "torch", "zarr",
)  # fmt: skip


@dataclass(frozen=True)
class RunResult:
    """exit_code : 0, or 3 when rows are quarantined. path : of the run's folder."""

    exit_code: int
    path: Path


@dataclass(eq=False)
class Run:
    """The state of a run while its stages follow one another.

    out : the run's folder; stages : what has been done so far, for run.json
    only, blocks : as in `run`
    """

    spec: RunSpec
    trust: bool
    address: str | None
    console: Console
    out: Path
    only: Container[str] | None = None
    blocks: Container[int] | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    index: DatasetIndex | None = None
    source: Source | None = None
    store_path: str | None = None
    generator_fp: str | None = None
    lock: StoreLock | None = None
    _ray: RayEngine | None = None

    @property
    def ray(self) -> RayEngine:
        """The Ray engine; Ray itself starts with the first block that needs work."""
        if self._ray is None:
            from pipelines.ray_engine import RayEngine

            wanted = self.spec.ray
            self._ray = RayEngine(
                self.address or wanted.address,
                actors=max(wanted.actors, self.spec.invert_actors),
                gpus_per_actor=wanted.gpus_per_actor,
                object_store_mb=wanted.object_store_mb,
            )
        return self._ray

    def stop_ray(self) -> None:
        """Give Ray's memory back before Beam starts."""
        if self._ray is not None:
            self._ray.stop()

    @property
    def store(self) -> LatentStore:
        """The latent store, freshly opened."""
        return LatentStore.open(self.store_path or "")

    def wants(self, stage: str, name: str) -> bool:
        """Whether an annotator or analysis is among those to bring up to date."""
        return self.only is None or f"{stage}/{name}" in self.only

    @property
    def directions_path(self) -> Path:
        """The direction set that belongs to the store."""
        return self.out / "directions" / Path(self.store_path or "").name


def run(
    spec: RunSpec,
    *,
    until: str = "report",
    trust: bool = False,
    wait_s: float = 0.0,
    address: str | None = None,
    console: Console | None = None,
    only: Container[str] | None = None,
    blocks: Container[int] | None = None,
) -> RunResult:
    """Bring everything up to the stage `until` up to date.

    trust : TorchScript annotators may be loaded. wait_s : how long to wait for another run's lock.
    address : Ray cluster instead of the specification's.
    only : annotators and analyses to bring up to date ("annotate/pose", "analyse/pca"), by default
        all. blocks : row blocks to invert and annotate, by default all; goes with `until`
        "invert" or "annotate", as later stages need every block.

    Raises QuarantineExceededError (exit code 4) when more rows are quarantined than the
    specification allows; analyses are then not run. Other errors end the run as they are.
    """
    if blocks is not None and until not in ("invert", "annotate"):
        raise UsageError(
            f"'blocks' are given for a run until {until!r}, which needs every block: run until "
            "'invert' or 'annotate', or leave 'blocks' out"
        )
    console = console or Console(stderr=True)
    out = Path(spec.output_path)
    out.mkdir(parents=True, exist_ok=True)
    state = Run(spec, trust, address, console, out, only, blocks)
    started = datetime.datetime.now(datetime.UTC)
    with StoreLock(out / "run.lock").acquire(wait_s), PeakMemory() as memory:
        try:
            for name in STAGES[: STAGES.index(until) + 1]:
                if name == "analyse":
                    state.stop_ray()
                if name == "report":  # the report reads it
                    _write_run(state, started, memory.peak, _code(state))
                _timed(state, name, _STAGE_FUNCTIONS[name])
            _write_run(state, started, memory.peak, _code(state))
        except BaseException as e:
            failed = getattr(e, "exit_code", 130 if isinstance(e, KeyboardInterrupt) else 1)
            _write_run(state, started, memory.peak, failed)
            raise
        finally:
            state.stop_ray()
            if state.lock is not None:
                state.lock.release()
    return RunResult(_code(state), out)


def _code(state: Run) -> int:
    return QUARANTINED if state.facts.get("counts", {}).get("quarantined") else 0


def _timed(state: Run, name: str, stage: Callable[[Run, Any], dict[str, Any]]) -> None:
    started = time.monotonic()
    with stage_progress(state.console, name) as progress:
        record = stage(state, progress)
    seconds = time.monotonic() - started
    state.stages.append({"name": name, "seconds": round(seconds, 3), **record})
    what = "up to date" if record["skipped"] else f"{record['rows']} rows"
    state.console.print(f"{name}: {what}, {seconds:.1f} s", markup=False, highlight=False)


# ---------------------------------------------------------------------------------------------
# Stages: each returns {"rows", "skipped", "detail"}


def _index(state: Run, progress: Any) -> dict[str, Any]:
    spec = state.spec
    path = state.out / "index.parquet"
    with ContentHashCache(state.out / "hashes.sqlite") as cache:
        index, report = build_index(
            spec.dataset, path, max_pixels=spec.invert.max_pixels, cache=cache, progress=progress
        )
    write_json(state.out / "index_report.json", report.to_dict(limit=1000))
    state.index, state.source = index, open_source(spec.dataset)
    found = report.to_dict(limit=0)
    join = report.factors
    if join is not None and (join.unmatched_rows or join.unmatched_table):
        state.console.print(
            f"factor table: {len(join.unmatched_table)} of its rows match no image and "
            f"{len(join.unmatched_rows)} images have no row, see index_report.json",
            markup=False,
        )
    changed = report.added or report.removed or report.moved
    return {"rows": index.n_rows, "skipped": not changed, "detail": found}


def _invert(state: Run, progress: Any) -> dict[str, Any]:
    from pipelines.invert import invert

    spec, index = state.spec, state.index
    identity = identify(
        state.out / "stores",
        spec.invert,
        name=spec.name,
        seed=spec.seed,
        generator_uri=spec.generator,
        encoder_uri=spec.encoder,
    )
    state.store_path, state.generator_fp = identity.path, identity.facts.fingerprint
    Path(identity.path).parent.mkdir(parents=True, exist_ok=True)
    state.lock = StoreLock(identity.path + ".lock").acquire()
    result = invert(
        index,
        state.source,
        state.out / "stores",
        spec.invert,
        name=spec.name,
        seed=spec.seed,
        generator_uri=spec.generator,
        encoder_uri=spec.encoder,
        engine=state.ray,
        progress=progress,
        lock=state.lock,
        blocks=state.blocks,
    )
    state.facts["counts"] = result.counts
    detail = {
        "blocks_done": result.blocks_done,
        "blocks_skipped": result.blocks_skipped,
        "batches_halved_for_memory": result.shrunk,
        "counts": result.counts,
    }
    return {"rows": index.n_rows, "skipped": result.blocks_done == 0, "detail": detail}


def _annotate(state: Run, progress: Any) -> dict[str, Any]:
    models = [model for model in state.spec.annotate if state.wants("annotate", model.name)]
    if not models:
        return {"rows": 0, "skipped": True, "detail": {}}
    from pipelines.annotate import annotate, export_annotations

    result = annotate(
        state.index,
        state.source,
        state.store_path,
        models,
        generator_uri=state.spec.generator,
        engine=state.ray,
        max_pixels=state.spec.invert.max_pixels,
        threads=state.spec.invert.threads,
        trust=state.trust,
        progress=progress,
        lock=state.lock,
        blocks=state.blocks,
    )
    table = state.out / "annotations.parquet"
    if result.blocks_done or not table.exists():
        export_annotations(state.store, state.index, table)
    detail = {
        "blocks_done": result.blocks_done,
        "blocks_skipped": result.blocks_skipped,
        "counts": result.counts,
    }
    return {"rows": state.index.n_rows, "skipped": result.blocks_done == 0, "detail": detail}


def _check_quarantine(state: Run) -> None:
    status = state.store.status("invert")
    bad = int((status == Status.QUARANTINED).sum())
    rows = int((status != Status.REMOVED).sum())
    share = bad / max(rows, 1)
    if share > state.spec.max_quarantined:
        raise QuarantineExceededError(
            f"{bad!r} of {rows!r} rows are quarantined ({share:.1%}), more than "
            f"'max_quarantined' {state.spec.max_quarantined!r} allows: analyses are not run; see "
            "the reasons in run.json, repair the files, or raise the limit"
        )


def _analyse(state: Run, progress: Any) -> dict[str, Any]:
    from pipelines.analyse import analyse, requested, stale

    _check_quarantine(state)
    spec, store, index = state.spec, state.store, state.index
    chosen = [name for name in requested(spec) if state.wants("analyse", name)]
    todo = set(stale(spec, store, index, state.directions_path)) & set(chosen)
    engine: Any = None
    if todo:
        from pipelines.engines import analysis_engine

        engine = analysis_engine(spec, store)
    report = analyse(
        spec, store, index, state.generator_fp, state.directions_path, engine, progress, chosen
    )
    detail = {
        name: {k: facts[k] for k in ("seconds", "skipped", "left_out") if k in facts}
        for name, facts in report.items()
    }
    return {"rows": index.n_rows if chosen else 0, "skipped": not todo, "detail": detail}


def evaluation_fp(
    spec: RunSpec, store: LatentStore, index: DatasetIndex, directions: DirectionSet
) -> str:
    """What the evaluation is computed from."""
    return digest(
        {
            "version": EVALUATE_VERSION,
            "evaluate": spec.evaluate.model_dump(mode="json"),
            "report": spec.report.model_dump(mode="json"),
            "seed": spec.evaluate_seed,
            "annotate": [a.model_dump(mode="json") for a in spec.annotate],
            "directions": [[d.name, d.sd, d.vector.tobytes()] for d in directions],
            "commits": {s: store.committed(s).tobytes() for s in store.stages()},
            "factors": {n: index.factor_fp(n) for n in index.factors},
        }
    )


def report_fp(spec: RunSpec, store: LatentStore, index: DatasetIndex, evaluation: str) -> str:
    """What the report shows, but for times. evaluation : its fingerprint, "" without one."""
    commits = {stage: store.committed(stage).tobytes() for stage in store.stages()}
    own = spec.report.model_dump(mode="json")
    return digest(["report", REPORT_VERSION, own, index_fp(index), commits, evaluation])


def index_fp(index: DatasetIndex) -> str:
    """Which images the index has, in which order and state, and their factors."""
    factors = {name: index.factor_fp(name) for name in index.factors}
    return digest(["index", index.identity(), factors])


def _evaluate(state: Run, progress: Any) -> dict[str, Any]:
    if not state.directions_path.exists():
        return {"rows": 0, "skipped": True, "detail": {}}
    directions = DirectionSet.load(state.directions_path)
    spec, store = state.spec, state.store
    fingerprint = evaluation_fp(spec, store, state.index, directions)
    path = state.out / "evaluation.json"
    if path.exists() and (state.out / "evaluation.npz").exists():
        if json.loads(path.read_text()).get("fingerprint") == fingerprint:
            return {"rows": 0, "skipped": True, "detail": {}}
    from pipelines.evaluation import Subject, evaluate

    subject = Subject(spec, store, state.index, state.source)
    found, pictures = evaluate(subject, directions, state.trust, progress)
    part = state.out / "evaluation.partial.npz"
    np.savez(part, allow_pickle=False, **pictures)
    part.replace(state.out / "evaluation.npz")
    write_json(path, {**found, "fingerprint": fingerprint})
    return {
        "rows": found["samples"],
        "skipped": False,
        "detail": {"directions": len(found["directions"])},
    }


def _report(state: Run, progress: Any) -> dict[str, Any]:
    evaluation = state.out / "evaluation.json"
    evaluated = json.loads(evaluation.read_text())["fingerprint"] if evaluation.exists() else ""
    key = report_fp(state.spec, state.store, state.index, evaluated)
    marker = state.out / "report.json"
    fresh = all(s["skipped"] for s in state.stages) and (state.out / "report.html").exists()
    if fresh and marker.exists() and json.loads(marker.read_text()).get("inputs") == key:
        return {"rows": 0, "skipped": True, "detail": {}}
    from pipelines.report import write_report

    path = write_report(state.out)
    write_json(marker, {"inputs": key})
    return {"rows": 0, "skipped": False, "detail": {"bytes": path.stat().st_size}}


_STAGE_FUNCTIONS: dict[str, Callable[[Run, Any], dict[str, Any]]] = {
    "index": _index,
    "invert": _invert,
    "annotate": _annotate,
    "analyse": _analyse,
    "evaluate": _evaluate,
    "report": _report,
}


def _write_run(state: Run, started: datetime.datetime, peak: int, code: int) -> None:
    """``run.json``: what ran, for the report and for people. Relative paths, no secrets."""
    finished = datetime.datetime.now(datetime.UTC)
    relative = {}
    if state.store_path is not None:
        relative["store"] = os.path.relpath(state.store_path, state.out)
        relative["directions"] = os.path.relpath(state.directions_path, state.out)
    write_json(
        state.out / "run.json",
        {
            "name": state.spec.name,
            "spec": state.spec.model_dump(mode="json"),
            "index": "index.parquet",
            **relative,
            "generator_fp": state.generator_fp,
            "stages": state.stages,
            "counts": state.facts.get("counts", {}),
            "versions": {name: importlib.metadata.version(name) for name in SHOWN_VERSIONS},
            "peak_memory_mb": round(peak / 2**20, 1),
            "started": started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
            "exit_code": code,
        },
    )
