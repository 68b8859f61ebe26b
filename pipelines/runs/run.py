"""A whole run: index, invert, annotate, analyse, evaluate, report; only what is missing or stale.

Every stage decides by fingerprints whether it has anything to do, so a run that was interrupted,
or killed, is finished by running it again. ``run.json`` tells what the last run did.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipelines.analyses.catalog import requested
from pipelines.engine.blocks import BlockEngine, InProcess, Prepared
from pipelines.engine.interruption import CheckedEngine, Interruption
from pipelines.engine.memory import PeakMemory
from pipelines.engine.progress import stage_progress
from pipelines.evaluation.files import is_finished, known_effects, pictures_of, write_evaluation
from pipelines.folder.checksums import intact, noted, write_noted
from pipelines.folder.store_identity import StoreIdentity, identify_run, labels_of
from pipelines.report.left_out import failure_lines, quarantine_lines, without_direction_lines
from pipelines.runs.check import check_classes, check_quarantine, check_run, held_spaces
from pipelines.runs.lineage import (
    compare_analyses,
    evaluation_inputs,
    note_lineage,
    read_lineage,
    report_inputs,
    rows_fp,
    table_fp,
    unchanged,
)
from pipelines.runs.run_record import QUARANTINED, write_record
from pipelines.sources.base import Source
from pipelines.sources.open import run_source
from pipelines.stages.annotator_trial import try_annotators
from pipelines.stages.index import build_index
from pipelines.stages.index_report import LISTED
from schemas.atomic import read_json
from schemas.directions.direction_set import DirectionSet
from schemas.errors import LockedError, RunInterruptedError, UsageError
from schemas.fingerprint import ContentHashCache, digest
from schemas.index import DatasetIndex
from schemas.spec import RunSpec
from schemas.store.latent_store import LatentStore
from schemas.store.lock import StoreLock, run_lock

if TYPE_CHECKING:
    from pipelines.engine.ray import RayEngine

STAGES = ("index", "invert", "annotate", "analyse", "evaluate", "report")
#: Stages that finish the blocks in hand before they stop.
DRAINED = ("invert", "annotate", "evaluate")
STATISTICS = "statistics"
SHOWN_FACTS = (
    "seconds", "skipped", "left_out", "blocks_read", "blocks_saved", "passes", "passes_saved",
    "limited", "without_direction",
)  # fmt: skip


@dataclass(frozen=True)
class RunResult:
    """exit_code : 0, or 3 when rows are quarantined (not inverted, or not measured by an annotator)
    or a shard is damaged. path : run folder."""

    exit_code: int
    path: Path


@dataclass(eq=False)
class Run:
    """The state of a run while its stages follow one another.

    out : the run's folder; stages : what has been done so far, for run.json
    record : writes run.json as it is now; until, only, blocks : as in `run`
    """

    spec: RunSpec
    trust: bool
    address: str | None
    console: Console
    out: Path
    only: Container[str] | None = None
    blocks: Container[int] | None = None
    until: str = "report"
    stages: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    run_lock: StoreLock | None = None
    lock: StoreLock | None = None
    stop: Interruption = field(default_factory=Interruption)
    record: Callable[[], None] = lambda: None
    directions: DirectionSet | None = None
    _index: DatasetIndex | None = None
    _identity: StoreIdentity | None = None
    _store: LatentStore | None = None
    _ray: RayEngine | None = None

    @cached_property
    def source(self) -> Source:
        """Of the images."""
        return run_source(self.spec)

    @property
    def index(self) -> DatasetIndex:
        """What the stage "index" has found. Raises RuntimeError before it has run."""
        if self._index is None:
            raise RuntimeError("the run has no index yet: run the stage 'index' first")
        return self._index

    @property
    def identity(self) -> StoreIdentity:
        """Of the store that the stage "invert" writes. Raises RuntimeError before it is known."""
        if self._identity is None:
            raise RuntimeError("the run has no store yet: run the stage 'index' first")
        return self._identity

    @property
    def ray(self) -> RayEngine:
        """The Ray engine; Ray itself starts with the first block that needs work."""
        if self._ray is None:
            from pipelines.engine.ray import RayEngine

            self._ray = RayEngine.of(self.spec, self.address)
        return self._ray

    @cached_property
    def engine(self) -> BlockEngine:
        """The Ray engine, which tries the annotators that are run before its first block."""
        last = STAGES.index(self.until) >= STAGES.index("annotate")
        models = [m for m in self.spec.annotate if last and self.wants("annotate", m.name)]
        given = (models, self.index, self.source, self.spec, self.trust, self.console)
        return Prepared(self.ray, partial(try_annotators, *given))

    def stop_ray(self) -> None:
        """Give Ray's memory back before Beam starts."""
        if self._ray is not None:
            self._ray.stop()

    def check(self) -> None:
        """Raise when the run may not go on: its locks are another's, or it was asked to stop."""
        self.check_locks()
        self.stop.check()

    def check_locks(self) -> None:
        """Raise LockedError when another run has taken this one's locks over."""
        for lock in (self.run_lock, self.lock):
            if lock is not None:
                lock.check()

    @property
    def store(self) -> LatentStore:
        """The latent store as the last stage that wrote it left it."""
        if self._store is None:
            self._store = LatentStore.open(self.identity.path)
        return self._store

    def say(self, line: str) -> None:
        """One line for the user."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def written(self) -> None:
        """The store has changed."""
        self._store = None

    def wants(self, stage: str, name: str) -> bool:
        """Whether an annotator or analysis is among those to bring up to date."""
        return self.only is None or f"{stage}/{name}" in self.only

    @property
    def directions_path(self) -> Path:
        """The direction set that belongs to the store."""
        return self.out / "directions" / Path(self.identity.path).name


def run(
    spec: RunSpec,
    *,
    until: str = "report",
    trust: bool = False,
    wait_s: float = 0.0,
    address: str | None = None,
    console: Console | None = None,
    stop: Interruption | None = None,
    only: Container[str] | None = None,
    blocks: Container[int] | None = None,
) -> RunResult:
    """Bring everything up to the stage `until` up to date.

    trust : TorchScript models may be loaded. wait_s : how long to wait for another run's lock.
    address : Ray cluster instead of the specification's. stop : ends the run early, cleanly.
    only : annotators and analyses to bring up to date ("annotate/pose", "analyse/pca"), by default
        all. blocks : row blocks to invert and annotate, by default all; goes with `until`
        "invert" or "annotate", as later stages need every block.

    Raises QuarantineExceededError (exit code 4) when more rows are quarantined than the
    specification allows; analyses are then not run. RunInterruptedError (130) when it was asked to
    stop, LockedError (75) when another run holds the folder or took it over. Other errors end the
    run as they are.
    """
    if blocks is not None and until not in ("invert", "annotate"):
        raise UsageError(
            f"'blocks' are given for a run until {until!r}, which needs every block: run until "
            "'invert' or 'annotate', or leave 'blocks' out"
        )
    console = console or Console(stderr=True)
    spec = spec.trusting(trust)
    out = Path(spec.output_path)
    out.mkdir(parents=True, exist_ok=True)
    state = Run(spec, trust, address, console, out, only, blocks, until)
    state.stop = stop or state.stop
    started = datetime.datetime.now(datetime.UTC)
    told: list[str] = []

    def waiting(holder: str) -> None:
        state.stop.check()
        if not told:
            told.append(holder)
            console.print(f"waiting: {holder}", markup=False, soft_wrap=True)

    with run_lock(out).acquire(wait_s, waiting) as state.run_lock, PeakMemory() as memory:
        state.record = lambda: write_record(state, started, memory.peak, _code(state))
        try:
            identity = None if until == "index" else _identified(state)
            for name in STAGES[: STAGES.index(until) + 1]:
                if name == "analyse":
                    state.stop_ray()
                _timed(state, name, _STAGE_FUNCTIONS[name])
                if name == "index" and identity is not None:
                    _check_specification(state, identity)
            state.check_locks()  # suspended meanwhile, it may find everything done by another run
            state.record()
        except BaseException as e:
            failed = getattr(e, "exit_code", 130 if isinstance(e, KeyboardInterrupt) else 1)
            asked = state.stop.requested and failed == 1
            if isinstance(e, OSError) and e.errno and not e.filename:
                e.filename = str(out)
            with contextlib.suppress(OSError):  # on a full disk the first error is the one to tell
                if state.run_lock.owned():
                    write_record(state, started, memory.peak, 130 if asked else failed)
            if asked:  # a terminal's Ctrl-C reaches Beam's and Ray's processes as well
                raise RunInterruptedError(
                    f"the run was asked to stop, and what was in hand ended with {e!r}: run the "
                    "same command again to go on"
                ) from e
            if isinstance(e, Exception):  # files may have gone because another run took over
                try:
                    state.check_locks()
                except LockedError as taken:
                    raise taken from e
            raise
        finally:
            state.stop_ray()
            if state.lock is not None:
                state.lock.release()
    return RunResult(_code(state), out)


def _code(state: Run) -> int:
    """Rows count that could not be inverted, those that an annotator could not measure, and damaged
    shards, whose rows nobody knows."""
    stages = [state.facts.get("counts", {}), *state.facts.get("measured", {}).values()]
    quarantined = any(counts.get("quarantined") for counts in stages)
    return QUARANTINED if quarantined or state.facts.get("damaged") else 0


def _timed(state: Run, name: str, stage: Callable[[Run, Any], dict[str, Any]]) -> None:
    started = time.monotonic()
    state.check()
    with stage_progress(state.console, name) as show:

        def progress(done: int, total: int) -> None:
            show(done, total)
            if name not in DRAINED:
                state.check()

        record = stage(state, progress)
    told = record.pop("told", [])
    seconds = time.monotonic() - started
    state.stages.append({"name": name, "seconds": round(seconds, 3), **record})
    done = f"{record['rows']} rows" if record["rows"] else "done"
    what = "up to date" if record["skipped"] else done
    for line in (f"{name}: {what}, {seconds:.1f} s", *(f"  {line}" for line in told)):
        state.say(line)


# ---------------------------------------------------------------------------------------------
# Stages: each returns {"rows", "skipped", "detail"}, and "told": lines for the console


def _index(state: Run, progress: Any) -> dict[str, Any]:
    spec = state.spec
    path = state.out / "index.parquet"
    with ContentHashCache(state.out / "hashes.sqlite") as cache:
        index, report = build_index(
            spec.dataset,
            path,
            max_pixels=spec.invert.max_pixels,
            cache=cache,
            progress=progress,
            source=state.source,
        )
    write_noted(state.out, "index_report.json", report.to_dict(limit=LISTED))
    state._index = index
    for line in report.lines():
        state.say(line)
    state.facts["damaged"] = len(report.damaged)
    rows = rows_fp(index)  # a moved file changes where a row lies, and nothing that is computed
    changed = read_lineage(state.out).get("index") != rows
    note_lineage(state.out, index=rows)
    return {"rows": index.n_rows, "skipped": not changed, "detail": report.to_dict(limit=0)}


def _identified(state: Run) -> StoreIdentity:
    """The store: what the models' files refuse is told before a million images are indexed."""
    identity = identify_run(state.spec, state.out)
    check_classes(state.spec, identity.facts)
    return identity


