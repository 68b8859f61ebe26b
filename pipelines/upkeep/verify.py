"""Read everything that a run stored again and say exactly what is damaged, and what cures it.

Every committed block of every stage is decoded with its checksums; its fingerprint is worked out
again from the index, the store's identity and the models; rows that are not ok must hold fill
values. Direction sets and the index are read as well. Nothing is written, unless with `repair`,
which takes damaged parts out, so that the next run makes exactly those again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

import generators
from pipelines.analyses.catalog import requested
from pipelines.engine.saved_sums import FOLDER, check_sums
from pipelines.folder.checksums import changed_files
from pipelines.folder.run_folder import no_run
from pipelines.folder.specification import load_run_spec
from pipelines.folder.store_identity import INVERT, identify_run, labels_of
from pipelines.runs.lineage import analysis_fp
from pipelines.stages import annotate, invert, sample
from pipelines.upkeep.verification import Problem, StageCheck, Verification
from schemas.directions.check import SetCheck, check_directions, drop_damaged
from schemas.directions.direction_set import KIND as DIRECTION_SET
from schemas.errors import LatentflowError, UsageError
from schemas.index import ACTIVE, DatasetIndex
from schemas.spec import RunSpec
from schemas.store.check import (
    BlockCheck,
    check_block,
    check_identity,
    check_metadata,
    stages_with_problems,
    strangers,
    uncommit,
)
from schemas.store.latent_store import LatentStore
from schemas.store.layout import ArraySpec
from schemas.store.lock import StoreLock, run_lock
from schemas.store.reasons import Status
from schemas.store.sibling import SiblingStore, siblings_of

RUN_AGAIN = "run the specification again"
REPAIR = "take it out with 'latentflow verify --repair', then run the specification again"

OTHERWISE = "or check the path: a run, a latent store or a direction set can be verified"

SHOWN = 6

Progress = Callable[[int, int], None]


@dataclass
class _Places:
    """What is to be checked, and the run that it belongs to.

    current : whether the store is the one that the run's specification writes to now.
    """

    run: Path | None = None
    store: Path | None = None
    directions: Path | None = None
    spec: RunSpec | None = None
    current: bool = False


def run_folder_of(path: Path) -> Path:
    """The run folder of a specification, or the folder itself. Raises UsageError for others."""
    if path.is_file():
        path = Path(load_run_spec(path).output_path)
    if not path.is_dir():
        raise UsageError(no_run(path))
    return path


def verify(
    path: Path, repair: bool = False, wait_s: float = 0.0, progress: Progress | None = None
) -> Verification:
    """Check a run (its folder or its specification), a latent store, or a direction set.

    repair : take damaged blocks' commits away and damaged analyses out of the direction set, under
        the run's lock, so that the next run makes them again.

    Raises UsageError for a path that is none of these, LockedError when repairing beside a run.
    """
    found = Verification(str(path))
    places = _places(path, found)
    if not repair:
        _check(places, found, progress, False)
        return found
    with ExitStack() as held:
        for lock in _locks(places):
            held.enter_context(lock.acquire(wait_s))
        _check(places, found, progress, True)
    return found


def _locks(places: _Places) -> list[StoreLock]:
    run = [] if places.run is None else [run_lock(places.run)]
    return run if places.store is None else [*run, StoreLock(places.store)]


# ---------------------------------------------------------------------------------------------
# What to check


def _places(path: Path, found: Verification) -> _Places:
    if path.is_dir() and (path / "zarr.json").exists():
        run = path.resolve().parent.parent
        places = _Places(run if (run / "run.json").is_file() else None)
        kind = _attributes(path).get("kind")
        facts = _facts(places.run, found)
        places.spec = _spec(facts)
        if kind == DIRECTION_SET:
            places.directions = path
        else:
            places.store = path
        named = facts.get("directions" if kind == DIRECTION_SET else "store")
        places.current = isinstance(named, str) and Path(named).name == path.resolve().name
        if kind == DIRECTION_SET and places.current and places.run is not None:
            places.store = places.run / str(facts["store"])
        return places
    run = run_folder_of(path)
    facts = _facts(run, found)
    if not facts and not found.problems:
        raise UsageError(no_run(run, OTHERWISE if path.is_dir() else ""))
    places = _Places(run, spec=_spec(facts), current=True)
    if "store" not in facts:
        found.notes.append("the last run ended before it came to its store; run it again")
    for part in ("store", "directions"):
        if isinstance(facts.get(part), str):
            place = run / facts[part]
            if place.exists():
                setattr(places, part, place)
            elif part == "store":
                found.problems.append(Problem("store", f"{facts[part]!r} is missing", RUN_AGAIN))
    return places


def _attributes(path: Path) -> Mapping[str, Any]:
    try:
        attrs = json.loads((path / "zarr.json").read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return attrs if isinstance(attrs, dict) else {}


def _facts(run: Path | None, found: Verification) -> dict[str, Any]:
    """run.json, {} without a readable one."""
    if run is None:
        return {}
    try:
        facts = json.loads((run / "run.json").read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        found.problems.append(Problem("run.json", f"cannot be read: {e}", RUN_AGAIN))
        return {}
    return facts if isinstance(facts, dict) else {}


def _spec(facts: Mapping[str, Any]) -> RunSpec | None:
    try:
        return RunSpec.model_validate(facts.get("spec"))
    except ValidationError:
        return None


# ---------------------------------------------------------------------------------------------
# Checking


def _check(places: _Places, found: Verification, progress: Progress | None, repair: bool) -> None:
    for lock in [] if repair else _locks(places):
        holder = lock.holder()
        if holder is not None:
            found.notes.append(f"{holder}; what it is writing may change while it is checked")
    index = _index(places, found)
    if places.run is not None and places.current:
        wrong = changed_files(places.run)
        if found.problems and found.problems[-1].where == "index":
            wrong.pop("index.parquet", None)  # told of already
        for name, text in wrong.items():
            found.problems.append(Problem(name, f"it is not what the run wrote: {text}", RUN_AGAIN))
        _sums(places.run, found, repair)
    if places.store is not None:
        _store(places, index, found, progress, repair)
    if places.directions is not None:
        _directions(places, index, found, repair)
    for place in (places.store, places.directions):
        if place is not None and (others := strangers(place)):
            found.notes.append(told_of(others, place.name))


def told_of(others: list[str], name: str) -> str:
    """What is said of files in a store or set that no run wrote."""
    return (
        f"{len(others)} files or folders in {name!r} are nothing that a run writes and are left "
        f"alone: {', '.join(map(repr, others[:SHOWN]))}"
    )


def _sums(run: Path, found: Verification, repair: bool) -> None:
    """Saved sums: a damaged one is made again when it is asked for."""
    damaged, unsealed = check_sums(run / FOLDER)
    for path in damaged:
        where = f"{FOLDER}/{path.name}"
        found.problems.append(Problem(where, "it is not what a run wrote", REPAIR))
        if repair:
            path.unlink()
            found.repaired.append(where)
    if unsealed:
        found.notes.append(
            f"{len(unsealed)} saved sums are of an earlier release, without a digest: they are not "
            "used, and are summed again when an analysis needs them"
        )


def _index(places: _Places, found: Verification) -> DatasetIndex | None:
    path = None if places.run is None else places.run / "index.parquet"
    if path is None or not path.exists():
        found.notes.append("there is no index beside it, so fingerprints are not compared")
        return None
    try:
        index = DatasetIndex.load(path)
    except LatentflowError as e:
        cure = (
            "put a copy of the index back; without one, every row is computed again: delete it and "
        )
        found.problems.append(Problem("index", str(e), cure + RUN_AGAIN))
        return None
    found.bytes_read += path.stat().st_size
    found.index_rows = index.n_rows
    return index


def _store(
    places: _Places,
    index: DatasetIndex | None,
    found: Verification,
    progress: Progress | None,
    repair: bool,
) -> None:
    path = str(places.store)
    try:
        store = LatentStore.open(path, "r+" if repair else "r")
        wrong = check_identity(store)
    except LatentflowError as e:
        cure = f"delete the folder and {RUN_AGAIN}"
        found.problems.append(Problem("store", str(e), cure))
        return
    for text in wrong:
        cure = f"delete {path!r} and {RUN_AGAIN}"
        found.problems.append(Problem("store", text, cure))
    expected = _Expected(places, store, index, found.notes)
    for text in check_metadata(store, expected.arrays(), repair):
        cure = RUN_AGAIN if repair else "put it right with 'latentflow verify --repair'"
        found.problems.append(Problem("store", text, cure))
    stages, broken = stages_with_problems(store)
    for text in broken:
        found.problems.append(Problem("store", text, f"delete {path!r} and {RUN_AGAIN}"))
    done, total = 0, len(stages) * store.n_blocks
    order = sorted(stages, key=lambda stage: (stage != INVERT, stage))
    for stage in order:
        summary = StageCheck(stage, store.n_blocks)
        summary.fingerprints = expected.known(stage)
        found.stages.append(summary)
        for block in range(store.n_blocks):
            checked = check_block(store, stage, block)
            found.bytes_read += checked.bytes_read
            _sum_up(summary, checked, expected, found, repair)
            if repair and checked.problems:
                uncommit(store, checked)
                found.repaired.append(f"block {block} of stage {stage!r}")
            done += 1
            if progress is not None:
                progress(done, total)
    for sibling in siblings_of(store, store.mode):
        _sibling(sibling, store, found, repair)


def _sibling(sibling: SiblingStore, parent: LatentStore, found: Verification, repair: bool) -> None:
    """Large arrays beside the store: read like its own, and compared with the parent's blocks."""
    name, stage = Path(sibling.path).name, sibling.stage
    for text in check_identity(sibling):
        found.problems.append(Problem(name, text, f"delete {sibling.path!r} and {RUN_AGAIN}"))
    for text in check_metadata(sibling, {}, repair):
        cure = RUN_AGAIN if repair else "put it right with 'latentflow verify --repair'"
        found.problems.append(Problem(name, text, cure))
    summary = StageCheck(f"{stage} ({sibling.space})", sibling.n_blocks)
    found.stages.append(summary)
    for block, fp in enumerate(sibling.expected(parent)):
        checked = check_block(sibling, stage, block)
        found.bytes_read += checked.bytes_read
        if checked.problems:
            summary.damaged.append(block)
        elif checked.commit is None or checked.commit != fp:
            summary.waiting += 1  # the parent's block is made again, or was
        else:
            summary.good += 1
        where = f"block {block} of {name!r}"
        cure = RUN_AGAIN if repair else REPAIR
        found.problems += [Problem(where, text, cure) for text in checked.problems]
        if repair and checked.problems:
            uncommit(sibling, checked)
            found.repaired.append(where)
    if others := strangers(sibling.path):
        found.notes.append(told_of(others, name))


