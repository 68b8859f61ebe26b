"""The parts of a run that are kept up to date one by one, and the version of each.

A part is the index, inversion, one annotator, one analysis, the evaluation or the report. Its
version is a fingerprint: `held_versions` reads those of what is stored, `wanted_versions` works
out those that a run would store. No orchestration library is needed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.annotate import StageModel, plan_annotate, stages_of
from pipelines.index import update_index
from pipelines.invert import STAGE as INVERT
from pipelines.invert import StoreIdentity, identify, plan_invert
from pipelines.lineage import (
    READS_ANNOTATIONS,
    analysis_fp,
    evaluation_inputs,
    report_inputs,
    requested,
    rows_fp,
)
from pipelines.sources import open_source
from schemas.directions import DirectionSet
from schemas.errors import StoreError
from schemas.fingerprint import ContentHashCache, digest
from schemas.index import DatasetIndex
from schemas.spec import RunSpec
from schemas.store import LatentStore


@dataclass(frozen=True)
class Part:
    """name : "index", "invert", "annotate/<model>", "analyse/<analysis>", "evaluate", "report".
    stage : of `pipelines.run.STAGES`. reads : names of the parts it is computed from."""

    name: str
    stage: str
    reads: tuple[str, ...]


def parts_of(spec: RunSpec) -> list[Part]:
    """All parts of a run, each after those that it reads."""
    annotate = tuple(f"annotate/{model.name}" for model in spec.annotate)
    analyse = tuple(f"analyse/{name}" for name in requested(spec))
    found = [Part("index", "index", ()), Part("invert", "invert", ("index",))]
    found += [Part(name, "annotate", ("invert",)) for name in annotate]
    for name in requested(spec):
        measured = annotate if name in READS_ANNOTATIONS else ()
        found.append(Part(f"analyse/{name}", "analyse", ("invert", *measured)))
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


def wanted_versions(spec: RunSpec) -> dict[str, str | None]:
    """Version of every part as a run would store it now.

    None where that depends on a part that is itself to be made. Reads the dataset and the models,
    and writes nothing but the cache of content hashes. Raises what a run would raise.
    """
    return _Folder(spec).wanted()


def stale_parts(
    wanted: Mapping[str, str | None], *known: Mapping[str, str | None]
) -> dict[str, str]:
    """Parts to make, with the reason: "missing", "changed", or "reads what is to be made".

    known : versions as stored, and as an engine recorded them; a part is current when all agree.
    """
    found = {}
    for name, version in wanted.items():
        have = [versions.get(name) for versions in known]
        if version is None:
            found[name] = "reads what is to be made"
        elif None in have:
            found[name] = "missing"
        elif any(old != version for old in have):
            found[name] = "changed"
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
        self.identity = identify(
            self.out / "stores",
            spec.invert,
            name=spec.name,
            seed=spec.seed,
            generator_uri=spec.generator,
            encoder_uri=spec.encoder,
        )
        exists = Path(self.identity.path, "zarr.json").exists()
        self.store = LatentStore.open(self.identity.path) if exists else None
        self.models = stages_of(spec.annotate, trust=True)

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
        elif (self.out / "evaluation.npz").exists():
            found["evaluate"] = _json_value(self.out / "evaluation.json", "fingerprint")
        if (self.out / "report.html").exists():
            made_of = _json_value(self.out / "report.json", "inputs")
            found["report"] = None if made_of is None else digest(made_of)
        return found

    def wanted(self) -> dict[str, str | None]:
        spec, held = self.spec, self.held()
        found: dict[str, str | None] = dict.fromkeys(held)
        index = self._updated_index()
        found["index"] = rows_fp(index)
        blocks = b"".join(plan_invert(index, self.identity, spec.invert.max_pixels).fps)
        found["invert"] = _stages_version(self.identity, {INVERT: blocks})
        store = self.store
        if store is None or held["invert"] != found["invert"]:
            return found
        fps = plan_annotate(index, store, self.models, spec.invert.max_pixels).fps
        for model in spec.annotate:
            read = {s.name: b"".join(fp or b"" for fp in fps[s.name]) for s in
                    self._stages(model.name)}  # fmt: skip
            found[f"annotate/{model.name}"] = _stages_version(self.identity, read)
        current = {name for name, version in found.items() if version == held[name] is not None}
        for part in parts_of(spec):
            if part.stage == "analyse" and current >= {*part.reads}:
                name = part.name.removeprefix("analyse/")
                found[part.name] = analysis_fp(name, spec, store, index)
                if found[part.name] == held[part.name]:
                    current.add(part.name)
        directions = self._directions()
        if not current >= {part.name for part in parts_of(spec) if part.stage == "analyse"}:
            return found
        if not current >= {part.name for part in parts_of(spec) if part.stage == "annotate"}:
            return found
        if directions is None:
            found["evaluate"] = _no_directions(self.identity)
        else:
            found["evaluate"] = digest(evaluation_inputs(spec, store, index, directions))
        if found["evaluate"] == held["evaluate"]:
            found["report"] = digest(report_inputs(spec, index, self.out))
        return found

    def _updated_index(self) -> DatasetIndex:
        existing = DatasetIndex.empty() if self.index is None else self.index
        spec = self.spec
        source = open_source(spec.dataset)
        pixels = spec.invert.max_pixels
        if not self.out.exists():
            return update_index(existing, source, spec.dataset, max_pixels=pixels)[0]
        with ContentHashCache(self.out / "hashes.sqlite") as cache:
            return update_index(existing, source, spec.dataset, max_pixels=pixels, cache=cache)[0]

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


def _json_value(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_text())[key]
    except (OSError, ValueError, KeyError):
        return None
