"""Dagster definitions of all run specifications: ``dagster dev -m pipelines.definitions``.

The environment variable LATENTFLOW_SPECS names the specifications: a file, a folder (all its .yaml
and .yml files) or a glob; several, with the system's path separator between them. Every
specification becomes a group of assets, a job, a backfill, a sensor, and a schedule where it has
one. Needs the extra "orchestrate".
"""

from __future__ import annotations

import glob
import os
from pathlib import Path

from schemas.errors import MissingExtraError, SpecError, UsageError
from schemas.spec import RunSpec, load_spec

try:
    import dagster as dg
except ImportError as e:
    raise MissingExtraError(
        "'pipelines.definitions' needs the library 'dagster', which is not installed: install "
        "latentflow with the extra 'orchestrate', pip install 'latentflow[orchestrate]'"
    ) from e

from pipelines.orchestration.assets import assets_of, backfill_of, inputs_of
from pipelines.orchestration.sensors import job_of, schedule_of, sensor_of

VARIABLE = "LATENTFLOW_SPECS"
ENDINGS = (".yaml", ".yml")


def spec_files(places: str) -> list[Path]:
    """The specification files of `places`, as LATENTFLOW_SPECS names them, in order, each once.

    Raises UsageError where a place names no file.
    """
    found: dict[Path, None] = {}
    for place in filter(None, places.split(os.pathsep)):
        path = Path(place).expanduser()
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in ENDINGS)
        else:
            files = [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
        if not files:
            raise UsageError(
                f"{VARIABLE} names {place!r}, where no specification is: give a file, a folder "
                f"with files ending in {' or '.join(ENDINGS)}, or a glob"
            )
        found.update((file.absolute(), None) for file in files)
    if not found:
        raise UsageError(
            f"{VARIABLE} is not set: set it to the run specifications to show, a file, a folder or "
            "a glob, such as specs/*.yaml"
        )
    return list(found)


def load_specs(files: list[Path]) -> list[RunSpec]:
    """The specifications of the files.

    Raises SpecError for the ones that cannot be used, all at once, and for two of one name.
    """
    specs: dict[str, RunSpec] = {}
    origin: dict[str, Path] = {}
    problems = []
    for file in files:
        try:
            spec = load_spec(file)
        except SpecError as e:
            problems.append(str(e))
            continue
        if spec.name in specs:
            problems.append(
                f"{str(origin[spec.name])!r} and {str(file)!r} both have the name {spec.name!r}: "
                "rename one, as it identifies the assets"
            )
        specs[spec.name], origin[spec.name] = spec, file
    if problems:
        raise SpecError("\n".join(problems))
    return list(specs.values())


def definitions_of(specs: list[RunSpec]) -> dg.Definitions:
    """Assets, jobs, schedules and sensors of the given specifications.

    The parts of a run are made one after the other in one process: they share a lock, and Ray and
    Beam bring the parallelism.
    """
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = []
    jobs: list[dg.JobDefinition | dg.UnresolvedAssetJobDefinition] = []
    schedules, sensors = [], []
    for spec in specs:
        job, (blocks, backfill) = job_of(spec), backfill_of(spec)
        assets += [*inputs_of(spec), *assets_of(spec), blocks]
        jobs += [job, backfill]
        sensors.append(sensor_of(spec, job))
        schedule = schedule_of(spec, job)
        if schedule is not None:
            schedules.append(schedule)
    return dg.Definitions(
        assets=assets,
        jobs=jobs,
        schedules=schedules,
        sensors=sensors,
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads. Raises UsageError and SpecError as `spec_files` and `load_specs` do."""
    return definitions_of(load_specs(spec_files(os.environ.get(VARIABLE, ""))))
