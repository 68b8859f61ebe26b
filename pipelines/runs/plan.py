"""What a run would do and why, told before anything is done.

Writes nothing and imports no heavy library. Every stage is current, stale or missing; for a stale
one the plan says which input changed, from what to what: the inputs of what is there were noted
when it was made (`pipelines.runs.lineage`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.text import Text
from rich.tree import Tree

from pipelines.analyses.base import Known
from pipelines.analyses.catalog import drawn_by, requested
from pipelines.analyses.spaces import Spaces
from pipelines.evaluation.files import (
    finished_fingerprint,
    inputs_in_effect,
    is_finished,
    pictures_of,
)
from pipelines.folder.checksums import intact
from pipelines.folder.store_identity import INVERT, StoreIdentity, identify_run
from pipelines.runs.check import check_run, held_spaces
from pipelines.runs.lineage import (
    Inputs,
    changes,
    compare_analyses,
    evaluation_inputs,
    read_lineage,
    report_inputs,
    row_spans,
    rows_of,
)
from pipelines.runs.model_notes import model_notes
from pipelines.sources.block_images import View
from pipelines.sources.open import run_source
from pipelines.stages.annotate import annotate_inputs, plan_annotate, stages_of
from pipelines.stages.index import update_index
from pipelines.stages.index_report import LISTED
from pipelines.stages.invert_plan import InvertPlan, actors_busy, invert_inputs, plan_invert
from schemas.atomic import read_json
from schemas.directions.direction_set import DirectionSet
from schemas.errors import StoreError
from schemas.fingerprint import ContentHashCache, digest
from schemas.index import ACTIVE, DatasetIndex
from schemas.sections.types import AUTO
from schemas.spec import RunSpec
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Status
from transforms.inversion.catalog import method_named

CURRENT, STALE, MISSING = "current", "stale", "missing"


@dataclass
class Stage:
    """A stage of a run, or a part of one.

    state : "current", "stale" or "missing"
    summary : what there is to do. causes : inputs that changed, from what to what. notes : more
    """

    name: str
    state: str
    summary: str = ""
    causes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parts: list[Stage] = field(default_factory=list)

    def __iter__(self) -> Iterator[Stage]:
        yield self
        for part in self.parts:
            yield from part

    def add_to(self, tree: Tree) -> None:
        """As a branch of a tree of text."""
        summary = f": {self.summary}" if self.summary else ""
        branch = tree.add(Text(f"{self.name}: {self.state}{summary}"))
        for line in [*self.causes, *self.notes]:
            branch.add(Text(line))
        for part in self.parts:
            part.add_to(branch)


def plan(spec: RunSpec, console: Console) -> None:
    """Print the stages as a tree: what is current, what is stale or missing, why, and what it
    will cost. Time is estimated from the last run's seconds a row, where there was one."""
    tree = Tree(Text(f"{spec.name}  ({spec.output_path})"))
    for stage in plan_stages(spec):
        stage.add_to(tree)
    console.print(tree)


def plan_stages(spec: RunSpec) -> list[Stage]:
    """The stages index, invert, annotate, analyse, evaluate and report; raises what a run would
    raise before its first image."""
    return _Plan(spec).stages()


