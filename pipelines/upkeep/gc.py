"""Remove from a run folder what no run refers to any more.

A run keeps what it made before: stores of former generators and settings, direction sets of those
stores, statistics, half-written files of killed runs. They stay readable until they are collected
here. Nothing younger than `older_than_s` goes, nothing outside the folder is ever looked into, and
an artefact is first renamed and then deleted, so that no half of one is ever found by its name.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines.engine.saved_sums import is_statistic
from pipelines.evaluation.files import SO_FAR
from pipelines.folder.checksums import intact
from pipelines.folder.run_folder import no_run
from pipelines.folder.specification import load_run_spec
from pipelines.folder.store_identity import identify_run
from schemas.atomic import PARTIAL_SUFFIX, is_partial, read_json
from schemas.directions.direction_set import FOREIGN_METHODS, DirectionSet
from schemas.errors import LatentflowError, LockedError, StoreError, UsageError
from schemas.spec import RunSpec
from schemas.store.lock import StoreLock, run_lock
from schemas.store.sibling import parent_fp_of

DAY_S = 86_400.0
STRANGER = "is nothing that a run writes and is left alone"
#: Of an evaluation; the file is what runs of 0.1.0 left.
UNFINISHED = (SO_FAR, "evaluation.partial.npz")
EVALUATION = ("evaluation.json", "evaluation.npz", "report.html", "report.json")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S, "w": 7 * DAY_S}


@dataclass(frozen=True)
class Artefact:
    """Something that no run refers to. path : relative to the run folder. kind : "store",
    "directions", "statistics", "partial", "lock", "evaluation". age_s : since its last change.
    note : what should be known before it goes."""

    path: str
    kind: str
    bytes: int
    age_s: float
    note: str = ""


@dataclass
class Collection:
    """What `collect` found. removable : may go, or went when `deleted`; young : spared for their
    age; kept : what runs refer to; notes : what was left alone, and why."""

    path: str
    deleted: bool = False
    removable: list[Artefact] = field(default_factory=list)
    young: list[Artefact] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of everything that may go."""
        return sum(artefact.bytes for artefact in self.removable)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "path": self.path,
            "deleted": self.deleted,
            "bytes": self.bytes,
            "removable": [vars(artefact) for artefact in self.removable],
            "young": [vars(artefact) for artefact in self.young],
            "kept": self.kept,
            "notes": self.notes,
        }


