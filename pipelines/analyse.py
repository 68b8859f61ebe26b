"""The analyses of a run, each computed only when what it reads, or how, has changed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from pipelines.fits.channels import fit_s_space
from pipelines.fits.components import fit_pca
from pipelines.fits.differences import fit_mean_differences
from pipelines.fits.hyperplanes import fit_hyperplanes
from pipelines.fits.inputs import Engine, Fitted, Inputs, hold_out, measure_sd
from pipelines.fits.shape import fit_nrsfm
from pipelines.fits.tensor import fit_hosvd
from pipelines.fits.weights import fit_jacobian, fit_sefa
from schemas.directions import DirectionSet
from schemas.errors import StoreError, UsageError
from schemas.fingerprint import digest
from schemas.index import CATEGORICAL, CONTINUOUS, DatasetIndex
from schemas.spec import RunSpec
from schemas.store import LatentStore

ANALYSE_VERSION = 1

FITS: dict[str, Callable[[Inputs], Fitted]] = {
    "pca": fit_pca,
    "mean_difference": fit_mean_differences,
    "svm": fit_hyperplanes,
    "hosvd": fit_hosvd,
    "nrsfm": fit_nrsfm,
    "sefa": fit_sefa,
    "jacobian": fit_jacobian,
    "s_space": fit_s_space,
}
"""Every analysis by its section of the specification, in the order in which they run."""

READS_NO_ANNOTATION = frozenset({"pca", "hosvd", "sefa", "jacobian"})


def requested(spec: RunSpec) -> list[str]:
    """Analyses that the specification asks for, in order."""
    return [name for name in FITS if getattr(spec.analyse, name) is not None]


def analysis_fp(name: str, spec: RunSpec, store: LatentStore, index: DatasetIndex) -> str:
    """What an analysis is computed from: version, parameters, factors, the blocks it reads.

    An analysis that reads measurements depends on the commits of every annotation stage.
    """
    stages = ["invert"]
    if name not in READS_NO_ANNOTATION:
        stages += sorted(s for s in store.stages() if s != "invert")
    parameters: dict[str, Any] = {"own": getattr(spec.analyse, name).model_dump(mode="json")}
    if name in ("mean_difference", "hosvd"):
        md = spec.analyse.mean_difference
        parameters["baseline"] = md.baseline if md is not None else {}
        kinds = (CATEGORICAL, CONTINUOUS) if name == "mean_difference" else (CATEGORICAL,)
        factors = {n: index.factor_fp(n) for n, f in index.factors.items() if f.kind in kinds}
        parameters["factors"] = factors
    if name == "svm":
        holdout = spec.evaluate.holdout
        parameters["holdout"] = [holdout.model_dump(mode="json"), spec.evaluate_seed]
        if holdout.factor in index.factors:
            parameters["factor"] = index.factor_fp(holdout.factor)
    if name == "mean_difference" and spec.analyse.svm is not None:
        parameters["threshold"] = spec.analyse.svm.threshold
    commits = {stage: store.committed(stage).tobytes() for stage in stages}
    return digest(["analysis", name, ANALYSE_VERSION, parameters, store.store_fp, commits])


def space_of(spec: RunSpec) -> str:
    """The one space that all analyses of a run read. Raises UsageError when they differ."""
    spaces = {
        name: section.space
        for name in requested(spec)
        if hasattr(section := getattr(spec.analyse, name), "space")
    }
    different = set(spaces.values()) | {spec.invert.space}
    if len(different) > 1:
        raise UsageError(
            f"analyses read the spaces {spaces!r} of a store that holds {spec.invert.space!r}: "
            "a run has one space; set 'space' of every analysis and 'invert.space' alike"
        )
    return spec.invert.space


def stale(spec: RunSpec, store: LatentStore, index: DatasetIndex, path: Path) -> dict[str, str]:
    """Requested analyses that the set at `path` does not hold for these inputs -> their fp."""
    wanted = {name: analysis_fp(name, spec, store, index) for name in requested(spec)}
    try:
        found = DirectionSet.load(path)
        held = {name: found.load_model(name)[1] for name in found.model_names()}
    except StoreError:
        held = {}
    return {n: fp for n, fp in wanted.items() if held.get(n, {}).get("fingerprint") != fp}


def analyse(
    spec: RunSpec,
    store: LatentStore,
    index: DatasetIndex,
    generator_fp: str,
    path: Path,
    engine: Engine,
    progress: Callable[[int, int], None] = lambda done, total: None,
    only: Container[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Compute the stale analyses and write their directions and models into the set at `path`.

    only : analyses to look at, by default all that are requested.
    Directions of analyses that are no longer asked for are taken out. Returns for each of them
    its seconds, whether it was skipped, and its facts. Killed at any moment, the next
    call computes again what was not finished: a model's fingerprint is written last.
    """
    space = space_of(spec)
    todo = stale(spec, store, index, path)
    chosen = [name for name in requested(spec) if only is None or name in only]
    held_out = hold_out(
        index, spec.evaluate.holdout.factor, spec.evaluate.holdout.fraction, spec.evaluate_seed
    )
    shape = store.array(f"latents/{space}").shape[1:]
    inputs = Inputs(store, index, spec, engine, space, tuple(shape), held_out, path)
    directions = _existing(path, generator_fp, space)
    report: dict[str, dict[str, Any]] = {}
    for done, name in enumerate(chosen):
        progress(done, len(chosen))
        if name not in todo:
            report[name] = {"seconds": 0.0, "skipped": True, **directions.load_model(name)[1]}
            continue
        started = time.monotonic()
        fitted = FITS[name](inputs)
        unmeasured = [d for d in fitted.directions if d.sd == 0]
        measured = measure_sd(inputs, unmeasured) if unmeasured else []
        sds = {d.name: float(sd) for d, sd in zip(unmeasured, measured, strict=True)}
        provenance = {"analysis": name, "fingerprint": todo[name]}
        fitted.directions = [
            dataclasses.replace(
                d, sd=sds.get(d.name, d.sd), provenance={**d.provenance, **provenance}
            )
            for d in fitted.directions
        ]
        directions = _replaced(directions, name, fitted, requested(spec))
        directions.save(path)
        left_out = inputs.left_out()
        attrs = {**fitted.facts, "left_out": left_out, "fingerprint": todo[name]}
        directions.save_model(name, fitted.arrays, attrs)
        report[name] = {"seconds": time.monotonic() - started, "skipped": False, **attrs}
    progress(len(chosen), len(chosen))
    return report


def _existing(path: Path, generator_fp: str, space: str) -> DirectionSet:
    try:
        return DirectionSet.load(path)
    except StoreError:
        return DirectionSet(generator_fp, space)


def _replaced(old: DirectionSet, name: str, fitted: Fitted, wanted: list[str]) -> DirectionSet:
    """The set with the analysis' directions renewed, in the order of the specification, and then
    the imported ones."""
    imported = [d for d in old if d.method == "imported"]
    kept = [
        d
        for d in old
        if d.provenance.get("analysis") != name and d.provenance.get("analysis") in wanted
    ]
    ordered = sorted(
        [*kept, *fitted.directions],
        key=lambda d: wanted.index(d.provenance.get("analysis", name)),
    )
    return DirectionSet(old.generator_fp, old.space, [*ordered, *imported])