class _Plan:
    """What is known while the stages are looked at, one after the other."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.out = Path(spec.output_path)
        self.noted = read_lineage(self.out)
        self.rates = _rates(self.out)
        self.index = DatasetIndex.empty()
        self.store: LatentStore | None = None
        self.directions: DirectionSet | None = None
        self.listed: dict[str, Any] = {}
        self.size = (0, 0)
        self.pending: dict[str, set[int]] = {}
        """Stage -> blocks that will be made."""
        self.unmeasured: int | None = None
        """Directions to be evaluated, where all are known."""
        self.last_directions = 0
        """Those of the last evaluation."""

    def stages(self) -> list[Stage]:
        """All stages in order. Raises SpecError for what the data cannot give."""
        index = self._index()
        identity = identify_run(self.spec, self.out)
        self.spec = self.spec.model_copy(update={"invert": identity.spec})
        index.notes += check_run(
            self.spec,
            self.index,
            held_spaces(self.spec, identity),
            facts=identity.facts,
        )
        stages = [index, self._invert(identity), self._annotate()]
        analyses = self._analyse()
        spaces = held_spaces(self.spec, identity)
        for part in analyses.parts:
            part.notes += [*self._derived(part.name, spaces), *self._drawn(part, spaces)]
        stages.append(analyses)
        evaluate = self._evaluate(analyses)
        if evaluate.state != CURRENT:
            evaluate.notes.append(self._pictures())
        stages.append(evaluate)
        stages.append(self._report(stages))
        return stages

    # ---- index

    def _index(self) -> Stage:
        path, spec = self.out / "index.parquet", self.spec
        existing = DatasetIndex.load(path) if path.exists() else DatasetIndex.empty()
        with ContentHashCache(self.out / "hashes.sqlite", read_only=True) as cache:
            self.index, report = update_index(
                existing,
                run_source(spec),
                spec.dataset,
                max_pixels=spec.invert.max_pixels,
                cache=cache,
            )
        counts = f"{report.added} new, {report.removed} gone, {report.moved} moved"
        rows = "sampled rows" if spec.dataset.sampled else "images"
        stage = Stage("index", MISSING, f"{report.n_active} {rows} ({counts})")
        if path.exists():
            stage.causes = _index_changes(existing, self.index)
            stage.state = STALE if stage.causes else CURRENT
        stage.notes += report.lines(planned=True)
        self.listed = report.to_dict(limit=LISTED)
        return stage

    # ---- invert

    def _invert(self, identity: StoreIdentity) -> Stage:
        spec = self.spec
        self.size = identity.facts.size
        wanted = plan_invert(self.index, identity)
        if Path(identity.path, "zarr.json").exists():
            self.store = LatentStore.open(identity.path)
        rows = sum(len(work) for work in wanted.work)
        self.pending[INVERT] = {work.block for work in wanted.work}
        state = MISSING if self.store is None else STALE if rows else CURRENT
        verb = "draw" if identity.sampled else "invert"
        stage = Stage("invert", state, f"{len(wanted.work)} of {wanted.n_blocks} blocks to {verb}")
        if self.store is None:
            stage.causes = self._identity_changes(identity)
        elif rows:
            stage.causes = self._row_changes(self.store, wanted)
        stage.notes.append(f"store {identity.path}")
        stage.notes += model_notes(identity)
        if identity.sampled:
            first, psi = spec.dataset.seed, spec.dataset.truncation
            stage.notes.append(f"drawn into {spec.invert.space}, seed {first} on, truncation {psi}")
        else:
            stage.notes.append(f"method {spec.invert.method} into {spec.invert.space}")
        stage.notes += wanted.notes
        if rows:
            size = decimal(
                rows * sum(array.row_bytes for array in (*identity.arrays, *identity.large))
            )
            time = _time(rows, self.rates.get("invert"), "the last run's rate")
            if identity.sampled:
                notes = ["each row: a draw from the prior; no picture is drawn of it"]
            else:
                cost = method_named(spec.invert.method).cost(spec.invert)
                time = time or _time(rows, cost.seconds, "the rate that the method gives")
                measuring = "1 pass through the generator to measure the result"
                notes = [f"each image: {cost}; then {measuring}"]
                notes += _auto(spec, spec.invert.batch_size)
                notes += actors_busy(identity, spec.invert_actors, wanted)
            stage.notes += [f"{rows} rows, about {size} before compression{time}", *notes]
        return stage

    def _identity_changes(self, identity: StoreIdentity) -> list[str]:
        """Why there is no store yet: what differs from the store of the last run."""
        last = self.noted.get("invert", {}).get("store")
        try:
            old = LatentStore.open(self.out / "stores" / last).attrs if last else None
        except StoreError:
            old = None
        if old is None:
            return []
        new = identity.attrs
        was = {key: old.get(key) for key in new}
        return [*changes(was, new, 1, 0), f"the former store, {last}, is kept"]

    def _row_changes(self, store: LatentStore, wanted: InvertPlan) -> list[str]:
        causes = []
        old, new = store.n_rows, self.index.n_rows
        if new > old:
            causes.append(f"{row_spans(np.arange(old, new))} added")
        status = store.status(INVERT) if INVERT in store.stages() else np.zeros(old, np.uint8)
        gone = ~self.index.active[:old] & np.isin(status, [Status.OK, Status.QUARANTINED])
        if gone.any():
            causes.append(f"{row_spans(np.flatnonzero(gone))} removed")
        noted = {k: v for k, v in self.noted.get("invert", {}).items() if k != "store"}
        if noted:
            now = invert_inputs(self.spec.invert, self.spec.dataset.sampled)
            causes += changes(noted, now, store.block_rows, new)
        again = sum(len(w.stages[INVERT].retry or ()) for w in wanted.work)
        if again:
            causes.append(f"{again} rows could not be read and are tried again")
        if not causes:
            blocks = sorted(work.block for work in wanted.work)
            causes.append(f"{rows_of(blocks, store.block_rows, new)} were not finished")
        return causes

    # ---- annotate

    def _annotate(self) -> Stage:
        sampled = self.spec.dataset.sampled
        models = stages_of(self.spec.annotate, trust=True, sampled=sampled)
        stage = Stage("annotate", CURRENT, "" if models else "nothing requested")
        now = annotate_inputs(self.spec.annotate, self.spec.invert.max_pixels, sampled)
        noted = self.noted.get("annotate", {})
        known = () if self.store is None else self.store.stages()
        blocks: dict[str, set[int]] = {model.name: set() for model in models}
        if self.store is not None:
            for work in plan_annotate(
                self.index,
                self.store,
                models,
                self.spec.invert.max_pixels,
                self.size,
            ).work:
                for name in work.stages:
                    blocks[name].add(work.block)
        for model in models:
            name = model.name
            self.pending[name] = made = blocks[name] | self.pending[INVERT]
            n_blocks = self._n_blocks()
            made &= set(range(n_blocks))
            part = Stage(name, CURRENT, f"{len(made)} of {n_blocks} blocks to measure")
            if name not in known:
                part.state = MISSING
                part.summary = "waits for invert" if self.store is None else part.summary
                part.summary += _time(
                    self.index.n_rows, self.rates.get("annotate"), "the last run's rate"
                )
            elif made:
                part.state = STALE
                was = noted.get(name, now[name])
                if "of" in now[name]:  # what earlier releases measured, who did not note it
                    same = model.view(self.size) == View(self.size)
                    was = {"of": model.of if same else "resized", **was}
                part.causes = changes(was, now[name], 1, 0)
                if made & self.pending[INVERT]:
                    rows = self._rows(made & self.pending[INVERT])
                    part.causes.append(f"{rows} are inverted again")
                if not part.causes:
                    part.causes.append(f"{self._rows(made)} were not finished")
            if part.state != CURRENT:
                part.notes += _auto(self.spec, model.batch_size or AUTO)
            stage.parts.append(part)
        stage.state = _state_of(stage.parts)
        return stage

    def _n_blocks(self) -> int:
        if self.store is None:
            return len(self.pending[INVERT])
        return -(-self.index.n_rows // self.store.block_rows)

    def _rows(self, blocks: set[int]) -> str:
        block_rows = self.index.n_rows if self.store is None else self.store.block_rows
        return rows_of(sorted(blocks), block_rows, self.index.n_rows)

    # ---- analyse, evaluate, report

    def _analyse(self) -> Stage:
        names = requested(self.spec)
        stage = Stage("analyse", CURRENT, "" if names else "nothing requested")
        if self.store is None:
            stage.parts = [Stage(name, MISSING, "waits for invert") for name in names]
        else:
            found = compare_analyses(self.spec, self.store, self.index, self._directions())
            self.directions = found.directions
            for name in names:
                now = self._expected(found.wanted[name])
                stage.parts.append(self._analysis(name, found.held.get(name), now))
            for name in found.dropped:
                cause = "no longer requested: its directions will be removed"
                stage.parts.append(Stage(name, STALE, causes=[cause]))
        stage.state = _state_of(stage.parts)
        return stage

    def _analysis(self, name: str, held: Mapping[str, Any] | None, now: Inputs) -> Stage:
        if held is None:
            return Stage(name, MISSING)
        if held.get("fingerprint") == digest(now):
            return Stage(name, CURRENT)
        was = held.get("inputs")
        if was is None:
            return Stage(
                name, STALE, causes=["computed by a release that did not record its inputs"]
            )
        block_rows = 1 if self.store is None else self.store.block_rows
        return Stage(name, STALE, causes=changes(was, now, block_rows, self.index.n_rows))

    def _derived(self, name: str, spaces: Spaces) -> Iterator[str]:
        """What an analysis reads that is not stored."""
        own = getattr(self.spec.analyse, name)
        space = None if own is None else own.space
        if space is None or space in spaces.stored:
            return
        rows = int(self.index.active.sum())
        size, of = decimal(rows * math.prod(spaces[space]) * 4), spaces.derived[space][0]
        how = f"converted from {of!r}"
        if spaces.recorded(space):
            how = f"recorded while codes of {of!r} are drawn, {rows} rows for each single sum"
        yield (
            f"reads codes of {space!r}, {how}; where they are read more than once, up to {size} "
            "of them lie on disk while analyses read them"
        )

    def _drawn(self, part: Stage, spaces: Spaces) -> Iterator[str]:
        """The pictures that an analysis will draw of its own."""
        if part.state == CURRENT or part.name not in requested(self.spec):
            return
        known = Known(self.spec, self.index, spaces, lambda kind, labels: [])
        n = drawn_by(known, part.name)
        if n:
            time = _time(n, self.rates.get("evaluate"), "the rate of the last evaluation")
            yield f"{n} pictures to draw and measure{time}"

    def _expected(self, inputs: Inputs) -> Inputs:
        """Inputs as they will be: blocks that are made first are not known yet."""
        blocks = {}
        for stage, held in inputs["blocks"].items():
            pending = self.pending.get(stage, set())
            n_blocks = self._n_blocks()
            padded = [*held, *[""] * (n_blocks - len(held))]
            blocks[stage] = ["to be made" if i in pending else h for i, h in enumerate(padded)]
        return {**inputs, "blocks": blocks}

    def _directions(self) -> Path:
        name = "" if self.store is None else Path(self.store.path).name
        return self.out / "directions" / name

    def _evaluate(self, analyses: Stage) -> Stage:
        if not analyses.parts:
            return Stage("evaluate", CURRENT, "no directions requested")
        changed = [part.name for part in analyses.parts if part.state != CURRENT]
        found = read_json(self.out / "evaluation.json")
        if not found:
            return Stage("evaluate", MISSING)
        self.last_directions = len(found.get("directions", ()))
        if self.store is None:
            return Stage("evaluate", STALE, causes=["there is no store of these inputs yet"])
        try:
            directions = self.directions or DirectionSet.load(self._directions())
        except StoreError:
            return Stage("evaluate", STALE, causes=["there is no direction set"])
        now = self._expected(evaluation_inputs(self.spec, self.store, self.index, directions))
        if is_finished(self.out, now) and not changed:
            return Stage("evaluate", CURRENT)
        causes = [f"directions of {', '.join(changed)}"] if changed else []
        if finished_fingerprint(self.out) is None:
            causes.append("its images are missing or of another evaluation")
        was = found.get("inputs")
        if not changed:
            self.unmeasured = len(now["directions"])
        if was is not None:
            n_rows, block_rows = self.index.n_rows, self.store.block_rows
            if was["directions"].keys() != now["directions"].keys() and not changed:
                causes.append("directions were added or taken away")
            fitted = {"directions": None, "models": None}
            same = was["directions"].items() & now["directions"].items()
            was, now = {**inputs_in_effect(was), **fitted}, {**now, **fitted}
            causes += changes(was, now, block_rows, n_rows)
            if self.unmeasured is not None and was == now:
                self.unmeasured -= len(same)
        return Stage("evaluate", STALE, causes=causes or ["directions changed"])

    def _pictures(self) -> str:
        """What evaluating the directions will cost."""
        own = self.spec.evaluate
        rows = int(self.index.active.sum())
        n = own.samples if own.source == "prior" else min(own.samples, rows)
        moved = len({*map(float, own.strengths)} - {0.0})
        known = self.unmeasured is not None
        total = pictures_of(n, own.strengths, self.unmeasured or 0) if known else n * moved
        time = _time(total, self.rates.get("evaluate"), "the last run's rate")
        each = f"at {moved} strengths of {n} samples{time}"
        each += "; 'evaluate.samples' makes them fewer"
        if not known:
            last, of_each = self.last_directions, "pictures to draw and measure for each direction"
            was = f" ({pictures_of(n, own.strengths, last)} for last time's {last})" if last else ""
            return f"{total} {of_each} there will be{was}, {each}"
        return f"{total} pictures to draw and measure, {self.unmeasured} directions {each}"

    def _report(self, before: list[Stage]) -> Stage:
        changed = [stage.name for stage in before if stage.state != CURRENT]
        if not (self.out / "report.html").exists():
            return Stage("report", MISSING)
        if changed:
            return Stage("report", STALE, causes=[f"after {', '.join(changed)}"])
        noted = read_json(self.out / "report.json").get("inputs")
        now = report_inputs(self.spec, self.index, self.out, self.listed)
        if noted == now:
            return Stage("report", CURRENT)
        causes = changes(noted, now, 1, 0) if isinstance(noted, dict) else []
        return Stage("report", STALE, causes=causes)


def _state_of(parts: list[Stage]) -> str:
    """Of a stage from its parts': missing only when nothing of it is there."""
    states = {part.state for part in parts}
    if states <= {CURRENT}:
        return CURRENT
    return MISSING if states == {MISSING} else STALE


