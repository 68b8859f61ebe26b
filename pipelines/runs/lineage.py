"""What every result was computed from: inputs, their fingerprint, and what changed between two.

The inputs of an analysis are a small JSON value that lies beside the result; its digest is the
analysis' fingerprint. So a plan can tell not only that something is stale, but from what to what.
Imports nothing heavy.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.analyses.base import Known
from pipelines.analyses.catalog import ANALYSES, analysis_of, requested, selected
from pipelines.analyses.measured import Measured, measurements
from pipelines.analyses.spaces import Spaces, conversions, facts_of
from pipelines.evaluation.files import finished_fingerprint, inputs_in_effect
from pipelines.folder.checksums import intact, noted
from pipelines.folder.likeness import embedding_stages
from pipelines.folder.store_identity import INVERT
from schemas.atomic import read_json, write_json
from schemas.directions.direction_set import DirectionSet
from schemas.errors import PluginError, StoreError
from schemas.fingerprint import digest
from schemas.index import DatasetIndex
from schemas.spec import RunSpec
from schemas.store.latent_store import LatentStore

EVALUATE_VERSION = 2
FILE = "lineage.json"
SHOWN = 12
SHOWN_TEXT = 60
COMPARED = 1000
"""Longest list whose entries are compared one by one."""

LATENTS = "latents/"

Inputs = dict[str, Any]


# ---------------------------------------------------------------------------------------------
# What an analysis reads


def known_of(spec: RunSpec, store: LatentStore, index: DatasetIndex) -> Known:
    """What is known of a store before an array of it is read."""
    codes = [name for name in store.arrays(INVERT) if name.startswith(LATENTS)]
    shapes = {name.removeprefix(LATENTS): tuple(store.array(name).shape[1:]) for name in codes}

    def measured(kind: str, labels: str) -> list[Measured]:
        return measurements(store, spec.annotate, kind, labels)

    generator_fp = str(store.attrs.get("generator_fp"))
    spaces = Spaces(shapes, lambda: facts_of(spec.generator, generator_fp))
    return Known(spec, index, spaces, measured)


def analysis_inputs(name: str, spec: RunSpec, store: LatentStore, index: DatasetIndex) -> Inputs:
    """Version, parameters, factors and, of every stage that it reads, what the blocks hold.

    All analyses read the codes, for the standard deviation along their directions at least.
    """
    analysis, own = analysis_of(name), getattr(spec.analyse, name)
    known = known_of(spec, store, index)
    chosen = selected(known, name)
    with ANALYSES.blamed(name, "parameters"):
        parameters = dict(analysis.parameters(known, own))
    twice = sorted(set(parameters) & set(chosen.parameters))
    if twice:
        raise PluginError(
            f"analysis {name!r} selects parameters {twice!r}, which are keys of its section: name "
            "them otherwise"
        )
    stages = {INVERT, *(m.stage for m in chosen.measured)}
    read = {known.space(own), *chosen.spaces}
    derived = {name: c.inputs() for name, c in conversions(known, store, sorted(read)).items()}
    return {
        "analysis": name,
        "version": analysis.version,
        "parameters": {**parameters, **chosen.parameters},
        "factors": {n: index.factor_fp(n) for n in sorted(chosen.factors & set(index.factors))},
        "store": store.store_fp,
        "blocks": {stage: store.contents(stage) for stage in sorted(stages)},
        **({"derived": derived} if derived else {}),
    }


def analysis_fp(name: str, spec: RunSpec, store: LatentStore, index: DatasetIndex) -> str:
    """Fingerprint of an analysis: the digest of its inputs."""
    return digest(analysis_inputs(name, spec, store, index))


@dataclass(frozen=True)
class Analyses:
    """What the analyses of a direction set are, against what the specification asks for.

    wanted : requested analyses -> inputs now
    held : facts of every complete model of the set
    stale : requested analyses that are missing or were computed from something else -> inputs now
    dropped : analyses of the set that are no longer asked for
    directions : the set, None where there is no whole one
    """

    wanted: dict[str, Inputs]
    held: dict[str, dict[str, Any]]
    stale: dict[str, Inputs]
    dropped: tuple[str, ...]
    directions: DirectionSet | None

    @property
    def current(self) -> bool:
        """Nothing is to be done."""
        return not self.stale and not self.dropped


def compare_analyses(
    spec: RunSpec, store: LatentStore, index: DatasetIndex, path: Path
) -> Analyses:
    """The set at `path` against the specification; without a whole set everything is stale."""
    names = requested(spec)
    wanted = {name: analysis_inputs(name, spec, store, index) for name in names}
    found: DirectionSet | None = None
    try:
        found = DirectionSet.load(path)
        held = {name: found.model_facts(name) for name in found.model_names()}
        made = {str(d.provenance["analysis"]) for d in found if "analysis" in d.provenance}
    except StoreError:
        found, held, made = None, {}, set()
    stale = {
        name: inputs
        for name, inputs in wanted.items()
        if held.get(name, {}).get("fingerprint") != digest(inputs)
    }
    return Analyses(wanted, held, stale, tuple(sorted((made | set(held)) - set(names))), found)


def unchanged(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a run reports of an analysis that it did not compute. facts : of its model."""
    without = facts.get("skipped", {})
    return {**facts, "seconds": 0.0, "skipped": True, "without_direction": without}


