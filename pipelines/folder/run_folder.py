"""What a run left in its folder, read for the report. Nothing outside the folder is read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from pipelines.folder.likeness import likeness, likenesses
from pipelines.folder.qualities import Quality, quality_told, stored_qualities
from pipelines.folder.store_identity import INVERT
from pipelines.sources.base import RUN_FILES
from schemas.directions.direction_set import DirectionSet
from schemas.errors import InputError, LatentflowError, StoreError
from schemas.index import DatasetIndex
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Reason, Status, describe

T = TypeVar("T")

#: Names shown for one reason in the list of rows left out.
MAX_EXAMPLES = 6


@dataclass(frozen=True)
class LeftOut:
    """Rows that one stage set aside for one reason. examples : uris of the first few."""

    stage: str
    reason: str
    meaning: str
    rows: int
    examples: list[str]


def no_run(folder: Path, otherwise: str = "") -> str:
    """Why there is no ``run.json`` where a run should have written, and what to do.

    otherwise : another cure, where the folder may be the wrong one.
    """
    if any((folder / name).exists() for name in RUN_FILES):
        return (
            f"the first run in {str(folder)!r} has not ended, there is no 'run.json' yet: wait for "
            "it, or run the specification again where it was interrupted"
        )
    lacks = "it has no 'run.json'" if folder.is_dir() else "which does not exist"
    return (
        f"there is no run in {str(folder)!r}, {lacks}: run the specification that "
        "writes there first, with 'latentflow run'" + (otherwise and f", {otherwise}")
    )


@dataclass
class RunFolder:
    """A run folder as read by ``open``; use it as a context manager.

    run : run.json. evaluation : evaluation.json, {} without one. absent : part -> why it could not
    be read, for parts that are missing or damaged.
    """

    path: Path
    run: dict[str, Any]
    evaluation: dict[str, Any] = field(default_factory=dict)
    index: DatasetIndex | None = None
    index_report: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    store: LatentStore | None = None
    directions: DirectionSet | None = None
    absent: dict[str, str] = field(default_factory=dict)
    _pictures: Any = None

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Read the folder. Raises InputError when it has no readable run.json; any other part that
        is missing or damaged is noted in ``absent``."""
        path = Path(path)
        run_file = path / "run.json"
        if not run_file.is_file():
            raise InputError(no_run(path))
        found = cls(path, _json(run_file))
        found.index = found._part("index", "index.parquet", DatasetIndex.load)
        found.store = found._part("store", None, LatentStore.open)
        found.directions = found._part("directions", None, DirectionSet.load)
        found.evaluation = found._part("evaluation", "evaluation.json", _json) or {}
        found.index_report = found._part("index_report", "index_report.json", _json) or {}
        found.summary = found._part("summary", "summary.json", _json) or {}
        found._pictures = found._part("pictures", "evaluation.npz", _npz)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pictures is not None:
            self._pictures.close()

    def _part(self, name: str, default: str | None, read: Any) -> Any:
        relative = self.run.get(name) or default
        if not isinstance(relative, str):
            self.absent[name] = "the run did not get that far"
            return None
        root = self.path.resolve()
        target = (root / relative).resolve()
        if not target.is_relative_to(root):
            self.absent[name] = f"run.json names {relative!r}, which is outside the run folder"
        elif not target.exists():
            self.absent[name] = f"the run folder has no {relative!r}"
        else:
            try:
                return read(target)
            except LatentflowError as e:
                self.absent[name] = str(e).replace(str(root) + "/", "").replace(str(root), ".")
        return None

    # ---- parts ------------------------------------------------------------------------------

    def needed(self, name: str, part: T | None) -> T:
        """The part of this name. Raises StoreError where it is absent."""
        if part is None:
            raise StoreError(
                f"run {self.run.get('name')!r} has no {name}: {self.absent.get(name, 'missing')}; "
                "run it first with 'latentflow run'"
            )
        return part

    def pictures(self, name: str) -> np.ndarray | None:
        """An array of evaluation.npz, uint8 (..., R, R, 3); None when there is none such."""
        if self._pictures is None or name not in self._pictures.files:
            return None
        try:
            value = np.asarray(self._pictures[name])
        except (ValueError, OSError, zipfile.BadZipFile):  # object arrays, damaged members
            return None
        fits = value.dtype == np.uint8 and value.ndim >= 4 and value.shape[-1] == 3
        return value if fits and 0 not in value.shape else None

    def model(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A fitted model of the direction set, ({}, {}) when there is none."""
        if self.directions is None or name not in self.directions.model_names():
            return {}, {}
        return self.directions.load_model(name)

    def likenesses(self) -> list[str]:
        """Annotators of embeddings, each of which gives a `quality`: the cosine of original and
        render."""
        if self.store is None:
            return []
        stages = self.stages()
        return [name for name in likenesses(self.store) if name in stages]

    def qualities(self) -> dict[str, Quality]:
        """How every `quality` is told, in order: inversion's own, then `likenesses`."""
        own = [] if self.store is None else stored_qualities(self.store)
        return {name: quality_told(name) for name in own} | {
            name: Quality(f"cosine of {name.replace('_', ' ')}", 3, "", True, True)
            for name in self.likenesses()
        }

    def quality(self, metric: str) -> np.ndarray:
        """float64 (m,): a metric of all rows that inversion finished, without missing values."""
        if self.store is not None and metric in self.likenesses():
            found = [likeness(self.store, metric, b) for b in range(self.store.n_blocks)]
            every = np.concatenate(found)
            return every[np.isfinite(every)]
        name = f"quality/{metric}"
        if self.store is None or "invert" not in self.store.stages():
            return np.empty(0)
        if name not in self.store.arrays("invert"):
            return np.empty(0)
        blocks = range(self.store.n_blocks)
        parts = [self.store.ok_rows([name], b, ["invert"]).arrays[name] for b in blocks]
        values = np.concatenate([np.empty(0), *parts]).astype(np.float64)
        return values[np.isfinite(values)]

    def stages(self) -> list[str]:
        """The store's stages that the run's specification asks for, inversion first.

        Of an annotator that was taken out of the specification, nothing is kept up to date.
        """
        held = [] if self.store is None else self.store.stages()
        try:
            wanted = {INVERT}
            for model in self.run["spec"]["annotate"]:
                wanted |= {model["name"], f"{model['name']}@render"} if model["render"] else {
                    model["name"]
                }  # fmt: skip
        except (KeyError, TypeError):
            wanted = set(held)
        return sorted(wanted & set(held), key=lambda stage: (stage != INVERT, stage))

    def left_out(self) -> list[LeftOut]:
        """Quarantined rows, each counted at the first stage that set it aside."""
        if self.store is None:
            return []
        stages = self.stages()
        uris = self.index.uris if self.index is not None else []
        seen = np.zeros(self.store.n_rows, dtype=bool)
        found: list[LeftOut] = []
        for stage in stages:
            fresh = (self.store.status(stage) == Status.QUARANTINED) & ~seen
            seen |= fresh
            reasons = self.store.reason(stage)
            for reason in np.unique(reasons[fresh]):
                rows = np.flatnonzero(fresh & (reasons == reason))
                names = [uris[row] for row in rows[:MAX_EXAMPLES] if row < len(uris)]
                found.append(
                    LeftOut(stage, _reason_name(int(reason)), describe(reason), len(rows), names)
                )
        return found


def _reason_name(reason: int) -> str:
    return Reason(reason).name.lower() if reason in set(Reason) else str(reason)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"{path.name!r} cannot be read: {e}; run the pipeline again") from e
    if not isinstance(value, Mapping):
        raise InputError(
            f"{path.name!r} holds {type(value).__name__!r}, not an object; run the pipeline again"
        )
    return dict(value)


def _npz(path: Path) -> Any:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as e:
        raise StoreError(f"{path.name!r} cannot be read: {e}; run the evaluation again") from e
    if not isinstance(found, np.lib.npyio.NpzFile):
        raise StoreError(f"{path.name!r} is not an npz file; run the evaluation again")
    return found