def _check_specification(state: Run, identity: StoreIdentity) -> None:
    """Everything that can be told before the first image is inverted, see `check_run`.

    From here on the specification holds what its generator has decided.
    """
    spec, spaces = state.spec, held_spaces(state.spec, identity)
    for note in check_run(spec, state.index, spaces, state.trust, identity.facts):
        state.say(f"note: {note}")
    state._identity = identity
    state.spec = spec.model_copy(update={"invert": identity.spec})


def _invert(state: Run, progress: Any) -> dict[str, Any]:
    from pipelines.stages.invert import invert, invert_inputs

    spec, index = state.spec, state.index
    identity = state.identity
    Path(identity.path).parent.mkdir(parents=True, exist_ok=True)
    state.lock = StoreLock(identity.path).acquire()
    state.stop.watch(state.lock)
    result = invert(
        index,
        state.source,
        identity,
        engine=state.engine,
        progress=progress,
        lock=state.lock,
        blocks=state.blocks,
        actor_memory_mb=spec.ray.actor_memory_mb,
        tell=lambda probe: state.say(f"invert: {probe}"),
    )
    state.written()
    state.facts["counts"] = result.counts
    inputs = invert_inputs(spec.invert, identity.sampled)
    noted = {"store": Path(identity.path).name, **inputs}
    note_lineage(state.out, invert=noted)
    detail = {
        "blocks_done": result.blocks_done,
        "blocks_skipped": result.blocks_skipped,
        "batch_size": result.batch_size,
        "batches_halved_for_memory": result.shrunk,
        "counts": result.counts,
    }
    told = [*result.notes, *quarantine_lines({"invert": result.counts})]
    skipped = result.blocks_done == 0
    return {"rows": index.n_rows, "skipped": skipped, "detail": detail, "told": told}


