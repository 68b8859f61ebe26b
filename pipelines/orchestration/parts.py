"""The parts of a run that are kept up to date one by one, and the version of each.

A part is the index, inversion, one annotator, one analysis, the evaluation or the report. Its
version is a fingerprint, read by `held_versions` from what is stored; what a run would make of them
`stale_parts` tells. No orchestration library is needed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.analyses.catalog import requested
from pipelines.evaluation.files import finished_fingerprint
from pipelines.folder.store_identity import INVERT, StoreIdentity, identify_run
from pipelines.runs.check import reads_annotations
from pipelines.runs.lineage import rows_fp
from pipelines.runs.plan import CURRENT, plan_stages
from pipelines.stages.annotate import StageModel, stages_of
from schemas.atomic import read_json
from schemas.directions.direction_set import DirectionSet
from schemas.errors import StoreError
from schemas.fingerprint import digest
from schemas.index import DatasetIndex
from schemas.spec import RunSpec
from schemas.store.latent_store import LatentStore


@dataclass(frozen=True)
class Part:
    """name : "index", "invert", "annotate/<model>", "analyse/<analysis>", "evaluate", "report".
    stage : of `pipelines.runs.run.STAGES`. reads : names of the parts it is computed from."""

    name: str
    stage: str
    reads: tuple[str, ...]


def parts_of(spec: RunSpec) -> list[Part]:
    """All parts of a run, each after those that it reads."""
    annotate = tuple(f"annotate/{model.name}" for model in spec.annotate)
    analyse = tuple(f"analyse/{name}" for name in requested(spec))
    found = [Part("index", "index", ()), Part("invert", "invert", ("index",))]
    found += [Part(name, "annotate", ("invert",)) for name in annotate]
    for name, measured in reads_annotations(spec).items():
        read = ("invert", *annotate) if measured else ("invert",)
        found.append(Part(f"analyse/{name}", "analyse", read))
    found.append(Part("evaluate", "evaluate", ("invert", *annotate, *analyse)))
    found.append(Part("report", "report", ("index", "evaluate")))
    return found


def needed_for(spec: RunSpec, names: Sequence[str]) -> set[str]:
    """The given parts and all parts that they are computed from, directly or not."""
    by_name = {part.name: part for part in parts_of(spec)}
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += by_name[name].reads
    return found


def held_versions(spec: RunSpec) -> dict[str, str | None]:
    """Version of every part as stored for the present models; None for what is not there."""
    return _Folder(spec).held()


def stale_parts(spec: RunSpec, recorded: Mapping[str, str | None]) -> dict[str, str]:
    """Parts to make, in order, with the reason: "missing", "stale", or "unknown".

    What is missing or stale `pipelines.runs.plan` tells. recorded : versions that an engine knows
    of; "unknown" is what is stored and current, but not in the version that the engine knows of.
    Reads the dataset and the models, and writes nothing. Raises what a run would raise.
    """
    states: dict[str, list[str]] = {}
    for stage in plan_stages(spec):
        if stage.name not in ("annotate", "analyse"):
            states[stage.name] = [stage.state]
        for part in stage.parts:
            name = f"{stage.name}/{part.name.removesuffix('@render')}"
            states.setdefault(name, []).append(part.state)
    held, found = held_versions(spec), {}
    for name in (part.name for part in parts_of(spec)):
        other = [state for state in states[name] if state != CURRENT]
        if other:
            found[name] = other[0]
        elif held[name] is None or recorded.get(name) != held[name]:
            found[name] = "unknown"
    return found


def block_count(spec: RunSpec) -> int:
    """Row blocks of the run's store for the index as saved, 0 without one."""
    folder = _Folder(spec)
    rows = 0 if folder.index is None else folder.index.n_rows
    return -(-rows // folder.identity.block_rows)


def block_versions(spec: RunSpec, blocks: range) -> str | None:
    """Version of a range of blocks of inversion and all annotators; None while one is missing."""
    folder = _Folder(spec)
    if folder.store is None:
        return None
    stages = [INVERT, *(stage.name for stage in folder.models)]
    if not set(stages) <= set(folder.store.stages()):
        return None
    commits = {stage: folder.store.committed(stage)[blocks.start : blocks.stop] for stage in stages}
    if any(len(c) < len(blocks) or not c.any(axis=1).all() for c in commits.values()):
        return None
    return _stages_version(folder.identity, {s: c.tobytes() for s, c in commits.items()})


class _Folder:
    """A run's folder and the models of its specification, read once."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.out = Path(spec.output_path)
        path = self.out / "index.parquet"
        self.index = DatasetIndex.load(path) if path.exists() else None
        self.identity = identify_run(spec, self.out)
        exists = Path(self.identity.path, "zarr.json").exists()
        self.store = LatentStore.open(self.identity.path) if exists else None
        self.models = stages_of(spec.annotate, trust=True, sampled=spec.dataset.sampled)

    def held(self) -> dict[str, str | None]:
        found: dict[str, str | None] = dict.fromkeys(part.name for part in parts_of(self.spec))
        if self.index is not None:
            found["index"] = rows_fp(self.index)
        if self.store is None:
            return found
        have = set(self.store.stages())
        if INVERT in have:
            commits = self.store.committed(INVERT).tobytes()
            found["invert"] = _stages_version(self.identity, {INVERT: commits})
        for model in self.spec.annotate:
            names = self._stages(model.name)
            if {stage.name for stage in names} <= have:
                read = {s.name: self.store.committed(s.name).tobytes() for s in names}
                found[f"annotate/{model.name}"] = _stages_version(self.identity, read)
        directions = self._directions()
        for name in requested(self.spec):
            if directions is not None and name in directions.model_names():
                found[f"analyse/{name}"] = directions.model_facts(name).get("fingerprint")
        if directions is None and not requested(self.spec):
            found["evaluate"] = _no_directions(self.identity)
        else:
            found["evaluate"] = finished_fingerprint(self.out)
        if (self.out / "report.html").exists():
            made_of = read_json(self.out / "report.json").get("inputs")
            found["report"] = None if made_of is None else digest(made_of)
        return found

    def _stages(self, model: str) -> list[StageModel]:
        return [s for s in self.models if s.name.removesuffix("@render") == model]

    def _directions(self) -> DirectionSet | None:
        try:
            return DirectionSet.load(self.out / "directions" / Path(self.identity.path).name)
        except StoreError:
            return None


def _stages_version(identity: StoreIdentity, commits: Mapping[str, bytes]) -> str:
    return digest(["blocks", identity.store_fp, dict(commits)])


def _no_directions(identity: StoreIdentity) -> str:
    return digest(["evaluate", "no directions", identity.store_fp])