def seconds_of(text: str) -> float:
    """A duration such as "12h", "1d", "90s" or "0" in seconds. Raises UsageError for others."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"duration {text!r} is not known: give a number with s, m, h, d or w, such as '1d'"
        )
    return float(match[1]) * _SECONDS[match[2] or "s"]


def collect(
    path: Path, delete: bool = False, older_than_s: float = DAY_S, wait_s: float = 0.0
) -> Collection:
    """Find, and with `delete` remove, what no run in the folder refers to.

    path : the run's folder, or its specification, whose present store is kept too.
    older_than_s : artefacts changed more recently are spared.

    Raises UsageError when there is no run folder, LockedError when another run holds it.
    """
    spec = load_run_spec(path) if path.is_file() else None
    root = Path(spec.output_path) if spec is not None else path
    root = root.resolve()
    if not any((root / name).exists() for name in ("run.json", "index.parquet", "stores")):
        raise UsageError(no_run(root, "or check the path" if spec is None else ""))
    found = Collection(str(path), deleted=delete)
    with ExitStack() as held:
        if delete:
            held.enter_context(run_lock(root).acquire(wait_s))
        elif (holder := run_lock(root).holder()) is not None:
            found.notes.append(f"{holder}; what it is writing is not judged rightly until it ends")
        for artefact in _unreferenced(root, spec, found):
            if artefact.age_s < older_than_s:
                found.young.append(artefact)
            elif not delete or _removed(root, artefact, found):
                found.removable.append(artefact)
    return found


# ---------------------------------------------------------------------------------------------
# What is referred to


def _unreferenced(root: Path, spec: RunSpec | None, found: Collection) -> Iterator[Artefact]:
    stores, sets = _referred(root, spec)
    stores |= _siblings(root, stores)
    found.kept = sorted(p for p in stores | sets if (root / p).exists())
    yield from _locks(root, found)  # first: removing a store takes its lock, and gives it back
    yield from _folders(root, "stores", "store", stores, found)
    yield from _folders(root, "directions", "directions", sets, found)
    yield from _statistics(root, sets, found)
    if not any((root / path).exists() for path in sets):
        for name in EVALUATION:
            if _is(root / name, stat.S_ISREG):
                yield _artefact(root, root / name, "evaluation")
    elif not (root / "evaluation.json").exists() and _is(root / "evaluation.npz", stat.S_ISREG):
        yield _artefact(root, root / "evaluation.npz", "evaluation")
    yield from _partials(root, stores | sets)


def _referred(root: Path, spec: RunSpec | None) -> tuple[set[str], set[str]]:
    """Relative paths of the stores and direction sets that the run folder's last run names, the
    last one that finished, and the ones that the specifications write to now."""
    if (root / "run.json").exists() and not intact(root, "run.json"):
        raise StoreError(
            f"'run.json' of {str(root)!r} is not what the last run wrote, so what it refers to is "
            "unknown: run the specification again"
        )
    facts = read_json(root / "run.json")
    last = facts.get("last_finished")
    named = [facts, last if isinstance(last, dict) else {}]
    stores = {str(f["store"]) for f in named if isinstance(f.get("store"), str)}
    sets = {str(f["directions"]) for f in named if isinstance(f.get("directions"), str)}
    wanted = [] if spec is None else [spec]
    if not isinstance(facts.get("store"), str) and spec is None:  # it failed before its store
        try:
            wanted.append(RunSpec.model_validate(facts.get("spec")))
        except ValidationError as e:
            raise StoreError(
                f"run folder {str(root)!r} has no readable 'run.json', so what it refers to is "
                "unknown: give its specification, or run it first"
            ) from e
    for one in wanted:
        name = Path(identify_run(one, root).path).name
        stores.add(f"stores/{name}")
        sets.add(f"directions/{name}")
    return stores, sets


def _siblings(root: Path, stores: set[str]) -> set[str]:
    """Relative paths of the stores that hold large arrays of these stores' rows."""
    kept = {path.rpartition("-")[2] for path in stores}
    found = set()
    for path in root.glob("stores/*/zarr.json"):
        parent = parent_fp_of(read_json(path).get("attributes"))
        if parent is not None and parent[:12] in kept:
            found.add(path.parent.relative_to(root).as_posix())
    return found


def _folders(
    root: Path, folder: str, kind: str, kept: set[str], found: Collection
) -> Iterator[Artefact]:
    """Zarr groups in a folder that no run names."""
    for entry in _entries(root / folder, found):
        relative = f"{folder}/{entry.name}"
        if is_partial(entry) or entry.name.endswith(".lock"):
            continue
        if relative in kept:
            continue
        if entry.is_symlink():
            found.notes.append(f"{relative!r} is a link and is left alone")
        elif entry.is_dir() and (entry / "zarr.json").is_file():
            note = _imports(entry) if kind == "directions" else ""
            yield _artefact(root, entry, kind, note)
        else:
            found.notes.append(f"{relative!r} {STRANGER}")


def _imports(path: Path) -> str:
    """Directions that cannot be computed again."""
    try:
        names = [d.name for d in DirectionSet.load(path) if d.method in FOREIGN_METHODS]
    except LatentflowError:
        return ""
    return f"holds imported or transferred directions {names!r}" if names else ""


def _locks(root: Path, found: Collection) -> Iterator[Artefact]:
    """Lock files of processes that are gone, beside stores."""
    for entry in _entries(root / "stores", found):
        if entry.name.endswith(".lock") and _is(entry, stat.S_ISREG):
            if StoreLock(entry.with_suffix("")).holder() is None:
                yield _artefact(root, entry, "lock")