def _annotate(state: Run, progress: Any) -> dict[str, Any]:
    models = [model for model in state.spec.annotate if state.wants("annotate", model.name)]
    if not models:
        return {"rows": 0, "skipped": True, "detail": {}}
    from pipelines.stages.annotate import annotate, annotate_inputs, export_annotations

    result = annotate(
        state.index,
        state.source,
        state.identity.path,
        models,
        generator_uri=state.spec.generator,
        engine=state.engine,
        max_pixels=state.spec.invert.max_pixels,
        threads=state.spec.invert.threads,
        trust=state.trust,
        progress=progress,
        lock=state.lock,
        blocks=state.blocks,
        labels=labels_of(state.spec.dataset, state.index, state.identity.facts),
        actor_memory_mb=state.spec.ray.actor_memory_mb,
    )
    state.written()
    state.facts["measured"] = result.counts
    table, store = state.out / "annotations.parquet", state.store
    made_of = table_fp(store, state.index)
    whole = table.exists() and intact(state.out, table.name)
    if not whole or read_lineage(state.out).get("table") != made_of:
        with noted(state.out, table.name):
            export_annotations(store, state.index, table)
    note_lineage(state.out, table=made_of)
    if len(models) == len(state.spec.annotate):
        sampled = state.spec.dataset.sampled
        inputs = annotate_inputs(models, state.spec.invert.max_pixels, sampled)
        note_lineage(state.out, annotate=inputs)
    detail = {
        "blocks_done": result.blocks_done,
        "blocks_skipped": result.blocks_skipped,
        "batch_size": dict(result.batch_sizes),
        "counts": result.counts,
    }
    rows, skipped = state.index.n_rows, result.blocks_done == 0
    told = quarantine_lines(result.counts) + failure_lines(result.failed)
    return {"rows": rows, "skipped": skipped, "detail": detail, "told": told}


