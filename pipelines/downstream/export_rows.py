"""The rows of a run that an export takes, read block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from pipelines.folder.likeness import RENDER, cosines, likenesses
from pipelines.folder.store_identity import INVERT
from schemas.errors import DataError, StoreError
from schemas.index import DatasetIndex
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Status
from schemas.store.rows import sort_out

MEASURED = ("annotations", "landmarks")
EXPORT_VERSION = 1
"""Version of what exports hold; it stands in their facts."""


def annotation_stages(store: LatentStore, groups: Sequence[str] = MEASURED) -> list[str]:
    """Names of the store's stages that write arrays of these groups, sorted."""
    return [
        stage
        for stage in store.stages()
        if any(array.split("/")[0] in groups for array in store.arrays(stage))
    ]


@dataclass(frozen=True, eq=False)
class ExportRows:
    """Rows of a store and its index; make one with `of`.

    taken : bool (n_rows,), rows that the export holds
    done : stage -> bool (n_rows,), rows that the stage has finished; other rows hold fill values
    commits : stage -> uint8 (n_blocks, 32), the blocks' fingerprints when the export began
    left_out : cause -> number of rows that are not taken
    """

    store: LatentStore
    index: DatasetIndex
    taken: np.ndarray
    done: dict[str, np.ndarray]
    commits: dict[str, np.ndarray]
    left_out: dict[str, int]

    @classmethod
    def of(cls, store: LatentStore, index: DatasetIndex, required: Sequence[str] = ()) -> Self:
        """Rows that are OK in all required stages and still in the dataset; without any: all rows.

        Raises StoreError when the store has another number of rows than the index, or lacks a
        stage; DataError when no row is left.
        """
        if store.n_rows != index.n_rows:
            raise StoreError(
                f"store {store.path!r} has {store.n_rows!r} rows, the index {index.n_rows!r}; "
                "bring the store up to date first"
            )
        stages = [s for s in (INVERT, *annotation_stages(store)) if s in store.stages()]
        lacking = sorted(set(required) - set(stages))
        if lacking:
            raise StoreError(
                f"store {store.path!r} has no stages {lacking!r}, only {stages!r}; run them first"
            )
        commits = {stage: store.committed(stage) for stage in stages}
        status = {stage: store.status(stage) for stage in stages}
        taken = np.ones(store.n_rows, bool)
        left_out: dict[str, int] = {}
        if required:
            gone = ~index.active
            flags = [np.where(gone, np.uint8(Status.REMOVED), status[s]) for s in required]
            taken, left_out = sort_out(flags)
        if not taken.any() and (status[INVERT] == Status.OK).any():
            measured = {s: int((status[s] == Status.OK).sum()) for s in required if s != INVERT}
            raise DataError(
                f"no row of store {store.path!r} was measured by every annotator, which this "
                f"format needs; rows measured: {measured!r}: use another format, such as 'npz' or "
                "'parquet', where missing values are marked"
            )
        if not taken.any():
            cure = "run the specification first"
            if not left_out.get("pending"):
                cure = "'latentflow export --as annotations' says why, row by row"
            raise DataError(
                f"no row of store {store.path!r} is finished: {left_out!r} of {store.n_rows!r}; "
                f"{cure}"
            )
        done = {stage: flags == Status.OK for stage, flags in status.items()}
        return cls(store, index, taken, done, commits, left_out)

    @property
    def n(self) -> int:
        """Number of rows taken."""
        return int(self.taken.sum())

    @property
    def stages(self) -> list[str]:
        """Inversion, then the annotation stages."""
        return list(self.done)

    @property
    def not_measured(self) -> dict[str, int]:
        """Stage -> rows taken that it did not finish, where there are any."""
        counts = {s: int((self.taken & ~done).sum()) for s, done in self.done.items()}
        return {stage: count for stage, count in counts.items() if count}

    @cached_property
    def arrays(self) -> dict[str, str]:
        """Array -> the stage that writes it; inversion's first, then by stage and name."""
        return {name: stage for stage in self.stages for name in self.store.arrays(stage)}

    @cached_property
    def likenesses(self) -> dict[str, tuple[str, str]]:
        """Quality ``quality/<annotator>`` -> the arrays of embeddings whose cosines it is."""
        return {
            f"quality/{name}": (f"annotations/{name}", f"annotations/{name}{RENDER}")
            for name in likenesses(self.store)
        }

    @property
    def spaces(self) -> list[str]:
        """Names of all stored arrays of codes."""
        return [a.split("/")[1] for a in self.arrays if a.startswith("latents/")]

    def facts(self) -> dict[str, Any]:
        """What every export says about itself, as JSON."""
        attrs = self.store.attrs
        return {
            "export_version": EXPORT_VERSION,
            "name": attrs["name"],
            "generator_fp": attrs["generator_fp"],
            "store_fp": attrs["store_fp"],
            "preprocess_version": attrs["preprocess_version"],
            "spaces": self.spaces,
            "rows": self.n,
            "left_out": self.left_out,
            "not_measured": self.not_measured,
        }

    # ---- reading ----------------------------------------------------------------------------

    def rows(self, block: int) -> np.ndarray:
        """int64 (m,): numbers of the block's rows that are taken, ascending."""
        part = self.store.block_slice(block)
        return np.flatnonzero(self.taken[part]) + part.start

    def ok(self, stage: str, block: int) -> np.ndarray:
        """bool (m,): which of the block's rows taken the stage has finished."""
        return self.done[stage][self.rows(block)]

    def measured(self, array: str, block: int) -> np.ndarray:
        """bool (m,): which of the block's rows taken have a value in an array."""
        parts = self.likenesses.get(array, (array,))
        return np.logical_and.reduce([self.ok(self.arrays[part], block) for part in parts])

    def read(self, array: str, block: int) -> np.ndarray:
        """(m, *row_shape): values of the block's rows taken, fill values where not finished.

        Raises StoreError when the block was written again since the export began.
        """
        if array in self.likenesses:
            of, render = (self.read(part, block) for part in self.likenesses[array])
            return cosines(of, render).astype(np.float32)
        stage, part = self.arrays[array], self.store.block_slice(block)
        stored = self.store.array(array)
        ok = self.ok(stage, block)
        values = np.full((len(ok), *stored.shape[1:]), stored.fill_value, stored.dtype)
        if ok.any():
            self._unchanged(stage, block)
            found = np.asarray(stored[part])
            self._unchanged(stage, block)
            values[ok] = found[self.rows(block)[ok] - part.start]
        return values

    def chunks(self, array: str) -> Iterator[np.ndarray]:
        """Values of all rows taken, a block at a time."""
        for block in range(self.store.n_blocks):
            yield self.read(array, block)

    def _unchanged(self, stage: str, block: int) -> None:
        if self.store.commit_of(stage, block) != self.commits[stage][block].tobytes():
            raise StoreError(
                f"block {block!r} of stage {stage!r} in {self.store.path!r} was rewritten during "
                "the export; wait for the writing run to end and export again"
            )