def _statistics(root: Path, sets: set[str], found: Collection) -> Iterator[Artefact]:
    """Saved statistics that no analysis of a kept set names among its facts."""
    used: set[str] = set()
    for path in sets:
        try:
            held = DirectionSet.load(root / path)
            models = [held.model_facts(name) for name in held.model_names()]
        except LatentflowError:
            continue
        used |= _strings(models)
    for entry in _entries(root / "statistics", found):
        if is_partial(entry) or {entry.name, entry.stem} & used:
            continue
        if entry.is_symlink():
            found.notes.append(f"'statistics/{entry.name}' is a link and is left alone")
            continue
        if not is_statistic(entry):
            found.notes.append(f"'statistics/{entry.name}' {STRANGER}")
            continue
        artefact = _artefact(root, entry, "statistics")
        if used or artefact.age_s >= DAY_S:
            yield artefact
        else:  # written by a run whose analyses do not say what they rest on
            found.young.append(artefact)


def _strings(value: Any) -> set[str]:
    """All strings in nested facts."""
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, dict) else value
    return set().union(*map(_strings, parts)) if isinstance(value, dict | list) else set()


def _partials(root: Path, kept: set[str]) -> Iterator[Artefact]:
    """Half-written files and folders, wherever they lie; not inside what goes as a whole."""
    gone = [root / "stores", root / "directions"]
    for folder, names, files in os.walk(root, followlinks=False):
        here = Path(folder)
        for name in sorted([*names, *files]):
            if is_partial(name) or (here == root and name in UNFINISHED):
                yield _artefact(root, here / name, "partial")
        names[:] = sorted(
            name
            for name in names
            if not is_partial(name)
            and not (here == root and name in UNFINISHED)
            and not (here in gone and f"{here.name}/{name}" not in kept)
        )


# ---------------------------------------------------------------------------------------------
# The disk


def _entries(folder: Path, found: Collection) -> list[Path]:
    """What lies in a folder of the run but hidden files; nothing when it is a link to elsewhere."""
    if folder.is_symlink():
        found.notes.append(f"{folder.name!r} is a link and is left alone")
        return []
    found_here = folder.iterdir() if folder.is_dir() else ()
    return sorted(entry for entry in found_here if not entry.name.startswith("."))


def _is(path: Path, kind: Any) -> bool:
    try:
        return bool(kind(path.lstat().st_mode))
    except OSError:
        return False


def _artefact(root: Path, path: Path, kind: str, note: str = "") -> Artefact:
    """Size and age of a file or folder; links inside count as themselves."""
    size, newest = 0, 0.0
    for place in _within(path):
        try:
            facts = place.lstat()
        except OSError:
            continue
        size += 0 if stat.S_ISDIR(facts.st_mode) else facts.st_size
        newest = max(newest, facts.st_mtime)
    relative = path.relative_to(root).as_posix()
    return Artefact(relative, kind, size, round(max(0.0, time.time() - newest), 3), note)


def _within(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for folder, names, files in os.walk(path, followlinks=False):
            for name in (*names, *files):
                yield Path(folder, name)


def _removed(root: Path, artefact: Artefact, found: Collection) -> bool:
    """Remove one artefact; False, with a note, when somebody uses it."""
    path = root / artefact.path
    if not path.parent.resolve().is_relative_to(root):
        found.notes.append(f"{artefact.path!r} lies outside the run folder and is left alone")
        return False
    try:
        with ExitStack() as held:
            if artefact.kind == "store":
                held.enter_context(StoreLock(path).acquire())
            _delete(path)
    except LockedError as e:
        found.notes.append(f"{artefact.path!r} is in use and is left alone: {e}")
        return False
    except OSError as e:
        found.notes.append(f"{artefact.path!r} cannot be removed: {e}")
        return False
    return True


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = path
    if not is_partial(path):
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
        os.rename(path, aside)
    shutil.rmtree(aside)
