"""Codes drawn from the generator's prior, in place of inverted images (stage "invert").

The stage writes ``latents/<space>`` and what a code of that space cannot be drawn without: there is
no image that a drawn one could be compared with, so a store of draws has no ``quality``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.batches import MANY, in_batches
from pipelines.engine.blocks import BlockWork, use_threads
from pipelines.engine.parts import PartFiles
from pipelines.engine.writer_guard import Guard
from pipelines.folder.store_identity import INVERT, StoreIdentity
from pipelines.sources.sampled import row_id, seed_of
from schemas.errors import UsageError
from schemas.index import REMOVED
from schemas.store.latent_store import LatentStore
from schemas.store.layout import companion_path
from schemas.store.reasons import Reason, Status

if TYPE_CHECKING:
    from generators.protocols import Code, Generator

#: Raised whenever a code changes for the same inputs.
VERSION = 1
#: What a part of a block has a multiple of.
ROWS = MANY


@dataclass(frozen=True)
class SampleTask:
    """How an actor draws: small and picklable; the model is loaded from its uri."""

    identity: StoreIdentity
    cuda: bool = False

    def build(self, guard: Guard) -> SampleWorker:
        """Load the generator."""
        return SampleWorker(self, guard)


class SampleWorker:
    """Holds the generator; makes one block of the stage, or a part of one, at a time."""

    def __init__(self, task: SampleTask, guard: Guard) -> None:
        import generators

        self.identity, self.guard = task.identity, guard
        device = use_threads(self.identity.spec.threads, task.cuda)
        self.generator = generators.load(self.identity.generator_uri, device)
        if self.generator.facts.fingerprint != self.identity.facts.fingerprint:
            raise UsageError(
                f"generator {self.identity.generator_uri!r} has fingerprint "
                f"{self.generator.facts.fingerprint!r}, the store was made for "
                f"{self.identity.facts.fingerprint!r}: the file changed during the run; start again"
            )
        self.store = LatentStore.open(self.identity.path, "r+")
        self.files = PartFiles.beside(self.store.path)

    def process(self, work: BlockWork) -> dict[str, Any]:
        """Draw a block and commit it; see `pipelines.engine.blocks.Worker`."""
        space, truncation = self.identity.space, self.identity.method["truncation"]
        n, labels = len(work), work.labels
        seeds = [seed_of(uri) for uri in work.uris]
        classes = None if labels is None else np.maximum(labels, 0)
        arrays = draw_rows(self.generator, space, seeds, classes, truncation)
        reason = np.array([_unfit(work, i, seed) for i, seed in enumerate(seeds)], np.uint8)
        finite = np.ones(n, bool)
        for values in arrays.values():
            finite &= np.isfinite(values).reshape(n, -1).all(axis=1)
        reason[(reason == Reason.NONE) & ~finite] = Reason.NOT_FINITE
        status = np.where(reason == Reason.NONE, Status.OK, Status.QUARANTINED).astype(np.uint8)
        removed = np.array(work.states) == REMOVED
        status[removed], reason[removed] = Status.REMOVED, Reason.NONE
        for values in arrays.values():
            values[status != Status.OK] = np.nan
        self.guard.check()
        self.files.write(self.store, INVERT, work, ROWS, arrays, status, reason)
        return {"ok": int((status == Status.OK).sum()), "shrunk": False, "stages": [INVERT]}


def _unfit(work: BlockWork, offset: int, seed: int) -> Reason:
    """Why a row cannot be drawn: it has no class, or another one than it was listed with."""
    label = None if work.labels is None else int(work.labels[offset])
    if label is not None and label < 0:
        return Reason.NO_LABEL
    return Reason.NONE if row_id(seed, label) == work.image_ids[offset] else Reason.CHANGED


def draw_rows(
    generator: Generator,
    space: str,
    seeds: Sequence[int],
    labels: NDArray[np.int64] | None,
    truncation: float,
) -> dict[str, NDArray[np.float32]]:
    """Codes of seeds, of each the same, whatever the others are: path in the store -> float32
    (n, *shape of the space, or of a companion that it requires).

    labels : int64 (n,), class numbers of a class-conditional generator
    """
    import torch

    def draw(at: NDArray[np.int64]) -> Code:
        own = None if labels is None else labels[at]
        some = [seeds[i] for i in at.tolist()]
        with torch.no_grad():
            return generator.sample(space, some, labels=own, truncation=truncation)

    facts, n, main = generator.facts.space(space), len(seeds), f"latents/{space}"
    found = {main: np.empty((n, *facts.shape), np.float32)}
    beside = {name: companion_path(space, name) for name in facts.required}
    for name, path in beside.items():
        found[path] = np.empty((n, *facts.companions[name].sizes), np.float32)
    what = generator.facts.fingerprint, space, truncation
    for part, made in in_batches(n, draw, what):
        found[main][part] = made.main.float().cpu().numpy()
        for name, path in beside.items():
            found[path][part] = made.companions[name].float().cpu().numpy()
    return found
