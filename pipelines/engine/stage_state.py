"""What a store holds of a stage: what its blocks still need, and how its rows fared."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.engine.blocks import Rows, StageWork
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import TRANSIENT, Reason, Status


class StageState:
    """What a store holds of one stage now: commits and reasons, read once."""

    def __init__(self, store: LatentStore, stage: str) -> None:
        self._store = store
        self._commits = store.committed(stage)
        self._reasons = store.reason(stage)

    def commit(self, block: int) -> bytes | None:
        """The fingerprint that a block is committed with; None when it is not."""
        fp: bytes = self._commits[block].tobytes()
        return fp if any(fp) else None

    def needs(
        self, block: int, fp: bytes, rows: Rows, retry: frozenset[Reason] = TRANSIENT
    ) -> StageWork | None:
        """What a block needs to be committed with ``fp``; None when it is done.

        retry : reasons that may be gone by now. Rows that did not fit into memory need the whole
            block again; unreadable ones are looked at first.
        """
        if self._commits[block].tobytes() != fp:
            return StageWork(fp)
        place = self._store.block_slice(block)
        reasons = self._reasons[place]
        again = np.flatnonzero(np.isin(reasons, list(retry)))
        if not again.size:
            return None
        if (reasons[again] == Reason.OUT_OF_MEMORY).any():
            return StageWork(fp)
        found = [(rows.image_ids[i], rows.uris[i], int(reasons[i - place.start]))
                 for i in (again + place.start).tolist()]  # fmt: skip
        return StageWork(fp, found)


def counts_of(store: LatentStore, stage: str) -> dict[str, Any]:
    """{"ok", "quarantined", "removed", "pending", "reasons": {name: rows}} of one stage."""
    status, reason = store.status(stage), store.reason(stage)
    counts: dict[str, Any] = {
        member.name.lower(): int((status == member).sum()) for member in Status
    }
    reasons = reason[status == Status.QUARANTINED]
    counts["reasons"] = {
        member.name.lower(): int((reasons == member).sum())
        for member in Reason
        if (reasons == member).any()
    }
    return counts