def _analyse(state: Run, progress: Any) -> dict[str, Any]:
    check_quarantine(state.spec, state.store)
    spec, store, index = state.spec, state.store, state.index
    found = compare_analyses(spec, store, index, state.directions_path)
    chosen = [name for name in requested(spec) if state.wants("analyse", name)]
    report = {name: unchanged(f) for name, f in found.held.items() if name in chosen}
    state.directions = found.directions if found.current else None
    todo = bool(found.dropped) or not found.stale.keys().isdisjoint(chosen)
    if todo:
        from pipelines.engine.beam import analysis_engine
        from pipelines.runs.analyse import analyse

        report = analyse(
            spec,
            store,
            index,
            state.identity.facts.fingerprint,
            state.directions_path,
            CheckedEngine(analysis_engine(spec, store), state.check),
            progress,
            state.out / STATISTICS,
            state.check,
            chosen,
        )
    detail = {
        name: {k: facts[k] for k in SHOWN_FACTS if k in facts} for name, facts in report.items()
    }
    rows, told = index.n_rows if chosen else 0, without_direction_lines(report)
    return {"rows": rows, "skipped": not todo, "detail": detail, "told": told}


def _evaluate(state: Run, progress: Any) -> dict[str, Any]:
    if not state.directions_path.exists():
        return {"rows": 0, "skipped": True, "detail": {}}
    directions = state.directions or DirectionSet.load(state.directions_path)
    spec, store = state.spec, state.store
    inputs = evaluation_inputs(spec, store, state.index, directions)
    if is_finished(state.out, inputs):
        return {"rows": 0, "skipped": True, "detail": {}}
    from pipelines.evaluation.actors_meter import ActorsMeter
    from pipelines.evaluation.evaluate import Evaluated, evaluate

    known = known_effects(state.out, inputs)
    alone = spec.single_process and state.address is None  # without the start of Ray, then
    engine = InProcess() if alone else state.ray
    meter = ActorsMeter.of(spec, directions, engine, state.lock, state.out, state.trust)
    evaluated = Evaluated(spec, store, state.index, state.source)
    found, pictures = evaluate(evaluated, directions, meter, progress, known)
    write_evaluation(state.out, found, pictures, inputs, digest(inputs))
    meter.clear()
    measured = len(found["directions"]) - len(known)
    drawn = pictures_of(found["samples"], found["strengths"], measured)
    detail = {"directions": len(found["directions"]), "measured": measured, "pictures": drawn}
    return {"rows": found["samples"], "skipped": False, "detail": detail}


def _report(state: Run, progress: Any) -> dict[str, Any]:
    listed = read_json(state.out / "index_report.json")
    key = report_inputs(state.spec, state.index, state.out, listed)
    marker = state.out / "report.json"
    whole = (state.out / "report.html").exists() and intact(state.out, "report.html")
    fresh = whole and all(s["skipped"] for s in state.stages)
    if fresh and read_json(marker).get("inputs") == key:
        return {"rows": 0, "skipped": True, "detail": {}}
    from pipelines.report.page import write_report

    state.record()  # the report reads it
    path = write_report(state.out)
    write_noted(state.out, marker.name, {"inputs": key})
    return {"rows": 0, "skipped": False, "detail": {"bytes": path.stat().st_size}}


_STAGE_FUNCTIONS: dict[str, Callable[[Run, Any], dict[str, Any]]] = {
    "index": _index,
    "invert": _invert,
    "annotate": _annotate,
    "analyse": _analyse,
    "evaluate": _evaluate,
    "report": _report,
}
