"""Dagster assets of one run: every part an asset, made by the same code as ``latentflow run``."""

# annotations are not postponed here: Dagster reads those of its functions as types
import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console

from pipelines.orchestration.metadata import describe_part
from pipelines.orchestration.parts import (
    Part,
    block_count,
    block_versions,
    held_versions,
    needed_for,
    parts_of,
)
from pipelines.runs.run import STAGES, RunResult, run
from schemas.errors import LatentflowError, LockedError
from schemas.fingerprint import digest
from schemas.spec import RunSpec

#: Row blocks of one partition of a backfill.
BLOCKS_PER_PARTITION = 16
DATA_VERSION = "dagster/data_version"


class Settings(dg.Config):
    """What the command line's flags say, for one Dagster run.

    wait_s : how long to wait for another run's lock, in seconds. trust : TorchScript annotators,
    which can run code from their file, may be loaded. ray_address : cluster instead of the
    specification's.
    """

    wait_s: float = 3600.0
    trust: bool = False
    ray_address: str | None = None


def identifier(name: str) -> str:
    """A run's name as Dagster allows it for groups, ops and jobs; different for different names."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain == name else f"{plain}_{digest(name)[:6]}"


def key_of(spec: RunSpec, part: str) -> dg.AssetKey:
    """Asset key of a part: the run's name, then the part's."""
    return dg.AssetKey([spec.name, *part.split("/")])


def inputs_of(spec: RunSpec) -> list[dg.AssetSpec]:
    """The dataset and the generator, which nobody makes here but the sensor watches."""
    kinds = {"generator": spec.generator_path}
    if spec.dataset.path is not None:
        kinds = {"dataset": spec.dataset.path, **kinds}
    return [
        dg.AssetSpec(
            key_of(spec, name),
            description=f"{name}: {where}",
            group_name=identifier(spec.name),
            metadata={"location": where},
        )
        for name, where in kinds.items()
    ]


def assets_of(spec: RunSpec) -> list[dg.AssetsDefinition]:
    """One definition a stage; annotators, and analyses, can be made each by itself."""
    parts = parts_of(spec)
    return [
        _stage(spec, stage, mine)
        for stage in STAGES
        if (mine := [part for part in parts if part.stage == stage])
    ]


def _stage(spec: RunSpec, stage: str, parts: list[Part]) -> dg.AssetsDefinition:
    by_key = {key_of(spec, part.name): part for part in parts}

    @dg.multi_asset(
        name=f"{identifier(spec.name)}__{stage}",
        specs=[_asset_spec(spec, part) for part in parts],
        can_subset=len(parts) > 1,
        pool=identifier(spec.name),
    )
    def make(
        context: dg.AssetExecutionContext, config: Settings
    ) -> Iterator[dg.MaterializeResult[Any]]:
        chosen = [part.name for key, part in by_key.items() if key in context.selected_asset_keys]
        log: list[str] = []
        result = _run(context, config, spec, log, until=stage, only=needed_for(spec, chosen))
        versions = held_versions(spec)
        if stage == "index":
            context.instance.add_dynamic_partitions(_blocks_name(spec), list(_ranges(spec)))
        for name in chosen:
            yield dg.MaterializeResult(
                asset_key=key_of(spec, name),
                data_version=dg.DataVersion(versions[name] or "missing"),
                metadata=describe_part(spec, name, result, log),
            )

    return make


def _asset_spec(spec: RunSpec, part: Part) -> dg.AssetSpec:
    """``code_version`` tells Dagster that the part's section of the specification has changed."""
    reads = list(part.reads)
    if part.stage in ("index", "invert"):
        reads.append("dataset" if part.stage == "index" else "generator")
    return dg.AssetSpec(
        key_of(spec, part.name),
        deps=[key_of(spec, name) for name in reads],
        description=_description(spec, part),
        group_name=identifier(spec.name),
        code_version=digest(_section(spec, part))[:12],
        kinds={"python", *({"zarr"} if part.stage in ("invert", "annotate", "analyse") else ())},
        metadata={"output": str(Path(spec.output_path))},
    )


def _description(spec: RunSpec, part: Part) -> str:
    name = part.name.partition("/")[2]
    into = "" if spec.invert.space is None else f" in {spec.invert.space}"
    return {
        "index": "Index of the dataset: one row an image, with its hash and factors.",
        "invert": f"Latents{into}, by the method {spec.invert.method!r}.",
        "annotate": f"Measurements by {name!r} of the images and of their reconstructions.",
        "analyse": f"Directions and fitted models of {name!r}.",
        "evaluate": "Effect and entanglement of each direction, measured on edited samples.",
        "report": "The HTML page.",
    }[part.stage]


