"""Images and renders to scores, landmarks and pose, on Ray, into a latent store.

Every model is one stage for each target: ``<model>`` measures the original image, and
``<model>@render`` what the generator draws from the stored code. A stage writes one array,
``annotations/<stage>`` (scores, pose) or ``landmarks/<stage>``, and is committed by itself, though
a worker reads a block's images once for all stages that need them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import generators
from generators.annotators import load_annotator
from generators.protocols import Code
from pipelines.downstream.annotation_table import export_annotations
from pipelines.engine.batch_size import MB, Trial, chosen
from pipelines.engine.blocks import (
    BlockEngine,
    BlockWork,
    Progress,
    use_threads,
)
from pipelines.engine.parts import PartFiles, SharedBlocks, Sharing, run_shared
from pipelines.engine.stage_state import counts_of
from pipelines.engine.writer_guard import Guard
from pipelines.folder.store_identity import INVERT
from pipelines.sources.base import Source
from pipelines.sources.block_images import FILLER, Batch, BlockImages, View, in_halves, padded
from pipelines.stages.annotate_stages import (
    VERSION,
    AnnotatePlan,
    Originals,
    StageModel,
    annotate_inputs,
    extra_of,
    plan_annotate,
    stages_of,
)
from schemas.errors import StoreError, UsageError
from schemas.index import DatasetIndex
from schemas.sections.dataset import SAMPLED
from schemas.spec_models import AnnotateSpec, RaySpec
from schemas.store.latent_store import LatentStore
from schemas.store.lock import StoreLock
from schemas.store.reasons import Reason, Status
from schemas.store.stage_arrays import lay_out_stages
from transforms.images.annotate import annotate_batch
from transforms.images.preprocess import DEFAULT_MAX_PIXELS, to_uint8
from transforms.inversion.stored import stored_code

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "VERSION",
    "AnnotatePlan",
    "AnnotateResult",
    "Originals",
    "StageModel",
    "annotate",
    "annotate_inputs",
    "export_annotations",
    "extra_of",
    "plan_annotate",
    "stages_of",
]

# ---------------------------------------------------------------------------------------------
# In the workers


@dataclass(frozen=True)
class AnnotateTask:
    """How an actor annotates: small and picklable; models are loaded from their uris."""

    source: Source
    store_path: str
    generator_uri: generators.Source
    stages: tuple[StageModel, ...]
    crop: str
    size: tuple[int, int]
    max_pixels: int
    space: str
    noise_mode: str
    threads: int
    trust: bool
    cuda: bool = False

    def build(self, guard: Guard) -> AnnotateWorker:
        """Load the annotators, and the generator when something is rendered."""
        return AnnotateWorker(self, guard)


class _Sheet:
    """Values, status and reason of one stage's block while it fills; failed : row -> what the
    model said."""

    def __init__(self, stage: StageModel, n: int) -> None:
        self.stage = stage
        self.values = np.full((n, *stage.card.row_shape), np.nan, np.float32)
        self.status = np.zeros(n, np.uint8)
        self.reason = np.zeros(n, np.uint8)
        self.failed: dict[int, str] = {}


class AnnotateWorker:
    """Holds annotators (and generator); makes all stages of one block, or of a part of one, at a
    time."""

    def __init__(self, task: AnnotateTask, guard: Guard) -> None:
        self.task, self.guard = task, guard
        self.device = "cpu"
        self.generator: Any = None
        if any(stage.render for stage in task.stages):
            self.device = use_threads(task.threads, task.cuda)
            self.generator = generators.load(task.generator_uri, self.device)
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if task.cuda else None
        self._models: dict[str, Any] = {}
        for stage in task.stages:
            if stage.uri not in self._models:
                self._models[stage.uri] = load_annotator(
                    stage.uri, trust=task.trust, threads=task.threads, providers=providers
                )
            found = self._models[stage.uri].fingerprint
            if found != stage.card.fingerprint:
                raise UsageError(
                    f"annotator {stage.uri!r} has fingerprint {found!r}, the run began with "
                    f"{stage.card.fingerprint!r}: the file changed; start again"
                )
        self.store = LatentStore.open(task.store_path, "r+")
        self.files = PartFiles.beside(self.store.path)
        self.reader = BlockImages(task.source, task.size, task.crop, task.max_pixels, task.threads)

    def process(self, work: BlockWork) -> dict[str, Any]:
        """Make and commit the block's stages; see `pipelines.engine.blocks.Worker`."""
        stages = [s for s in self.task.stages if s.name in work.stages]
        stages = [
            s for s in stages if s.render or not self.reader.still_failing(work.stages[s.name])
        ]
        shrunk, ok = False, 0
        failed: dict[str, list[Any]] = {}
        self._prove(work, stages)
        for sheets, batches in self._passes(work, stages):
            for batch in batches:
                for sheet in sheets:
                    shrunk |= self._measure(sheet, batch)
            for sheet in sheets:
                name = sheet.stage.name
                self.guard.check()
                self.files.write(
                    self.store,
                    name,
                    work,
                    sheet.stage.batch_size,
                    {sheet.stage.array: sheet.values},
                    sheet.status,
                    sheet.reason,
                )
                ok += int((sheet.status == Status.OK).sum())
                if sheet.failed:
                    row, text = min(sheet.failed.items())
                    failed[name] = [work.uris[row], text]
        made = [stage.name for stage in stages]
        return {"ok": ok, "shrunk": shrunk, "unchanged": not made, "stages": made, "failed": failed}

    def attempt(self, rows: int) -> None:
        """Draw a stored code and measure made-up images as often as that; see
        `pipelines.engine.batch_size.Attempting`."""
        from transforms.inversion.method import render

        size = self.task.size
        stored = np.flatnonzero(self.store.status(INVERT) == Status.OK)
        if self.generator is not None and len(stored):
            space = self.generator.facts.space(self.task.space)
            code = stored_code(self.store, space, np.repeat(stored[:1], rows)).to(self.device)
            labels = np.zeros(rows, np.int64) if self.generator.facts.classes else None
            to_uint8(render(self.generator, code, self.task.noise_mode, labels).cpu().numpy())
        for stage in self.task.stages:
            images = np.full((rows, *stage.view(size).size, 3), FILLER, np.uint8)
            annotate_batch(self._models[stage.uri], images, size)

    def _prove(self, work: BlockWork, stages: Sequence[StageModel]) -> None:
        """Show models that failed when they were tried the work's images, until one is measured.
        What fails on all of them raises CheckpointError when it measures the first."""
        for stage in stages:
            model = self._models[stage.uri]
            if model.unproven is not None:
                for batch in self._batches(work, [stage]):
                    good = np.flatnonzero(batch.status == Status.OK)
                    if model.prove(batch.views[stage.view(self.task.size)][good]):
                        break

    def _passes(
        self, work: BlockWork, stages: Sequence[StageModel]
    ) -> Iterator[tuple[list[_Sheet], Iterator[Batch]]]:
        """Stages that share batches: same target, same batch size. A stage's batches must not
        depend on which other stages happen to be made with it."""
        for render in (False, True):
            chosen = [s for s in stages if s.render == render]
            for batch_size in sorted({s.batch_size for s in chosen}):
                sharing = [s for s in chosen if s.batch_size == batch_size]
                yield [_Sheet(s, len(work)) for s in sharing], self._batches(work, sharing)

    def _batches(self, work: BlockWork, stages: Sequence[StageModel]) -> Iterator[Batch]:
        """What stages of one target and batch size look at."""
        if stages[0].render:
            return self._renders(work, stages[0].batch_size)
        views = tuple(dict.fromkeys(stage.view(self.task.size) for stage in stages))
        return self.reader.batches(work, stages[0].batch_size, views)

    def _renders(self, work: BlockWork, batch_size: int) -> Iterator[Batch]:
        """What the generator draws from the codes, batch by batch."""
        import torch

        from transforms.inversion.method import render

        flags_array = f"status/{INVERT}"
        _, status, reason = read_stage(self.store, flags_array, work.block, INVERT)
        status, reason = status[work.rows], reason[work.rows]
        size, space = self.task.size, self.generator.facts.space(self.task.space)
        first = self.store.block_slice(work.block).start + work.first
        labels = None if work.labels is None else np.maximum(work.labels, 0)
        for start in range(0, len(work), batch_size):
            rows = slice(start, min(start + batch_size, len(work)))
            count = rows.stop - rows.start
            classes = None if labels is None else padded(labels[rows], batch_size)
            flags, why = status[rows].copy(), reason[rows].copy()
            images = np.zeros((batch_size, *size, 3), np.uint8)
            good = flags == Status.OK
            if good.any():

                def filled(
                    values: Tensor, good: NDArray[np.bool_] = good, count: int = count
                ) -> Tensor:
                    """Of all rows of the batch, zeros in those without a code."""
                    whole = np.zeros((count, *values.shape[1:]), values.numpy().dtype)
                    whole[good] = values.numpy()
                    return torch.from_numpy(padded(whole, batch_size))

                at = first + start + np.flatnonzero(good)
                code = stored_code(self.store, space, at).changed(filled)

                def draw(
                    part: slice, code: Code = code, classes: Any = classes
                ) -> NDArray[np.float32]:
                    own = None if classes is None else classes[part]
                    given = code[part].to(self.device)
                    drawn = render(self.generator, given, self.task.noise_mode, own)
                    values: NDArray[np.float32] = drawn.cpu().numpy()
                    return values

                def give_up(position: int, flags: Any = flags, why: Any = why) -> None:
                    if position < len(flags) and flags[position] == Status.OK:
                        flags[position], why[position] = Status.QUARANTINED, Reason.OUT_OF_MEMORY

                for part, drawn in in_halves(draw, slice(0, batch_size), give_up)[0]:
                    finite = np.isfinite(drawn).all(axis=(1, 2, 3))
                    drawn[~finite] = 0.0
                    images[part] = to_uint8(drawn)
                    for position in np.flatnonzero(~finite) + part.start:
                        if position < count and flags[position] == Status.OK:
                            flags[position] = Status.QUARANTINED
                            why[position] = Reason.NOT_FINITE
            yield Batch(start, count, {View(size): images}, flags, why)

    def _measure(self, sheet: _Sheet, batch: Batch) -> bool:
        """Fill a batch into a sheet; whether the batch had to be halved for memory."""
        rows = batch.rows
        sheet.status[rows], sheet.reason[rows] = batch.status, batch.reason
        good = np.flatnonzero(batch.status == Status.OK)
        if not good.size:
            return False
        model, size = self._models[sheet.stage.uri], self.task.size
        images = batch.views[sheet.stage.view(size)]

        def give_up(position: int) -> None:
            if position < batch.count and batch.status[position] == Status.OK:
                sheet.reason[batch.start + position] = Reason.OUT_OF_MEMORY

        results, halved = in_halves(
            lambda part: annotate_batch(model, images[part], size),
            slice(0, len(images)),
            give_up,
        )
        for part, measured in results:
            keep = good[(good >= part.start) & (good < part.stop)]
            sheet.values[batch.start + keep] = measured.values[keep - part.start]
            sheet.reason[batch.start + keep] = measured.reasons[keep - part.start]
            sheet.failed |= {
                batch.start + part.start + row: text
                for row, text in measured.messages.items()
                if part.start + row in keep
            }
        found = sheet.reason[rows] != Reason.NONE
        sheet.status[rows][found] = Status.QUARANTINED
        return halved