def evaluation_inputs(
    spec: RunSpec, store: LatentStore, index: DatasetIndex, directions: DirectionSet
) -> Inputs:
    """What the evaluation is computed from: of each direction, what its effect depends on, and of
    the specification what changes a number (`inputs_in_effect`)."""
    # named where it is not the default, with which it was always drawn
    noise = spec.invert.noise_mode
    vectors = embedding_stages(store)
    found = {
        **({"likeness": vectors} if vectors else {}),
        **({} if noise == "const" else {"noise": noise}),
        "version": EVALUATE_VERSION,
        "evaluate": spec.evaluate.model_dump(mode="json"),
        "report": spec.report.model_dump(mode="json"),
        "seed": spec.evaluate_seed,
        "annotate": [a.model_dump(mode="json", exclude={"model", "of"}) for a in spec.annotate],
        "directions": {
            d.name: digest(
                [
                    [d.name, d.method, d.space, d.sd, d.layers, d.provenance.get("target")],
                    d.vector_sha256 if d.single else np.ascontiguousarray(d.vector).tobytes(),
                ]
            )
            for d in directions
        },
        "models": {
            name: directions.model_facts(name).get("fingerprint")
            for name in directions.model_names()
        },
        "factors": {name: index.factor_fp(name) for name in index.factors},
        "store": store.store_fp,
        "blocks": {stage: store.contents(stage) for stage in store.stages()},
    }
    return inputs_in_effect(found)


def report_inputs(
    spec: RunSpec, index: DatasetIndex, out: Path, listed: Mapping[str, Any]
) -> Inputs:
    """What the report is made of, beside run.json: times and counts there change with any stage.

    listed : what index_report.json says, or will say
    """
    evaluation = finished_fingerprint(out)
    own = spec.report.model_dump(mode="json")
    told = {f"dataset.{key}": listed[key] for key in ("left_out", "notes") if listed.get(key)}
    return {"evaluation": evaluation, "index": rows_fp(index), "report": own, **told}


def table_fp(store: LatentStore, index: DatasetIndex) -> str:
    """Identity of the table of annotations: the store's blocks, the rows, and where they lie."""
    blocks = {stage: store.contents(stage) for stage in store.stages()}
    return digest([store.store_fp, blocks, rows_fp(index), index.uris])


@functools.lru_cache(maxsize=2)
def rows_fp(index: DatasetIndex) -> str:
    """Identity of the index's rows and factors; where the files lie does not enter."""
    factors = {name: index.factor_fp(name) for name in index.factors}
    return digest([index.identity(), factors])


# ---------------------------------------------------------------------------------------------
# What finished stages were computed from


def read_lineage(out: Path) -> dict[str, Any]:
    """What the run's stages noted when they were last finished; empty without the file."""
    return read_json(out / FILE) if intact(out, FILE) else {}


def note_lineage(out: Path, **stages: Any) -> None:
    """Note the inputs of finished stages beside what is noted already."""
    known = read_lineage(out)
    if known != known | stages:
        with noted(out, FILE):
            write_json(out / FILE, known | stages)


# ---------------------------------------------------------------------------------------------
# What changed


def changes(old: Any, new: Any, block_rows: int, n_rows: int, where: str = "") -> list[str]:
    """Differences of two inputs, one line each: 'parameters.n_components: 16 -> 12'."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in [*new, *(k for k in old if k not in new)]:
            path = f"{where}.{key}" if where else str(key)
            if where == "blocks":
                was, now = old.get(key, []), new.get(key)
                line = "no longer read"
                if now is not None:
                    line = changed_blocks(was, now, block_rows, n_rows)
                lines += [f"{key}: {line}"] if line else []
            else:
                lines += changes(old.get(key), new.get(key), block_rows, n_rows, path)
        return lines
    if isinstance(old, list) and isinstance(new, list) and max(len(old), len(new)) <= COMPARED:
        if len(json.dumps([old, new])) > SHOWN_TEXT:  # of long lists what differs
            apart = [v for v in old if v not in new], [v for v in new if v not in old]
            old, new = apart if any(apart) else (old, new)
    return [] if old == new else [f"{where}: {shown(old)} -> {shown(new)}"]


def changed_blocks(old: Sequence[str], new: Sequence[str], block_rows: int, n_rows: int) -> str:
    """'2 of 20 blocks (rows 4864-5119)' for blocks that are not as they were; '' without any."""
    different = [i for i, held in enumerate(new) if i >= len(old) or old[i] != held]
    if not different:
        return ""
    return f"{len(different)} of {len(new)} blocks ({rows_of(different, block_rows, n_rows)})"


def rows_of(blocks: Iterable[int], block_rows: int, n_rows: int) -> str:
    """'rows 0-255, 512-599' of some blocks."""
    rows = [row for b in blocks for row in (b * block_rows, min((b + 1) * block_rows, n_rows) - 1)]
    spans: list[tuple[int, int]] = []
    for first, last in zip(rows[::2], rows[1::2], strict=True):
        if spans and spans[-1][1] + 1 == first:
            spans[-1] = (spans[-1][0], last)
        else:
            spans.append((first, last))
    return numbers(spans)


def row_spans(rows: np.ndarray) -> str:
    """'rows 3, 7-9' of single rows, ascending."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    parts = [part for part in np.split(rows, cuts) if len(part)]
    return numbers([(int(part[0]), int(part[-1])) for part in parts])


def numbers(spans: Sequence[tuple[int, int]]) -> str:
    """Spans of rows as text, the first few of them."""
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in spans[:SHOWN]]
    more = [f"{len(spans) - SHOWN} more ranges"] if len(spans) > SHOWN else []
    return f"rows {', '.join([*texts, *more])}"


def shown(value: Any) -> str:
    """A value on one line: fingerprints by their first 12 digits, long ones cut."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) in (32, 64) and all(c in "0123456789abcdef" for c in text):
        return text[:12]
    return text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 3] + "..."
