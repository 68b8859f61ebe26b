"""Images to latent codes, on Ray, into a latent store (stage "invert").

The stage writes ``latents/<space>`` and, of each image against what the generator draws from its
code, ``quality/mse``, ``quality/psnr`` and ``quality/ssim``; where the settings name a perceptual
network or the method takes gradient steps also ``quality/lpips_star``, or of a user's network
``quality/lpips``; of each code ``quality/editability``, and what the method itself measures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from generators.labelled import Labelled
from pipelines.engine.batch_size import MB, Trial, chosen
from pipelines.engine.blocks import (
    BlockEngine,
    BlockWork,
    Progress,
    use_threads,
)
from pipelines.engine.parts import PartFiles, Probe, SharedBlocks, run_shared
from pipelines.engine.stage_state import counts_of
from pipelines.engine.writer_guard import Guard
from pipelines.folder.qualities import EDITABILITY
from pipelines.folder.store_identity import INVERT, StoreIdentity, method_of
from pipelines.sources.base import Source
from pipelines.sources.block_images import FILLER, Batch, BlockImages, in_halves, padded, set_aside
from pipelines.stages import sample
from pipelines.stages.invert_plan import (
    VERSION,
    InvertPlan,
    block_inputs,
    invert_inputs,
    plan_invert,
    sharing_of,
)
from schemas.errors import UsageError
from schemas.index import DatasetIndex
from schemas.sections.invert import InvertSpec
from schemas.sections.types import AUTO
from schemas.spec_models import RaySpec
from schemas.store.latent_store import LatentStore
from schemas.store.layout import companion_path
from schemas.store.lock import StoreLock
from schemas.store.reasons import Reason, Status
from schemas.store.sibling import GrowingBlocks, siblings_of
from transforms.images.preprocess import to_float, to_uint8
from transforms.inversion.catalog import invert_batch
from transforms.inversion.compared import measure
from transforms.inversion.editability import editability
from transforms.inversion.method import STAGE as SEED_STAGE
from transforms.inversion.method import Images, render, row_generator

__all__ = ["VERSION", "InvertPlan", "block_inputs", "invert", "invert_inputs", "plan_invert"]


# ---------------------------------------------------------------------------------------------
# In the workers


@dataclass(frozen=True)
class InvertTask:
    """How an actor inverts: small and picklable; models are loaded from their uris.

    batch_size : images at a time
    """

    source: Source
    identity: StoreIdentity
    cuda: bool = False
    batch_size: int = 1

    def build(self, guard: Guard) -> InvertWorker:
        """Load generator and encoder."""
        return InvertWorker(self, guard)


class InvertWorker:
    """Holds generator and encoder; makes one block of the stage, or a part of one, at a time."""

    def __init__(self, task: InvertTask, guard: Guard) -> None:
        import generators

        identity, spec = task.identity, task.identity.spec
        self.task, self.guard = task, guard
        self.device = use_threads(spec.threads, task.cuda)
        self.generator = generators.load(identity.generator_uri, self.device)
        if self.generator.facts.fingerprint != identity.facts.fingerprint:
            raise UsageError(
                f"generator {identity.generator_uri!r} has fingerprint "
                f"{self.generator.facts.fingerprint!r}, the store was made for "
                f"{identity.facts.fingerprint!r}: the file changed during the run; start again"
            )
        self.encoder = None
        if identity.encoder_uri is not None:
            from generators.encoders.load import load_encoder

            self.encoder = load_encoder(identity.encoder_uri, self.device, identity.space)
            if self.encoder.fingerprint != identity.method["encoder"]:
                raise UsageError(
                    f"encoder {identity.encoder_uri!r} has fingerprint "
                    f"{self.encoder.fingerprint!r}, the store was made with "
                    f"{identity.method['encoder']!r}: the file changed during the run; start again"
                )
        self.perceptual = None
        if spec.measured_by is not None:
            from generators.perceptual import load_perceptual

            by = spec.measured_by
            self.perceptual = load_perceptual(by.network, by.linear, self.device)
        models = [
            None if model is None else model.fingerprint
            for model in (self.encoder, self.perceptual if spec.compared_by else None)
        ]
        now = method_of(spec, *models)
        if now != identity.method:
            raise UsageError(
                f"method {now!r} is not the store's, {identity.method!r}: a file that 'invert' "
                "names changed during the run; start again"
            )
        self.store = LatentStore.open(identity.path, "r+")
        self.beside = identity.beside(self.store)
        self.files = PartFiles.beside(self.store.path)
        editability(self.generator, self.generator.sample(identity.space, [0]))  # made once
        self.reader = BlockImages(
            task.source, self.generator.facts.size, spec.crop, spec.max_pixels, spec.threads
        )

    def process(self, work: BlockWork) -> dict[str, Any]:
        """Invert a block and commit it; see `pipelines.engine.blocks.Worker`."""
        stage = work.stages[INVERT]
        if self.reader.still_failing(stage):
            return {"unchanged": True}
        n = len(work)
        arrays = {
            array.path: np.full((n, *array.row_shape), np.nan, np.float32)
            for array in self.task.identity.arrays
        }
        status, reason = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
        large = None
        if self.beside is not None:
            large = GrowingBlocks(self.beside, self.store, work.block, stage.fp, work.rows)
        shrunk = False
        for batch in self.reader.batches(work, self.task.batch_size):
            set_aside(work, batch)
            status[batch.rows], reason[batch.rows] = batch.status, batch.reason
            good = np.flatnonzero(batch.status == Status.OK)
            if not good.size:
                continue
            results, halved = self._invert(work, batch, reason)
            shrunk |= halved
            for part, found in results:
                keep = good[(good >= part.start) & (good < part.stop)]
                lost = keep[~found.finite[keep - part.start]]
                reason[batch.start + lost] = Reason.NOT_FINITE
                keep = keep[found.finite[keep - part.start]]
                rows, at = batch.start + keep, keep - part.start
                measured = measure(batch.images[keep], found.drawn[at], self.perceptual)
                for name, values in measured.items():
                    if (path := f"quality/{name}") in arrays:
                        arrays[path][rows] = values
                for path in found.arrays.keys() & arrays.keys():
                    arrays[path][rows] = found.arrays[path][at]
                if large is not None:
                    apart = [array.path for array in self.task.identity.large]
                    large.put({path: found.arrays[path][at] for path in apart}, rows)
            status[reason != Reason.NONE] = Status.QUARANTINED
            if large is not None:
                self.guard.check()
                large.finish(status[: batch.rows.stop], reason[: batch.rows.stop])
        self.guard.check()
        if large is not None:
            large.finish(status, reason)
        self.files.write(self.store, INVERT, work, self.task.batch_size, arrays, status, reason)
        return {"ok": int((status == Status.OK).sum()), "shrunk": shrunk, "stages": [INVERT]}

    def attempt(self, rows: int) -> None:
        """Find codes of made-up images; see `pipelines.engine.batch_size.Attempting`."""
        images = np.full((rows, *self.generator.facts.size, 3), FILLER, np.uint8)
        zeros = np.zeros(rows, np.int64)
        labels = zeros if self.generator.facts.classes else None
        brief = self.task.identity.spec.brief()
        found = self._codes(images, ["00" * 32], slice(0, rows), labels, zeros, brief)
        measure(images, found.drawn, self.perceptual)

    def _invert(
        self, work: BlockWork, batch: Batch, reason: NDArray[np.uint8]
    ) -> tuple[list[tuple[slice, Found]], bool]:
        """What was found for all positions of a batch."""

        def give_up(position: int) -> None:
            if position < batch.count and batch.status[position] == Status.OK:
                reason[batch.start + position] = Reason.OUT_OF_MEMORY

        ids = work.image_ids[batch.rows]
        given = {"labels": work.labels, "entries": work.entries}
        own: dict[str, Any] = {
            name: padded(np.maximum(numbers[batch.rows], 0), len(batch.images))
            for name, numbers in given.items()
            if numbers is not None
        }
        compute = partial(self._codes, batch.images, ids, **own)
        return in_halves(compute, slice(0, len(batch.images)), give_up)

    def _codes(
        self,
        images: NDArray[np.uint8],
        image_ids: Sequence[str],
        rows: slice,
        labels: NDArray[np.int64] | None = None,
        entries: NDArray[np.int64] | None = None,
        settings: InvertSpec | None = None,
    ) -> Found:
        import torch

        spec = self.task.identity.spec if settings is None else settings
        rngs = []
        if spec.needs.random:
            last = len(image_ids) - 1
            ids = [image_ids[min(i, last)] for i in range(rows.start, rows.stop)]
            rngs = [row_generator(self.task.identity.seed, SEED_STAGE, id_) for id_ in ids]
        generator: Any = self.generator
        if labels is not None:
            generator = Labelled(generator, labels[rows])
        target = torch.from_numpy(to_float(images[rows])).to(self.device)
        own = () if entries is None else entries[rows].tolist()
        found = invert_batch(
            Images(target, generator, spec, self.encoder, rngs, self.perceptual, own)
        )
        space, code = self.task.identity.space, found.code
        parts = {f"latents/{space}": code.main}
        parts |= {companion_path(space, k): v for k, v in code.companions.items()}
        usable = torch.ones(len(target), dtype=torch.bool, device=self.device)
        for values in parts.values():
            usable &= torch.isfinite(values).flatten(1).all(dim=1)
        code = code.changed(
            lambda values: torch.where(usable.view(-1, *[1] * (values.ndim - 1)), values, 0.0)
        )
        drawn = render(generator, code, spec.noise_mode)
        usable &= torch.isfinite(drawn).flatten(1).all(dim=1)
        drawn = torch.where(usable[:, None, None, None], drawn, 0.0)
        parts |= {f"quality/{k}": v for k, v in found.qualities.items()}
        parts[f"quality/{EDITABILITY}"] = editability(self.generator, code)
        return Found(
            {path: values.cpu().numpy() for path, values in parts.items()},
            to_uint8(drawn.cpu().numpy()),
            usable.cpu().numpy(),
        )


@dataclass(frozen=True, eq=False)
class Found:
    """What was found for the rows of a batch.

    arrays : path in the store -> (n, ...), but for what is measured of the drawn images
    drawn : uint8 (n, height, width, 3), of rows that are not finite something
    finite : bool (n,)
    """

    arrays: dict[str, NDArray[Any]]
    drawn: NDArray[np.uint8]
    finite: NDArray[np.bool_]


# ---------------------------------------------------------------------------------------------
# The run


@dataclass(frozen=True)
class InvertResult:
    """What a run did and what the store now holds.

    counts : {"ok", "quarantined", "removed", "pending", "reasons": {name: rows}}.
    blocks_done, blocks_skipped : made now, and complete already.
    shrunk : a batch had to be halved for memory, so that codes agree with those of an undisturbed
        run up to rounding only.
    batch_size : images at a time; None where nothing was to be inverted.
    notes : see `InvertPlan`.
    load_s, busy_s : model loading and block times, summed over workers.
    """

    store_path: str
    store_fp: str
    counts: dict[str, Any]
    seconds: float
    blocks_done: int
    blocks_skipped: int
    shrunk: bool
    batch_size: int | None
    load_s: float
    busy_s: float
    notes: Sequence[str] = ()


def invert(
    index: DatasetIndex,
    source: Source,
    identity: StoreIdentity,
    *,
    engine: BlockEngine,
    progress: Progress | None = None,
    lock: StoreLock | None = None,
    blocks: Container[int] | None = None,
    actor_memory_mb: int = RaySpec().actor_memory_mb,
    tell: Callable[[Probe], None] | None = None,
) -> InvertResult:
    """Bring a store up to date with the index, making missing blocks only.

    source : reads an image by its uri; picklable.
    identity : the store, with the settings and models of its codes; see
        `pipelines.folder.store_identity.identify`.
    engine : a `pipelines.engine.ray.RayEngine`; not started when nothing is missing.
    progress : called with (rows done, rows in all).
    lock : the store's, where the caller holds it already.
    blocks : the only ones to make, by default all that are missing.
    actor_memory_mb : what an actor stays below where the batch size is "auto".
    tell : told what the first batch took, which an actor makes by itself, before the others

    May be killed at any moment and called again: what is committed stays, the rest is made anew
    with the same bytes. Raises LockedError when another run holds the store, and the models' and
    the store's own errors.
    """
    started = time.monotonic()
    held = StoreLock(identity.path) if lock is None else lock
    if lock is None:
        held.acquire()
    try:
        plan = plan_invert(index, identity)
        store = identity.create(index.n_rows, afresh=plan.afresh)
        store.delete_partials()
        for beside in siblings_of(store, "r+"):
            beside.delete_partials()
        placed = replace(identity.as_stored(), path=os.path.abspath(identity.path))
        cuda = engine.gpus_per_actor > 0
        todo = [work for work in plan.work if blocks is None or work.block in blocks]
        batch_size: int | None = None
        task: sample.SampleTask | InvertTask = sample.SampleTask(placed, cuda)
        if todo and not identity.sampled:
            batch_size = _batch_size(
                InvertTask(source, placed, cuda), engine, held, actor_memory_mb, index.n_rows
            )
            task = InvertTask(source, placed, cuda, batch_size)
        rows_at_once = batch_size or sample.ROWS
        actors = identity.spec.actors or engine.actors
        sharing = sharing_of(identity, rows_at_once, actors)
        waiting = {INVERT: [work.stages[INVERT] for work in plan.work]}
        shared = SharedBlocks(store, todo, sharing, {INVERT: rows_at_once}, waiting)
        left = sum(map(len, shared.parts))
        row_bytes = sum(array.row_bytes for array in (*identity.arrays, *identity.large))
        busy = min(actors, len(shared.parts))

        def probed(receipt: Mapping[str, Any]) -> None:
            if tell is not None and not identity.sampled:
                tell(Probe(receipt["rows"], receipt["seconds"], left, busy, row_bytes))

        done = run_shared(
            engine,
            task,
            shared,
            held,
            n_blocks=plan.n_blocks,
            n_rows=plan.n_rows,
            actors=actors,
            progress=progress,
            tell=probed,
        )
        if todo:
            store.refresh()
        counts = counts_of(store, INVERT)
    finally:
        if lock is None:
            held.release()
    return InvertResult(
        store_path=identity.path,
        store_fp=identity.store_fp,
        counts=counts,
        seconds=time.monotonic() - started,
        blocks_done=done.blocks_done,
        blocks_skipped=done.blocks_skipped,
        shrunk=done.shrunk,
        batch_size=batch_size,
        load_s=done.load_s,
        busy_s=done.busy_s,
        notes=plan.notes,
    )


def _batch_size(
    task: InvertTask, engine: BlockEngine, lock: StoreLock, memory_mb: int, n_rows: int
) -> int:
    """Images at a time: as the settings say, or as many as memory allows."""
    identity = task.identity
    if identity.spec.batch_size != AUTO:
        return identity.spec.batch_size
    row_bytes = sum(array.row_bytes for array in identity.arrays)
    trial = Trial.of_blocks(memory_mb * MB, identity.block_rows, row_bytes, n_rows)
    return chosen(engine, task, lock, trial)