def read_stage(
    store: LatentStore, array: str, block: int, stage: str
) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.uint8]]:
    """A committed block's values, status and reason, as stored.

    Raises StoreError when the block is not committed, or changes meanwhile.
    """
    before = store.commit_of(stage, block)
    rows = store.block_slice(block)
    values = np.asarray(store.array(array)[rows])
    status = np.asarray(store.array(f"status/{stage}")[rows])
    reason = np.asarray(store.array(f"reason/{stage}")[rows])
    if not any(before) or store.commit_of(stage, block) != before:
        raise StoreError(
            f"block {block!r} of stage {stage!r} in {store.path!r} is not complete; invert first"
        )
    return values, status, reason


# ---------------------------------------------------------------------------------------------
# The run


@dataclass(frozen=True)
class AnnotateResult:
    """What a run did and what the store now holds.

    counts : stage -> {"ok", "quarantined", "removed", "pending", "reasons": {name: rows}}.
    blocks_done, blocks_skipped : with at least one stage made now, and complete in all stages.
    batch_sizes : images at a time, of each stage of which something was made.
    shrunk, load_s, busy_s : as in `pipelines.stages.invert.InvertResult`.
    failed : stage -> (an image on which its model failed, what the model said).
    """

    store_path: str
    stages: tuple[str, ...]
    counts: dict[str, dict[str, Any]]
    seconds: float
    blocks_done: int
    blocks_skipped: int
    batch_sizes: Mapping[str, int]
    shrunk: bool
    load_s: float
    busy_s: float
    failed: Mapping[str, tuple[str, str]]