def _index_changes(old: DatasetIndex, new: DatasetIndex) -> list[str]:
    causes = []
    if new.n_rows > old.n_rows:
        causes.append(f"{row_spans(np.arange(old.n_rows, new.n_rows))} added")
    was, now = old.states, new.states
    gone = [row for row in range(old.n_rows) if was[row] == ACTIVE != now[row]]
    if gone:
        causes.append(f"{row_spans(np.array(gone))} removed")
    for name, info in new.factors.items():
        if name not in old.factors:
            causes.append(f"factor {name!r} added")
        else:
            values = new.values(name)[: old.n_rows]  # new rows are told above
            same = np.array_equal(old.values(name), values, equal_nan=True)
            if not same or info != old.factors[name]:
                prints = (index.factor_fp(name)[:12] for index in (old, new))
                causes.append(f"factor {name!r}: {' -> '.join(prints)}")
    causes += [f"factor {name!r} taken out" for name in old.factors if name not in new.factors]
    return causes


def _rates(out: Path) -> dict[str, float]:
    """Seconds a row of the last run's stages that did something; of evaluation, a picture."""
    facts = read_json(out / "run.json") if intact(out, "run.json") else {}
    stages = facts.get("stages", [])
    done = {s["name"]: s for s in stages if s["rows"] and not s["skipped"]}
    found = {name: s["seconds"] / s["rows"] for name, s in done.items()}
    if found.pop("evaluate", None) is not None and done["evaluate"]["detail"].get("pictures"):
        found["evaluate"] = done["evaluate"]["seconds"] / done["evaluate"]["detail"]["pictures"]
    return found


def _auto(spec: RunSpec, batch_size: int | str) -> list[str]:
    """What decides a batch size that is left open."""
    if batch_size != AUTO:
        return []
    most = f"{spec.ray.actor_memory_mb} MB ('ray.actor_memory_mb')"
    return [f"batch_size auto: measured before the first block, below {most} an actor"]


def _time(rows: int, seconds: float | None, rate: str) -> str:
    """How long rows take at so many seconds each; empty where that is not known."""
    return "" if seconds is None else f", about {rows * seconds / 60:.1f} min at {rate}"
