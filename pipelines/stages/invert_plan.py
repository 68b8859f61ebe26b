"""What inverting is going to do: which blocks are missing, and how they are shared out.

Nothing here needs torch or Ray.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.blocks import BlockWork, Rows, StageWork
from pipelines.engine.parts import Sharing
from pipelines.engine.stage_state import StageState
from pipelines.folder.store_identity import INVERT, StoreIdentity, labels_of
from pipelines.stages import sample
from pipelines.stages.entries import entries_of
from schemas.fingerprint import digest
from schemas.index import DatasetIndex
from schemas.sections.invert import InvertSpec
from schemas.sections.types import AUTO
from schemas.store.latent_store import LatentStore
from schemas.store.sibling import sibling_block_rows
from transforms.inversion.catalog import method_named

#: Raised whenever a code or a quality changes for the same inputs (a golden test notices).
VERSION = 1
#: Passes through a model that a part takes at most, but for a part of a single batch: what is lost
#: when an actor dies, and how far apart two steps of the progress are.
PART_PASSES = 1 << 15


@dataclass(frozen=True)
class InvertPlan:
    """Where the codes go and which blocks are missing.

    work : blocks that are not committed with the expected fingerprint, or hold rows to try again.
    fps : expected fingerprint of every block.
    notes : how what the method knows beforehand met the rows, where it knows anything.
    """

    store_path: str
    store_fp: str
    n_blocks: int
    n_rows: int
    work: list[BlockWork]
    fps: list[bytes]
    notes: Sequence[str] = ()

    @property
    def afresh(self) -> bool:
        """Whether every block is to be made."""
        made = [work for work in self.work if work.stages[INVERT].retry is None]
        return len(made) == self.n_blocks


def invert_inputs(spec: InvertSpec, sampled: bool = False) -> dict[str, Any]:
    """What blocks depend on besides the store's identity and their rows."""
    if sampled:
        return {"version": sample.VERSION}
    return {"version": VERSION, **block_inputs(sampled, spec, None)}


def block_inputs(
    sampled: bool,
    spec: InvertSpec,
    labels: NDArray[np.int64] | None,
    entries: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """What a block's fingerprint holds besides its rows' identity. labels, entries : of its rows.

    A method's first version is left out: blocks of releases that knew no versions stay current.
    """
    found: dict[str, Any] = {}
    if not sampled:
        version = method_named(spec.method).versions(spec)
        found = {"max_pixels": spec.max_pixels, **({"method": version} if version != 1 else {})}
    for name, numbers in (("labels", labels), ("entries", entries)):
        if numbers is not None:
            found[name] = digest(np.ascontiguousarray(numbers, "<i8").tobytes())
    return found


def plan_invert(index: DatasetIndex, identity: StoreIdentity) -> InvertPlan:
    """Which blocks of the store are missing; a store that does not exist yet misses them all."""
    probe = _Outline(identity, index.n_rows)
    labels, looked = labels_of(identity.dataset, index, identity.facts), entries_of(identity, index)
    rows = Rows(index, probe, labels, None if looked is None else looked.entries)
    version = sample.VERSION if identity.sampled else VERSION
    fps = []
    for block in range(probe.n_blocks):
        at = probe.block_slice(block)
        own = [None if each is None else each[at] for each in (rows.labels, rows.entries)]
        settings = block_inputs(identity.sampled, identity.spec, *own)
        fps.append(probe.block_fp(INVERT, block, rows.identity(block), version, settings))
    known, waiting = 0, set()
    state: StageState | None = None
    if os.path.exists(os.path.join(identity.path, "zarr.json")):
        store = LatentStore.open(identity.path)
        if store.n_rows <= index.n_rows and INVERT in store.stages():
            known, state = store.n_blocks, StageState(store, INVERT)
            waiting = identity.waiting(store)
    work = []
    for block, fp in enumerate(fps):
        there = state is not None and block < known and block not in waiting
        needs = state.needs(block, fp, rows) if state and there else StageWork(fp)
        if needs is not None:
            work.append(rows.work(block, {INVERT: needs}))
    notes = () if looked is None else looked.notes
    n_blocks, n_rows = probe.n_blocks, index.n_rows
    return InvertPlan(identity.path, identity.store_fp, n_blocks, n_rows, work, fps, notes)


def sharing_of(identity: StoreIdentity, batch_size: int, actors: int) -> Sharing:
    """How the stage's blocks are cut into parts.

    batch_size : images at a time
    """
    at_once = batch_size
    if identity.large:
        at_once = math.lcm(batch_size, sibling_block_rows(identity.large, identity.block_rows))
    most = identity.block_rows
    if not identity.sampled:
        passes = method_named(identity.spec.method).cost(identity.spec).passes
        most = max(PART_PASSES // max(passes, 1), 1)
    return Sharing(actors, at_once, most, probe=not identity.sampled)


class _Outline(LatentStore):
    """The geometry and fingerprint of a store that may not exist yet."""

    def __init__(self, identity: StoreIdentity, n_rows: int) -> None:
        super().__init__(identity.path)
        self._attrs = {
            "store_fp": identity.store_fp,
            "n_rows": n_rows,
            "block_rows": identity.block_rows,
        }

    @property
    def attrs(self) -> dict[str, Any]:
        return self._attrs


def actors_busy(identity: StoreIdentity, actors: int, wanted: InvertPlan) -> list[str]:
    """How many actors will have work, in words; nothing where the batch size is not known."""
    size = identity.spec.batch_size
    if identity.sampled or size == AUTO or not wanted.work:
        return []
    parts = sharing_of(identity, size, actors).parts(wanted.work)
    busy, most = min(actors, len(parts)), max(map(len, parts))
    told = f"{len(parts)} parts of at most {most} rows: {busy} of {actors} actors will have work"
    return [told + ("; a smaller 'invert.batch_size' makes more parts" if busy < actors else "")]