def annotate(
    index: DatasetIndex,
    source: Source,
    store_path: str | os.PathLike[str],
    models: Sequence[AnnotateSpec],
    *,
    generator_uri: generators.Source,
    engine: BlockEngine,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    threads: int = 1,
    actors: int | None = None,
    trust: bool = False,
    progress: Progress | None = None,
    lock: StoreLock | None = None,
    blocks: Container[int] | None = None,
    labels: NDArray[np.int64] | None = None,
    actor_memory_mb: int = RaySpec().actor_memory_mb,
) -> AnnotateResult:
    """Bring all stages of the given models up to date, making missing blocks only.

    store_path : an inverted store of this index; its crop, space and noise mode are used again.
    generator_uri : the generator that the store was made with, for renders.
    max_pixels, threads : as in the "invert" section. actors : by default the engine's.
    trust : whether TorchScript models, which can run any code, may be loaded; from the command
        line only. labels : see `plan_annotate`.
    engine, progress, lock, blocks, actor_memory_mb : as in `pipelines.stages.invert.invert`.

    Raises UsageError when the generator is not the store's, and the models' and the store's errors.
    """
    started = time.monotonic()
    method: Mapping[str, Any] = LatentStore.open(store_path).attrs["method"]
    stages = stages_of(models, trust, sampled=method["method"] == SAMPLED)
    held = StoreLock(store_path) if lock is None else lock
    if lock is None:
        held.acquire()
    try:
        store = LatentStore.open(store_path, "r+")
        if store.n_rows != index.n_rows:
            raise StoreError(
                f"store {store.path!r} has {store.n_rows!r} rows, the index {index.n_rows!r}; "
                "invert first"
            )
        size = _check_generator(store, generator_uri)
        store.delete_partials()
        lay_out_stages(store, {stage.name: [stage.spec()] for stage in stages})
        plan = plan_annotate(index, store, stages, max_pixels, size, labels)
        todo = [work for work in plan.work if blocks is None or work.block in blocks]
        needed = {name for work in todo for name in work.stages}
        task = AnnotateTask(
            source,
            os.path.abspath(store_path),
            generator_uri,
            tuple(stage for stage in stages if stage.name in needed),
            str(method.get("crop", "centre")),
            size,
            max_pixels,
            str(method["space"]),
            str(method["noise_mode"]),
            threads,
            trust,
            engine.gpus_per_actor > 0,
        )
        batch_size = 0
        if any(not stage.batch_size for stage in task.stages):
            left_open = tuple(stage for stage in stages if not stage.batch_size)
            row_bytes = sum(stage.spec().row_bytes for stage in left_open)
            limit = actor_memory_mb * MB
            trial = Trial.of_blocks(limit, store.block_rows, row_bytes, store.n_rows)
            batch_size = chosen(engine, replace(task, stages=left_open), held, trial)
        settled = [replace(s, batch_size=s.batch_size or batch_size) for s in task.stages]
        task = replace(task, stages=tuple(settled))
        batch_sizes = {stage.name: stage.batch_size for stage in settled}
        sharing = Sharing(actors or engine.actors, math.lcm(*batch_sizes.values()))
        waiting = {
            name: [work.stages[name] for work in plan.work if name in work.stages]
            for name in batch_sizes
        }
        done = run_shared(
            engine,
            task,
            SharedBlocks(store, todo, sharing, batch_sizes, waiting),
            held,
            n_blocks=plan.n_blocks,
            n_rows=plan.n_rows,
            actors=actors,
            progress=progress,
        )
        if todo:
            store.refresh()
        counts = {stage.name: counts_of(store, stage.name) for stage in stages}
    finally:
        if lock is None:
            held.release()
    return AnnotateResult(
        store_path=os.fspath(store_path),
        stages=tuple(stage.name for stage in stages),
        counts=counts,
        seconds=time.monotonic() - started,
        blocks_done=done.blocks_done,
        blocks_skipped=done.blocks_skipped,
        batch_sizes={stage.name: stage.batch_size for stage in task.stages},
        shrunk=done.shrunk,
        load_s=done.load_s,
        busy_s=done.busy_s,
        failed=done.failed,
    )


def _check_generator(store: LatentStore, generator_uri: generators.Source) -> tuple[int, int]:
    """(height, width) of the generator's images. Raises UsageError when it is not the store's."""
    facts = generators.facts(generator_uri)
    if facts.fingerprint != store.attrs["generator_fp"]:
        raise UsageError(
            f"generator {generator_uri!r} has fingerprint {facts.fingerprint!r}, the store "
            f"{store.path!r} was made with {store.attrs['generator_fp']!r}: use that generator, "
            "or invert with this one"
        )
    return facts.size