def _sum_up(
    summary: StageCheck,
    checked: BlockCheck,
    expected: _Expected,
    found: Verification,
    repair: bool,
) -> None:
    where = f"block {checked.block} of stage {checked.stage!r}"
    for text in checked.problems:
        found.problems.append(Problem(where, text, REPAIR if not repair else RUN_AGAIN))
    if checked.problems:
        summary.damaged.append(checked.block)
        return
    if checked.commit is None:
        summary.waiting += 1
        return
    fp = expected.fp(checked)
    if fp is not None and fp != checked.commit:
        summary.mismatched.append(checked.block)
        text = (
            f"is committed with {checked.commit.hex()[:12]!r}, the index, the store and the "
            f"models give {fp.hex()[:12]!r}: its inputs have changed since, or its commit was"
        )
        found.problems.append(Problem(where, text, RUN_AGAIN))
        return
    summary.good += 1


class _Expected:
    """Fingerprints of blocks, from the index, the store's identity and the models as they are."""

    def __init__(
        self, places: _Places, store: LatentStore, index: DatasetIndex | None, notes: list[str]
    ) -> None:
        self._store = store
        self._codes: dict[int, BlockCheck] = {}
        self._stages: dict[str, annotate.StageModel] = {}
        self._rows: list[tuple[str, str]] | None = None
        self._labels: NDArray[np.int64] | None = None
        self._spec, self._run, self._current = places.spec, places.run, places.current
        if index is None or places.spec is None:
            return
        if not places.current:
            notes.append(
                "the store is not the one that the run's specification writes to: the index may "
                "have changed since it was made, so fingerprints are not compared"
            )
            return
        if index.n_rows < store.n_rows:
            notes.append(
                f"the index has {index.n_rows} rows, the store {store.n_rows}: it belongs to "
                "another index, so fingerprints are not compared"
            )
            return
        self._rows = index.identity()
        spec = places.spec.invert
        try:
            facts = generators.facts(places.spec.generator)
            self._labels = labels_of(places.spec.dataset, index, facts)
        except LatentflowError as e:
            notes.append(f"fingerprints of annotations are not compared: {e}")
            return
        self._originals = annotate.Originals(index, spec.max_pixels, facts.size, spec.crop)
        for model in places.spec.annotate:
            try:
                sampled = places.spec.dataset.sampled
                for stage in annotate.stages_of([model], trust=True, sampled=sampled):
                    self._stages[stage.name] = stage
            except LatentflowError as e:
                notes.append(f"fingerprints of {model.name!r} are not compared: {e}")

    def arrays(self) -> dict[str, list[ArraySpec]]:
        """Stage -> the arrays that it writes, as far as the specification tells."""
        if self._spec is None or self._run is None or not self._current:
            return {}
        try:
            found = {INVERT: list(identify_run(self._spec, self._run).arrays)}
        except LatentflowError:  # its models are gone
            found = {}
        return found | {name: [stage.spec()] for name, stage in self._stages.items()}

    def known(self, stage: str) -> str:
        """For the table: whether the stage's fingerprints can be worked out."""
        if self._rows is None or (stage != INVERT and stage not in self._stages):
            return "not compared"
        return "checked"

    def fp(self, checked: BlockCheck) -> bytes | None:
        """What the block should be committed with; None when that cannot be told."""
        if checked.stage == INVERT:
            self._codes[checked.block] = checked
        if self._rows is None or self._spec is None:
            return None
        rows = self._store.block_slice(checked.block)
        if checked.stage == INVERT:
            sampled = self._spec.dataset.sampled
            version = sample.VERSION if sampled else invert.VERSION
            labels = None if self._labels is None else self._labels[rows]
            extra = invert.block_inputs(sampled, self._spec.invert, labels)
        elif checked.stage in self._stages:
            codes = self._codes.get(checked.block)
            if codes is None or codes.commit is None or codes.status is None:
                return None
            stage, ok = self._stages[checked.stage], codes.status == Status.OK
            version = annotate.VERSION
            extra = annotate.extra_of(stage, codes.commit, ok, self._originals, rows)
        else:
            return None
        identity = self._rows[rows]
        removed = np.array([state != ACTIVE for _, state in identity])
        if checked.status is not None and not np.array_equal(
            removed, checked.status == Status.REMOVED
        ):
            return bytes(32)  # the flags tell of other rows than the index
        return self._store.block_fp(checked.stage, checked.block, identity, version, extra)