def _section(spec: RunSpec, part: Part) -> Any:
    """What the specification says about a part."""
    name = part.name.partition("/")[2]
    whole: Mapping[str, Any] = spec.model_dump(mode="json")
    if part.stage == "annotate":
        return next(section for section in whole["annotate"] if section["name"] == name)
    if part.stage == "analyse":
        return whole["analyse"][name]
    section = whole["dataset" if part.stage == "index" else part.stage]
    return [section, whole["generator"], whole["encoder"]] if part.stage == "invert" else section


# ---------------------------------------------------------------------------------------------
# Backfills: blocks of inversion and annotation, some at a time


def partitions_of(spec: RunSpec) -> dg.DynamicPartitionsDefinition:
    """Ranges of row blocks; making the index adds them, as the number of blocks grows with it."""
    return dg.DynamicPartitionsDefinition(name=_blocks_name(spec))


def _blocks_name(spec: RunSpec) -> str:
    return f"{identifier(spec.name)}_blocks"


def block_ranges(n_blocks: int) -> dict[str, range]:
    """Key of a partition -> its blocks: {"00000-00015": range(0, 16), ...}.

    The last range has its full length as well, so that its key stays when the dataset grows.
    """
    size = BLOCKS_PER_PARTITION
    starts = range(0, n_blocks, size)
    return {f"{s:05d}-{s + size - 1:05d}": range(s, min(s + size, n_blocks)) for s in starts}


def _ranges(spec: RunSpec) -> dict[str, range]:
    return block_ranges(block_count(spec))


def backfill_of(spec: RunSpec) -> tuple[dg.AssetSpec, dg.JobDefinition]:
    """An asset that shows which ranges of blocks are done, and the job that makes a range.

    The asset is not made with the others (inversion makes all blocks anyway); the job's backfill
    makes a large dataset's latents piece by piece, and what it made the other assets find done.
    """
    partitions, key = partitions_of(spec), key_of(spec, "blocks")
    shown = dg.AssetSpec(
        key,
        deps=[key_of(spec, "index")],
        description="Latents and measurements by ranges of row blocks, made by the job "
        f"'{identifier(spec.name)}_backfill'.",
        group_name=identifier(spec.name),
        partitions_def=partitions,
    )

    @dg.op(name=f"{identifier(spec.name)}__blocks", pool=identifier(spec.name))
    def make_blocks(context: dg.OpExecutionContext, config: Settings) -> None:
        wanted = context.partition_key
        ranges = _ranges(spec)
        if wanted not in ranges:
            raise dg.Failure(
                f"partition {wanted!r} is not one of {len(ranges)!r} ranges of row blocks: "
                f"materialise {key_of(spec, 'index').to_user_string()!r} and choose again",
                allow_retries=False,
            )
        until = "annotate" if spec.annotate else "invert"
        log: list[str] = []
        result = _run(context, config, spec, log, until=until, blocks=ranges[wanted])
        context.log_event(
            dg.AssetMaterialization(
                key,
                partition=wanted,
                tags={DATA_VERSION: block_versions(spec, ranges[wanted]) or "missing"},
                metadata=describe_part(spec, "blocks", result, log),
            )
        )

    @dg.job(
        name=f"{identifier(spec.name)}_backfill",
        partitions_def=partitions,
        description="Invert and annotate one range of row blocks.",
    )
    def backfill() -> None:
        make_blocks()

    return shown, backfill


# ---------------------------------------------------------------------------------------------
# Running


def _run(
    context: Any, config: Settings, spec: RunSpec, log: list[str], **arguments: Any
) -> RunResult:
    """`pipelines.runs.run.run` with its log in Dagster's, and its errors as Dagster failures.

    Only a lock that is held by another run may be tried again.
    """

    def line(text: str) -> None:
        log.append(text)
        context.log.info(text)

    console = Console(file=_Lines(line), width=200)
    try:
        return run(
            spec,
            trust=config.trust,
            wait_s=config.wait_s,
            address=config.ray_address,
            console=console,
            **arguments,
        )
    except LatentflowError as e:
        raise dg.Failure(
            f"{e.kind}: {e}",
            metadata={"exit code": e.exit_code, "kind": e.kind, "log": "\n".join(log)},
            allow_retries=isinstance(e, LockedError),
        ) from e


class _Lines(io.StringIO):
    """A text file that hands every finished line on."""

    def __init__(self, line: Callable[[str], None]) -> None:
        super().__init__()
        self._line, self._rest = line, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._line(line.rstrip())
        return len(text)
