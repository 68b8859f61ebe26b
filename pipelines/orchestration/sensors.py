"""What starts runs: the specification's schedule, and changes of its dataset and models."""

from __future__ import annotations

import json

import dagster as dg

from pipelines.orchestration.assets import DATA_VERSION, identifier, key_of
from pipelines.orchestration.locations import look
from pipelines.orchestration.parts import parts_of, stale_parts
from schemas.spec import RunSpec

SENSOR_SECONDS = 60


def job_of(spec: RunSpec) -> dg.UnresolvedAssetJobDefinition:
    """The job that brings every part of a run up to date."""
    return dg.define_asset_job(
        identifier(spec.name),
        selection=dg.AssetSelection.assets(*(key_of(spec, p.name) for p in parts_of(spec))),
        description=f"Everything of {spec.name!r} that is missing or stale, "
        "as 'latentflow run' does.",
    )


def schedule_of(
    spec: RunSpec, job: dg.UnresolvedAssetJobDefinition
) -> dg.ScheduleDefinition | None:
    """The specification's ``schedule``, in UTC and switched on; None without one."""
    if spec.schedule is None:
        return None
    return dg.ScheduleDefinition(
        name=f"{identifier(spec.name)}_schedule",
        job=job,
        cron_schedule=spec.schedule,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def sensor_of(spec: RunSpec, job: dg.UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """Watches the dataset and the models, and makes exactly what became stale.

    The cursor holds a digest of (path, size, mtime_ns) for every input. Where one has changed, the
    fingerprints decide: a part is made when a run would make it, or when the version that is stored
    is not the one that Dagster has recorded. A file that was only touched makes nothing.
    A tick that fails (a checkpoint half copied) leaves the cursor; the next one looks again.
    """

    @dg.sensor(
        name=f"{identifier(spec.name)}_changes",
        job=job,
        minimum_interval_seconds=SENSOR_SECONDS,
        description="Makes again what a changed dataset or model makes stale.",
    )
    def changes(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        now = look(spec)
        before = json.loads(context.cursor) if context.cursor else {}
        moved = [name for name, entry in now.items() if before.get(name) != entry]
        if not moved:
            return dg.SkipReason("no input has moved")
        stale = stale_parts(spec, recorded_versions(context.instance, spec))
        context.update_cursor(json.dumps(now, sort_keys=True))
        if not stale:
            return dg.SkipReason(f"{', '.join(moved)}: touched, the contents are the same")
        for name, why in stale.items():
            context.log.info(f"{name}: {why}")
        return dg.SensorResult(
            [dg.RunRequest(asset_selection=[key_of(spec, name) for name in stale])]
        )

    return changes


def recorded_versions(instance: dg.DagsterInstance, spec: RunSpec) -> dict[str, str | None]:
    """Version of every part's latest materialisation that Dagster knows of."""
    found: dict[str, str | None] = {}
    for part in parts_of(spec):
        event = instance.get_latest_materialization_event(key_of(spec, part.name))
        done = event.asset_materialization if event is not None else None
        found[part.name] = (done.tags or {}).get(DATA_VERSION) if done is not None else None
    return found
