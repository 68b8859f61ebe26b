"""Sibling stores: arrays of a store's rows that are too large to lie in it.

DESIGN section 2. Arrays above 256 KiB a row (tuned weights, feature maps, noise images) would make
blocks of gigabytes of a store whose codes are small. They lie in a store of their own beside it,
with fewer rows a block: the power of two, from 1, whose block is nearest to 32 MiB. The rows are
those of the parent, and every block lies within one of the parent's blocks.

A sibling's identity is made of its parent's, the space and its parameters; a block's fingerprint of
the parent's block and of which of these rows are OK. So a parent that was inverted anew makes
exactly the blocks stale that lie in its new blocks. A sibling is a `LatentStore` like any other: it
is read, checked and removed as they are, and written by whoever holds the parent's lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from schemas.errors import LatentflowError, StoreError
from schemas.fingerprint import canonical_json
from schemas.store.handle import Mode, exists, is_local
from schemas.store.latent_store import LatentStore
from schemas.store.layout import (
    BLOCK_BYTES,
    COMPANIONS,
    FINGERPRINT_BYTES,
    MAX_ROW_BYTES,
    ArraySpec,
    check_name,
    companion_named,
    companion_path,
)
from schemas.store.reasons import Status
from schemas.store.rows import each_once, in_runs


def apart(arrays: Sequence[ArraySpec]) -> tuple[list[ArraySpec], list[ArraySpec]]:
    """Arrays that lie in the store, and companions of codes that are too large for it."""
    large = [a for a in arrays if a.group == COMPANIONS and a.row_bytes > MAX_ROW_BYTES]
    return [a for a in arrays if a not in large], large


def sibling_block_rows(arrays: Sequence[ArraySpec], parent_block_rows: int) -> int:
    """Rows in a block: the power of two, from 1 to the parent's, whose block of all arrays is
    nearest to 32 MiB; a tie takes the smaller one."""
    row_bytes = sum(array.row_bytes for array in arrays)
    candidates = [1 << k for k in range(parent_block_rows.bit_length())]
    return min(candidates, key=lambda rows: (abs(rows * row_bytes - BLOCK_BYTES), rows))


class SiblingStore(LatentStore):
    """Large arrays of the rows of another store, its parent."""

    @classmethod
    def beside(
        cls,
        parent: LatentStore,
        space: str,
        arrays: Sequence[ArraySpec],
        *,
        stage: str,
        parameters: Mapping[str, Any] | None = None,
    ) -> Self:
        """Lay a sibling out beside its parent, or open the one of the same identity and let it
        grow to the parent's rows.

        space : the space whose codes, or companions of codes, the arrays are.
        stage : the parent's, whose rows they are of.
        parameters : what else the arrays depend on, canonical JSON.

        Raises StoreError as `LatentStore.create` does.
        """
        if not arrays:
            raise StoreError(f"a sibling of {parent.path!r} has no arrays; name at least one")
        identity = identity_of(parent.attrs, space, arrays, stage, parameters or {})
        path = cls._place(parent, identity)
        del identity["dtype"]  # follows from the arrays
        made = cls.create(path, n_rows=parent.n_rows, arrays=arrays, stages=[stage], **identity)
        return cast(Self, made)

    @classmethod
    def find(
        cls,
        parent: LatentStore,
        space: str,
        arrays: Sequence[ArraySpec],
        *,
        stage: str,
        parameters: Mapping[str, Any] | None = None,
    ) -> Self | None:
        """The sibling that `beside` would open, to read; None where there is none."""
        path = cls._place(parent, identity_of(parent.attrs, space, arrays, stage, parameters or {}))
        return cls.open(path) if exists(path) else None

    @classmethod
    def _place(cls, parent: LatentStore, identity: Mapping[str, Any]) -> str:
        folder = parent.path.rstrip("/").rpartition("/")[0]
        return cls.path_for(folder, identity["name"], cls.store_fp_of(**identity))

    @property
    def parent_fp(self) -> str:
        """The parent's ``store_fp``. Raises StoreError for a store that is nobody's sibling."""
        found = parent_fp_of(self.attrs)
        if found is None:
            raise StoreError(f"{self.path!r} is no sibling of another store; open it as one")
        return found

    @property
    def stage(self) -> str:
        """The parent's stage whose rows it holds, which is its own only one."""
        return str(self.attrs["method"]["stage"])

    @property
    def space(self) -> str:
        """The space whose codes or companions it holds."""
        return str(self.attrs["method"]["space"])

    def blocks_of(self, parent: LatentStore, block: int, part: slice | None = None) -> range:
        """The blocks that lie in one of the parent's blocks. part : in these rows of it"""
        whole = parent.block_slice(block)
        first, stop, _ = (part or slice(None)).indices(whole.stop - whole.start)
        start = (whole.start + first) // self.block_rows
        return range(start, -(-(whole.start + stop) // self.block_rows))

    # ---- fingerprints -----------------------------------------------------------------------

    def fp_of(self, block: int, parent_commit: bytes, ok: np.ndarray) -> bytes:
        """The 32 bytes that a block is committed with.

        parent_commit : the fingerprint of the parent's block that it lies in
        ok : bool (rows of the block,), which of them are OK there
        """
        identity = {
            "store_fp": self.store_fp,
            "parent": parent_commit.hex(),
            "first_row": self.block_slice(block).start,
            "ok": np.asarray(ok, bool).astype(int).tolist(),
        }
        return hashlib.sha256(canonical_json(identity)).digest()

    def expected(self, parent: LatentStore, blocks: Iterable[int] | None = None) -> list[bytes]:
        """What each block must be committed with, by what the parent holds now; zeros where the
        parent's block is not committed, or the rows are not there yet. blocks : by default all"""
        self._check_parent(parent)
        commits, ok = parent.committed(self.stage), parent.status(self.stage) == Status.OK
        found = []
        for block in range(self.n_blocks) if blocks is None else blocks:
            rows = self.block_slice(block)
            commit = commits[rows.start // parent.block_rows]
            known = commit.any() and rows.stop <= parent.n_rows
            fp = self.fp_of(block, commit.tobytes(), ok[rows]) if known else None
            found.append(fp or bytes(FINGERPRINT_BYTES))
        return found

    def waiting(self, parent: LatentStore) -> list[int]:
        """The parent's committed blocks of which something here is missing or stale, ascending."""
        expected, held = self.expected(parent), self.committed(self.stage)
        stale = {block for block, fp in enumerate(expected) if held[block].tobytes() != fp}
        found = []
        for block in np.flatnonzero(parent.committed(self.stage).any(axis=1)).tolist():
            mine = self.blocks_of(parent, block)
            if mine.stop > self.n_blocks or stale.intersection(mine):
                found.append(block)
        return found

    def _check_parent(self, parent: LatentStore) -> None:
        if parent.store_fp != self.parent_fp:
            raise StoreError(
                f"{self.path!r} is a sibling of store {self.parent_fp!r}, not of "
                f"{parent.store_fp!r} at {parent.path!r}; open the one beside its parent"
            )

    # ---- reading ----------------------------------------------------------------------------

    def rows(
        self, parent: LatentStore, rows: Sequence[int] | np.ndarray, arrays: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Arrays of some rows, name -> (m, *row_shape); by default all arrays.

        Raises StoreError for rows that are not OK here, or of a block that is not made of what the
        parent holds now: a code is never used without what belongs to it.
        """
        rows = np.asarray(rows, np.int64)
        held = np.unique(rows[(rows >= 0) & (rows < self.n_rows)] // self.block_rows).tolist()
        expected = dict(zip(held, self.expected(parent, held), strict=True))
        names = list(arrays) or self.arrays(self.stage)
        status = self.status(self.stage)
        values = {name: [] for name in names}  # type: dict[str, list[np.ndarray]]
        for row in rows.tolist():
            block = row // self.block_rows
            there = 0 <= row < self.n_rows and status[row] == Status.OK
            if not there or not self.is_committed(self.stage, block, expected[block]):
                raise StoreError(
                    f"row {row!r} has no {names!r} in {self.path!r} that belong to its code of "
                    "now; run the specification again"
                )
            for name in names:
                values[name].append(self._stored(name, slice(row, row + 1)))
        shapes = {name: self.array(name) for name in names}
        return {
            name: np.concatenate(parts)
            if parts
            else np.empty((0, *shapes[name].shape[1:]), shapes[name].dtype)
            for name, parts in values.items()
        }

    def row_values(self, parent: LatentStore, name: str, rows: np.ndarray) -> np.ndarray:
        """One array of some rows (m, *row_shape); see `rows`."""
        return self.rows(parent, rows, [name])[name]


def companions_held(store: LatentStore, stage: str, space: str) -> dict[str, LatentStore]:
    """What belongs to the codes of a space beside their main array: name -> where it lies, the
    store or a sibling; empty where codes are whole without."""
    beside = [s for s in siblings_of(store) if (s.stage, s.space) == (stage, space)]
    found = {
        companion_named(path, space): place
        for place in (store, *beside)
        for path in place.arrays(stage)
    }
    return {name: place for name, place in found.items() if name is not None}


def companions_of(
    store: LatentStore, stage: str, space: str, rows: np.ndarray, names: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """What belongs to the codes of some rows: name -> (m, *shape); by default all that is held.

    rows : int64 (m,), OK in the stage. Raises StoreError where any of it is missing or of other
    codes.
    """
    held, found = companions_held(store, stage, space), {}
    for name in names or held:
        place, path = held[name], companion_path(space, name)
        if isinstance(place, SiblingStore):
            found[name] = each_once(partial(place.row_values, store, path), rows)
        else:
            found[name] = in_runs(partial(place._stored, path), rows)
    return found


class GrowingBlocks:
    """The blocks of a sibling that lie in one block of its parent, written as rows are made.

    rows : of the parent's block, where others make the rest of it; whole blocks of the sibling, but
        for the last one

    No more is held than the blocks that are not complete yet. Each is committed with the
    fingerprint that the parent's block is going to have, and counts from when that is committed:
    write the parent's block last.
    """

    def __init__(
        self,
        store: SiblingStore,
        parent: LatentStore,
        block: int,
        parent_commit: bytes,
        rows: slice | None = None,
    ) -> None:
        self._store, self._commit = store, parent_commit
        self._first = parent.block_slice(block).start + (0 if rows is None else rows.start)
        self._left = list(store.blocks_of(parent, block, rows))
        self._held: dict[int, dict[str, np.ndarray]] = {}

    def put(self, arrays: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        """Values of some rows, name -> (m, *row_shape). rows : (m,), counted from the first of its
        own; of blocks that are not written yet."""
        rows = np.asarray(rows, np.int64) + self._first
        for block in np.unique(rows // self._store.block_rows).tolist():
            if block not in self._left:
                raise StoreError(
                    f"block {block!r} of {self._store.path!r} is written already or lies "
                    "elsewhere; give its rows before they are finished"
                )
            mine = rows // self._store.block_rows == block
            held, start = self._of(block), self._store.block_slice(block).start
            for name, values in arrays.items():
                held[name][rows[mine] - start] = values[mine]

    def finish(self, status: np.ndarray, reason: np.ndarray) -> None:
        """Write every block whose rows are all decided.

        status, reason : uint8 (m,), of its first m rows.
        """
        while self._left:
            block = self._left[0]
            rows = self._store.block_slice(block)
            part = slice(rows.start - self._first, rows.stop - self._first)
            if part.stop > len(status):
                return
            fp = self._store.fp_of(block, self._commit, status[part] == Status.OK)
            stage, arrays = self._store.stage, self._of(block)
            self._store.write_block(stage, block, arrays, status[part], reason[part], fp)
            del self._held[block], self._left[0]

    def _of(self, block: int) -> dict[str, np.ndarray]:
        if block not in self._held:
            rows = self._store.block_slice(block)
            specs = [self._store._spec_of(path) for path in self._store.arrays(self._store.stage)]
            self._held[block] = {
                spec.path: np.full(
                    (rows.stop - rows.start, *spec.row_shape), spec.fill_value, spec.dtype
                )
                for spec in specs
            }
        return self._held[block]


# ---------------------------------------------------------------------------------------------


def identity_of(
    parent: Mapping[str, Any],
    space: str,
    arrays: Sequence[ArraySpec],
    stage: str,
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """What a sibling's fingerprint is made of, as `LatentStore.store_fp_of` takes it.

    parent : the parent's attributes, with its ``store_fp``.
    """
    check_name(space, "space")
    method = {"sibling_of": parent["store_fp"], "space": space, "stage": stage,
              "parameters": dict(parameters)}  # fmt: skip
    dtypes = {array.dtype for array in arrays if array.group == "latents"}
    return {
        "name": f"{parent['name']}.{space}",
        "generator_fp": parent["generator_fp"],
        "method": method,
        "seed": parent["seed"],
        "block_rows": sibling_block_rows(arrays, parent["block_rows"]),
        "dtype": min(dtypes, default="float32"),
        "preprocess_version": parent["preprocess_version"],
    }


def parent_fp_of(attrs: Any) -> str | None:
    """Of a store's attributes: the ``store_fp`` of the store that it is a sibling of, if any."""
    method = attrs.get("method") if isinstance(attrs, Mapping) else None
    found = method.get("sibling_of") if isinstance(method, Mapping) else None
    return found if isinstance(found, str) else None


def siblings_of(parent: LatentStore, mode: Mode = "r") -> list[SiblingStore]:
    """The siblings that lie beside a store in a local folder, by name. Others' stores and what
    cannot be opened are passed over."""
    if not is_local(parent.path):
        return []
    here, found = Path(parent.path), []
    for path in sorted(here.parent.glob(f"{parent.attrs['name']}.*/zarr.json")):
        try:
            store = SiblingStore.open(path.parent, mode)
        except LatentflowError:
            continue
        if parent_fp_of(store.attrs) == parent.store_fp:
            found.append(store)
    return found
