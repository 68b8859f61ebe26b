"""The analyses of a run, each computed only when what it reads, or how, has changed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.analyses.catalog import ANALYSES, analysis_of, problems_of, requested
from pipelines.analyses.checks import refuse
from pipelines.analyses.inputs import Data, Fitted, measure_sd
from pipelines.engine.saved_sums import SavedStatistics
from pipelines.engine.scratch import ScratchEngine
from pipelines.folder.store_identity import INVERT
from pipelines.runs.lineage import Inputs, compare_analyses, known_of, unchanged
from schemas.directions.direction import Direction
from schemas.directions.direction_set import FOREIGN_METHODS, DirectionSet
from schemas.errors import DataError, PluginError, StoreError
from schemas.fingerprint import canonical_json, digest, with_nulls
from schemas.index import DatasetIndex
from schemas.spec import RunSpec
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Status
from transforms.accumulate.passes import Engine, Statistics
from transforms.inversion.stored import stored_space


def fit_analysis(
    name: str, spec: RunSpec, store: LatentStore, index: DatasetIndex, engine: Statistics
) -> tuple[Fitted, Data]:
    """What an analysis makes of a store, and all that it could reach of it.

    Raises SpecError where the data cannot give what its section asks for, DataError where they do
    not define a result, PluginError for an analysis of another package that fails or gives
    something else.
    """
    known = known_of(spec, store, index)
    refuse(problems_of(known, name))
    analysis, own = analysis_of(name), getattr(spec.analyse, name)
    data = Data.of(analysis, own, known, store, engine)
    with ANALYSES.blamed(name, "fit"):
        fitted = analysis.fit(data, own)
    for wrong in _garbage(fitted, data):
        raise PluginError(f"analysis {name!r} gives {wrong}: repair its package")
    return fitted, data


def _garbage(fitted: object, data: Data) -> Iterator[str]:
    """What of a fit's result cannot be stored."""
    if not isinstance(fitted, Fitted):
        yield f"{type(fitted).__name__!r} in 'fit', expected 'Fitted'"
        return
    for direction in fitted.directions:
        if not isinstance(direction, Direction):
            yield f"{type(direction).__name__!r} among its directions, expected 'Direction'"
        elif direction.shape != data.spaces.get(direction.space, direction.shape):
            space, shape = direction.space, data.spaces[direction.space]
            yield (
                f"direction {direction.name!r} of shape {direction.shape!r}, and codes of "
                f"{space!r} have {shape!r}"
            )
    for name, array in fitted.arrays.items():
        if np.asarray(array).dtype.kind not in "biuf":
            yield f"{type(array).__name__!r} under {name!r} of its model, expected numbers"
    try:
        canonical_json(with_nulls(fitted.facts))
    except DataError as e:
        yield f"facts that are no JSON ({e})"


def analyse(
    spec: RunSpec,
    store: LatentStore,
    index: DatasetIndex,
    generator_fp: str,
    path: Path,
    engine: Engine,
    progress: Callable[[int, int], None] = lambda done, total: None,
    statistics: Path | None = None,
    check: Callable[[], None] = lambda: None,
    only: Container[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Compute the stale analyses and write their directions and models into the set at `path`.

    Directions and models of analyses that are no longer asked for are taken out. Statistics are
    kept in `statistics` (default: nowhere), so that the next solve reads only what is new. Returns
    for every requested analysis its seconds, whether it was skipped, and its facts. Killed at any
    moment, the next call computes again what was not finished: a model's fingerprint is written
    last. check : called before anything is written; raises when the run may not go on.
    only : analyses to look at, by default all that are requested.
    """
    if not (store.status(INVERT) == Status.OK).any():
        raise DataError(
            f"no row of store {store.path!r} has a code, so nothing can be analysed: see the "
            "reasons in 'run.json', and repair or replace the images"
        )
    found = compare_analyses(spec, store, index, path)
    scratch = ScratchEngine.beside(engine, path)
    kept = None if statistics is None else SavedStatistics(scratch, statistics)
    directions = _existing(path, generator_fp, stored_space(store))
    report: dict[str, dict[str, Any]] = {}
    chosen = [name for name in requested(spec) if only is None or name in only]
    for done, name in enumerate(chosen):
        progress(done, len(chosen))
        scratch.expect(later={key for n in chosen[done + 1 :] for key in _made_by(found.stale, n)})
        if name not in found.stale:
            report[name] = unchanged(found.held[name])
            continue
        started = time.monotonic()
        try:
            fitted, data = fit_analysis(name, spec, store, index, kept or scratch)
            unmeasured = [d for d in fitted.directions if d.sd == 0]
            measured = measure_sd(data, unmeasured) if unmeasured else []
        except BaseException:
            scratch.expect(later=())
            raise
        finally:
            scratch.clear()
        sds = {d.name: sd for d, sd in zip(unmeasured, measured, strict=True)}
        fingerprint = digest(found.stale[name])
        provenance = {"analysis": name, "fingerprint": fingerprint}
        fitted.directions = [
            dataclasses.replace(
                d, sd=sds.get(d.name, d.sd), provenance={**d.provenance, **provenance}
            )
            for d in fitted.directions
        ]
        check()
        directions = _replaced(directions, name, fitted, requested(spec))
        directions.save(path)
        attrs = {
            **with_nulls(fitted.facts),
            "left_out": data.left_out(),
            "inputs": found.stale[name],
            "statistics": [] if kept is None else kept.take_names(),
            "fingerprint": fingerprint,
        }
        directions.save_model(name, fitted.arrays, attrs)
        work = {} if kept is None else kept.take_work()
        seconds = time.monotonic() - started
        report[name] = {**unchanged(attrs), **work, "seconds": seconds, "skipped": False}
    if found.dropped:
        check()
        _replaced(directions, "", Fitted(), requested(spec)).save(path)
        for name in found.dropped:
            DirectionSet.load(path).delete_model(name)
    progress(len(chosen), len(chosen))
    return report


def _made_by(stale: Mapping[str, Inputs], name: str) -> Iterator[str]:
    """Keys of the conversions that an analysis which is to be computed reads."""
    for conversion in stale.get(name, {}).get("derived", {}).values():
        yield digest(conversion)


def _existing(path: Path, generator_fp: str, space: str) -> DirectionSet:
    try:
        return DirectionSet.load(path)
    except StoreError:
        return DirectionSet(generator_fp, space, DirectionSet.foreign_in(path))


def _replaced(old: DirectionSet, name: str, fitted: Fitted, wanted: list[str]) -> DirectionSet:
    """The set with the analysis' directions renewed, in the order of the specification, and then
    the imported and transferred ones."""
    foreign = [d for d in old if d.method in FOREIGN_METHODS]
    kept = [
        d
        for d in old
        if d.provenance.get("analysis") != name and d.provenance.get("analysis") in wanted
    ]
    ordered = sorted(
        [*kept, *fitted.directions],
        key=lambda d: wanted.index(d.provenance.get("analysis", name)),
    )
    return DirectionSet(old.generator_fp, old.space, [*ordered, *foreign])