def _directions(
    places: _Places, index: DatasetIndex | None, found: Verification, repair: bool
) -> None:
    path = Path(str(places.directions))
    checked = check_directions(path)
    if checked.unreadable is not None:
        cure = RUN_AGAIN if "half-written" in checked.unreadable else (
            f"delete {str(path)!r} and {RUN_AGAIN}; imported directions must be imported again"
        )  # fmt: skip
        found.problems.append(Problem("directions", checked.unreadable, cure))
        return
    for text in checked.problems:
        found.problems.append(Problem("directions", text, REPAIR))
    bad = 0
    for kind, parts in (("direction", checked.directions), ("model", checked.models)):
        for name, problems in parts.items():
            bad += bool(problems)
            imported = kind == "direction" and name not in checked.analysis_of
            cure = REPAIR + (" and import it again" if imported else "")
            for text in problems:
                found.problems.append(Problem(f"{kind} {name!r}", text, cure))
    found.directions = {"directions": len(checked.directions), "models": len(checked.models)}
    found.directions["damaged"] = bad
    if repair and (bad or checked.problems):
        drop_damaged(path, checked)
        if bad:
            found.repaired.append(f"{bad} parts of the direction set")
    _fingerprints(places, index, checked, found)


def _fingerprints(
    places: _Places, index: DatasetIndex | None, checked: SetCheck, found: Verification
) -> None:
    """Whether each analysis was made from what the store, index and specification hold now."""
    spec = places.spec
    if index is None or spec is None or not places.current or places.store is None:
        return
    if any(not p.where.startswith(("direction ", "model ")) for p in found.problems):
        found.notes.append("analyses are not compared with the store, which has problems")
        return
    if any(stage.waiting for stage in found.stages if stage.fingerprints == "checked"):
        found.notes.append("analyses are not compared with the store, of which blocks wait")
        return
    store = LatentStore.open(places.store)
    for name in requested(spec):
        held = checked.fingerprints.get(name)
        if held is None or checked.models.get(name):
            continue
        wanted = analysis_fp(name, spec, store, index)
        if held != wanted:
            text = (
                f"was computed from {held[:12]!r}, the store, the index and the specification "
                f"give {wanted[:12]!r}"
            )
            found.problems.append(Problem(f"analysis {name!r}", text, RUN_AGAIN))
