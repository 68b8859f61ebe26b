"""The latent store: codes, scores and landmarks of a data set's rows, in committed row blocks.

DESIGN section 2, "What is stored". To write a block of a stage: its commit is zeroed, its arrays
are written, its commit is written last; a block counts only while its commit is not zero (and,
where a fingerprint is expected, equal to it). A block may be written twice, also at the same time
(Ray retries): every object is replaced atomically and is a pure function of what it holds.

One process at a time may write (``schemas.store.lock``); its workers may write different blocks.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr

from schemas import atomic
from schemas.errors import StoreError, UnalignedWriteError
from schemas.fingerprint import canonical_json, digest
from schemas.store.handle import KIND, StoreHandle, exists, is_local, members, open_group, target
from schemas.store.layout import (
    FINGERPRINT_BYTES,
    LAYOUT_VERSION,
    STAGE_GROUPS,
    ArraySpec,
    block_rows_for,
    check_dimensions,
    check_name,
    check_row_sizes,
    choose_block_rows,
    commit_layout,
    data_layout,
    flag_layout,
)
from schemas.store.reasons import Reason, Status
from schemas.store.rows import OkRows, check_flags, check_values, sort_out

__all__ = ["LAYOUT_VERSION", "ArraySpec", "LatentStore", "OkRows", "block_rows_for"]

REASONS = {reason.name.lower(): int(reason) for reason in Reason}
STATUSES = {status.name.lower(): int(status) for status in Status}


class LatentStore(StoreHandle):
    """A latent store on a local path or any URL that fsspec opens.

    Holds a path and a mode; the Zarr handles are opened when first needed, and are not pickled,
    so that an instance travels cheaply to Ray and Beam workers.
    """

    # ---- identity ---------------------------------------------------------------------------

    @staticmethod
    def store_fp_of(
        *,
        name: str,
        generator_fp: str,
        method: Mapping[str, Any],
        seed: int,
        block_rows: int,
        dtype: str = "float32",
        preprocess_version: int = 1,
    ) -> str:
        """Identity of a store, 64 hex digits: H(layout version, data set name, generator_fp,
        method and its parameters, seed, preprocessing version, dtype, block rows)."""
        return digest(
            {
                "layout_version": LAYOUT_VERSION,
                "name": name,
                "generator_fp": generator_fp,
                "method": dict(method),
                "seed": seed,
                "preprocess_version": preprocess_version,
                "dtype": dtype,
                "block_rows": block_rows,
            }
        )

    # ---- create and open --------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        name: str,
        generator_fp: str,
        method: Mapping[str, Any],
        seed: int,
        n_rows: int,
        arrays: Sequence[ArraySpec],
        block_rows: int | None = None,
        stages: Sequence[str],
        preprocess_version: int = 1,
        notes: Mapping[str, Any] | None = None,
    ) -> LatentStore:
        """Lay out a store, or open the one of the same identity (and finish laying it out).

        arrays : belong to ``stages[0]``; further stages get theirs by ``add_arrays``. All arrays
            of group "latents" have one dtype, which is part of the identity.
        block_rows : None takes ``block_rows_for`` the largest array.
        n_rows : an existing store with fewer rows grows.
        notes : further attributes of a new store, which are not part of its identity.

        Raises StoreError when ``path`` holds a store of another identity or with more rows.
        """
        if not stages:
            raise StoreError(f"store {name!r} has no stages; name at least one, such as 'invert'")
        if n_rows < 1:
            raise StoreError(f"store {name!r} has {n_rows!r} rows; it needs at least one")
        check_name(name, "store")
        check_row_sizes(arrays)
        dtypes = sorted({spec.dtype for spec in arrays if spec.group == "latents"})
        if len(dtypes) > 1:
            raise StoreError(f"latents have dtypes {dtypes!r}; use one dtype for all of them")
        attrs: dict[str, Any] = {
            "kind": KIND,
            "layout_version": LAYOUT_VERSION,
            "name": name,
            "generator_fp": generator_fp,
            "method": dict(method),
            "seed": seed,
            "preprocess_version": preprocess_version,
            "dtype": dtypes[0] if dtypes else "float32",
            "block_rows": choose_block_rows(arrays, block_rows),
        }
        attrs["store_fp"] = cls.store_fp_of(
            **{key: attrs[key] for key in attrs if key not in ("kind", "layout_version")}
        )
        canonical_json(attrs)
        if exists(path):
            store = cls.open(path, "r+")
            if store.store_fp != attrs["store_fp"]:
                differs = [key for key in attrs if store.attrs.get(key) != attrs[key]]
                was = {key: store.attrs.get(key) for key in differs}
                now = {key: attrs[key] for key in differs}
                raise StoreError(
                    f"store {store.path!r} was made with {was!r}, not with {now!r}; "
                    "use another path for another identity"
                )
        else:
            group = zarr.create_group(
                target(path), zarr_format=3, attributes={**(notes or {}), **attrs, "n_rows": n_rows}
            )
            store = cls(path, "r+")
            store._group = group
            store._attrs = dict(group.attrs)
        for position, stage in enumerate(stages):
            store.add_arrays(stage, arrays if position == 0 else ())
        if n_rows != store.n_rows:
            store.grow(n_rows)
        return store

    # ---- laying out -------------------------------------------------------------------------

    def add_arrays(self, stage: str, arrays: Sequence[ArraySpec]) -> None:
        """Add a stage and the arrays it writes; what is there already stays (idempotent).

        A stage is the unit of commit, so a new array in an existing stage, or other attributes
        (for instance other score names), make all blocks of that stage uncommitted. Give every
        model that may come or go a stage of its own.

        Raises StoreError when an array exists with another shape or dtype, or in another stage.
        """
        check_name(stage, "stage")
        self._writable()
        if self._has(stage, arrays):
            return
        group = self._open()
        owners = {path: other for other in self.stages() for path in self.arrays(other)}
        there = {spec.path: self._spec_of(spec.path) for spec in arrays if spec.path in group}
        for spec in arrays:
            if owners.get(spec.path, stage) != stage:
                raise StoreError(
                    f"array {spec.path!r} belongs to stage {owners[spec.path]!r}, not {stage!r}; "
                    "give it another name"
                )
            found = there.get(spec.path, spec)
            was, now = (found.row_shape, found.dtype), (spec.row_shape, spec.dtype)
            if was != now:
                raise StoreError(
                    f"array {spec.path!r} exists with row shape and dtype {was!r}, not {now!r}; "
                    "give it another name"
                )
        known = [self._spec_of(path) for path in owners if path not in there]
        check_dimensions([*known, *arrays])
        check_row_sizes([*known, *arrays])
        self._own_metadata()
        for name in sorted({*STAGE_GROUPS, *(spec.group for spec in arrays)}):
            if name not in group:
                group.create_group(name, attributes={"layout_version": LAYOUT_VERSION})
        for spec in arrays:
            changed = spec.path in there and there[spec.path].attrs != spec.attrs
            if changed or spec.path not in owners:
                self._uncommit(stage)  # first: a crash after this line loses no truth
            if spec.path not in there:
                layout = data_layout(spec, self.n_rows, self.block_rows)
                layout.create(group.store, self._key(spec.path), attributes=dict(spec.attrs))
            elif changed:
                self.array(spec.path).attrs.put(dict(spec.attrs))
        for name, values in (("status", STATUSES), ("reason", REASONS)):
            if f"{name}/{stage}" not in group:
                flags = flag_layout(self.n_rows, self.block_rows)
                flags.create(
                    group.store, self._key(f"{name}/{stage}"), attributes={"values": values}
                )
            elif self._values(f"{name}/{stage}") != values:
                self.array(f"{name}/{stage}").attrs.put({"values": values})
        mine = {path for path, other in owners.items() if other == stage}
        names = sorted(mine | {spec.path for spec in arrays})
        if f"commit/{stage}" not in group:
            layout = commit_layout(stage, self.n_blocks)
            layout.create(group.store, self._key(f"commit/{stage}"), attributes={"arrays": names})
        elif names != sorted(mine):
            self.array(f"commit/{stage}").attrs.put({"arrays": names})
        self._arrays = {}
        self._stages = None

    def _own_metadata(self) -> None:
        """Take the metadata away that others have consolidated into our groups, before arrays
        change: their programs would go on believing it."""
        for name in members(self._open()):
            open_group(self._open(), "r+", name)

    def _has(self, stage: str, arrays: Sequence[ArraySpec]) -> bool:
        """Whether a stage is laid out with just such arrays, and with all reasons that there are
        now; its commits are laid out last."""
        if stage not in self.stages() or self._values(f"reason/{stage}") != REASONS:
            return False
        mine = set(self.arrays(stage))
        return all(spec.path in mine and self._spec_of(spec.path) == spec for spec in arrays)

    def _values(self, path: str) -> Any:
        """The numbers of a stage's status or reasons by name, as the array's attributes have them:
        a release may know more of them than the one that laid it out."""
        return dict(self.array(path).attrs).get("values")

    def _uncommit(self, stage: str) -> None:
        """Zero the commits of all blocks of a stage, where there is one."""
        if stage in self.stages():
            for block in np.flatnonzero(self.committed(stage).any(axis=1)):
                self._write_commit(stage, int(block), bytes(FINGERPRINT_BYTES))

    def _spec_of(self, path: str) -> ArraySpec:
        array = self.array(path)
        group, name = path.split("/")
        dtype = np.dtype(array.dtype).name
        return ArraySpec(group, name, array.shape[1:], dtype, _dims_of(array), dict(array.attrs))

    def grow(self, n_rows: int) -> None:
        """Append rows: every array gets ``n_rows`` rows, the new ones pending.

        The former last block, when it was partial, becomes uncommitted: it has other rows now.
        Safe to repeat after a crash. Raises StoreError when ``n_rows`` is smaller than it was
        (rows are never taken away; mark them removed).
        """
        self._writable()
        group = self._open()
        old = self.n_rows
        if n_rows < old:
            raise StoreError(
                f"store {self.path!r} has {old!r} rows and cannot shrink to {n_rows!r}; "
                "mark rows as removed instead"
            )
        if n_rows == old:
            return
        self._own_metadata()
        n_blocks = -(-n_rows // self.block_rows)
        for stage in self.stages():
            if old % self.block_rows:
                self._write_commit(stage, self.n_blocks - 1, bytes(FINGERPRINT_BYTES))
            for path in [*self.arrays(stage), f"status/{stage}", f"reason/{stage}"]:
                array = self.array(path)
                array.resize((n_rows, *array.shape[1:]))
            self.array(f"commit/{stage}").resize((n_blocks, FINGERPRINT_BYTES))
        group.attrs.update({"n_rows": n_rows})
        self.refresh()

    def delete_partials(self) -> int:
        """Delete half-written files that a killed run left behind; their number is returned.

        Only the holder of the store's lock may do this. Stores on URLs have none.
        """
        self._writable()
        if not is_local(self.path):
            return 0
        found = Path(self.path).rglob(f"*{atomic.PARTIAL_SUFFIX}")
        partials = [path for path in found if atomic.is_partial(path)]
        for partial in partials:
            partial.unlink(missing_ok=True)
        return len(partials)

    # ---- blocks: fingerprints and commits ---------------------------------------------------

    def block_fp(
        self,
        stage: str,
        block: int,
        rows_identity: Sequence[tuple[str, Any]],
        stage_version: int,
        extra: Any = None,
    ) -> bytes:
        """The 32 bytes that identify what a block of a stage is computed from.

        rows_identity : (image_id, state) of the block's rows, in order, from the dataset index; a
            tuple that is given again, for the block's next stage, is not encoded again.
        extra : further inputs as canonical JSON or bytes: an annotator's fingerprint, for
            ``@render`` annotations also the latent block's commit.
        """
        rows = self.block_slice(block)
        if len(rows_identity) != rows.stop - rows.start:
            raise StoreError(
                f"block {block!r} of {self.path!r} has {rows.stop - rows.start!r} rows, but "
                f"{len(rows_identity)!r} identities were given; grow the store to the index first"
            )
        if rows_identity is not self._encoded[0] or not isinstance(rows_identity, tuple):
            self._encoded = rows_identity, canonical_json(rows_identity)
        own = {"stage": stage, "stage_version": stage_version, "store_fp": self.store_fp}
        # the canonical JSON of one object, whose keys are sorted
        before, after = canonical_json({"extra": extra}), canonical_json(own)
        text = before[:-1] + b',"rows":' + self._encoded[1] + b"," + after[1:]
        return hashlib.sha256(text).digest()

    # ---- writing ----------------------------------------------------------------------------

    def write_block(
        self,
        stage: str,
        block: int,
        arrays: Mapping[str, np.ndarray],
        status: np.ndarray,
        reason: np.ndarray,
        fp: bytes,
    ) -> None:
        """Write and commit one whole block of a stage.

        arrays : all arrays of the stage, name -> (rows of the block, *row_shape). Rows whose
            status is not OK are stored as fill values, whatever they hold here.
        status, reason : uint8 (rows,), see ``schemas.store.reasons``; a quarantined row has a
        reason,
            an OK row has none.
        fp : the block's fingerprint, from ``block_fp``.

        Raises UnalignedWriteError unless every array covers exactly the block's rows, StoreError
        for missing or foreign arrays, dtypes that lose values, or codes of OK rows that are not
        finite. Nothing is written then.
        """
        self._writable()
        rows = self.block_slice(block)
        n = rows.stop - rows.start
        where = f"block {block!r} of stage {stage!r} in {self.path!r}"
        if len(fp) != FINGERPRINT_BYTES or not any(fp):
            raise StoreError(f"{where} got the fingerprint {fp!r}; take it from block_fp")
        expected, given = self.arrays(stage), sorted(arrays)
        if expected != given:
            raise StoreError(f"{where} consists of {expected!r}, not of {given!r}; write them all")
        for name, value in {**arrays, "status": status, "reason": reason}.items():
            if len(np.shape(value)) == 0 or np.shape(value)[0] != n:
                raise UnalignedWriteError(
                    f"{where} has {n!r} rows, but {name!r} has shape {np.shape(value)!r}; "
                    "write the whole block"
                )
        status, reason = check_flags(status, reason, where)
        ok = status == Status.OK
        shards: dict[str, bytes] = {}
        for name in expected:
            spec = self._spec_of(name)
            layout = data_layout(spec, self.n_rows, self.block_rows)
            value = check_values(np.asarray(arrays[name]), spec, ok, where)
            shards[f"{name}/{layout.chunk_key(block)}"] = layout.encode(value)
        flags = flag_layout(self.n_rows, self.block_rows)
        for name, value in (("status", status), ("reason", reason)):
            shards[f"{name}/{stage}/{flags.chunk_key(block)}"] = flags.encode(value)
        self._write_commit(stage, block, bytes(FINGERPRINT_BYTES))
        for key, data in shards.items():
            self._put(key, data)
        self._write_commit(stage, block, fp)

    def _write_commit(self, stage: str, block: int, fp: bytes) -> None:
        self._contents.pop(stage, None)
        for kind in ("commit", "status", "reason"):
            self._read.pop(f"{kind}/{stage}", None)
        layout = commit_layout(stage, self.n_blocks)
        data = layout.encode(np.frombuffer(fp, dtype=np.uint8)[None])
        self._put(f"commit/{stage}/{layout.chunk_key(block)}", data)

    # ---- reading ----------------------------------------------------------------------------

    def read_block(
        self, arrays: Sequence[str], block: int, stage: str, fp: bytes | None = None
    ) -> dict[str, np.ndarray]:
        """All rows of a block as stored, with ``status/<stage>`` and ``reason/<stage>``.

        fp : when given, raises StoreError unless the block is committed with it. Without it the
            block is read whether committed or not. Analyses use ``ok_rows``.
        """
        rows = self.block_slice(block)
        if fp is not None and not self.is_committed(stage, block, fp):
            raise StoreError(
                f"block {block!r} of stage {stage!r} in {self.path!r} is not committed with "
                f"{fp.hex()!r}; run the stage again"
            )
        names = [*arrays, f"status/{stage}", f"reason/{stage}"]
        return {name: np.asarray(self.array(name)[rows]) for name in names}

    def ok_rows(
        self,
        arrays: Sequence[str],
        block: int,
        stages: Sequence[str],
        *,
        fps: Mapping[str, bytes] | None = None,
        layers: int | slice | None = None,
    ) -> OkRows:
        """The rows of a block that are OK in all ``stages``: the one reader of analyses.

        arrays : names; each must belong to one of ``stages``. fps : expected fingerprints by
        stage; a stage committed with another one counts as not committed. layers : only these
        layers of arrays that have a layer axis (an int drops the axis); others are read whole.

        See ``OkRows``. Raises StoreError when the block changes while it is read.
        """
        rows = self.block_slice(block)
        n = rows.stop - rows.start
        owned = {name for stage in stages for name in self.arrays(stage)}
        foreign = sorted(set(arrays) - owned)
        if foreign or not stages:
            raise StoreError(
                f"arrays {foreign!r} are not written by the stages {list(stages)!r}; "
                "name the stage that writes each array"
            )
        commits = {stage: self.commit_of(stage, block) for stage in stages}
        status = [np.full(n, Status.PENDING, dtype=np.uint8) for _ in commits]
        for i, (stage, commit) in enumerate(commits.items()):
            if any(commit) and (fps is None or fps.get(stage, commit) == commit):
                status[i] = self._stored(f"status/{stage}", rows)
        ok, left_out = sort_out(status)
        values: dict[str, np.ndarray] = {}
        for name in arrays:
            array = self.array(name)
            dims = _dims_of(array)
            chosen: tuple[int | slice, ...] = ()
            if layers is not None and len(dims) > 1 and dims[1].endswith("_layer"):
                chosen = (layers,)
            if ok.any():
                value = self._stored(name, (rows, *chosen))
                values[name] = value if ok.all() else value[ok]
            else:
                nothing = np.empty((0, *array.shape[1:]), dtype=array.dtype)
                values[name] = nothing[(slice(None), *chosen)]
        for stage, commit in commits.items():
            if self.commit_of(stage, block) != commit:
                raise StoreError(
                    f"block {block!r} of stage {stage!r} in {self.path!r} was rewritten while it "
                    "was read; wait for the writing run to end and try again"
                )
        return OkRows(np.flatnonzero(ok).astype(np.int64) + rows.start, values, left_out)

    def status(self, stage: str) -> np.ndarray:
        """uint8 (n_rows,): every row's status; rows of uncommitted blocks are pending."""
        return self._flags("status", stage)

    def reason(self, stage: str) -> np.ndarray:
        """uint8 (n_rows,): every row's reason; rows of uncommitted blocks have none."""
        return self._flags("reason", stage)

    def contents(self, stage: str) -> list[str]:
        """What each block of a stage holds, 32 hex digits; '' where it is not committed.

        From the block's commit and from which of its rows are OK: rows that could not be read at
        first and can be now change the block, but not its commit. Remembered until this handle
        writes, or is told to `refresh`.
        """
        if stage in self._contents:
            return list(self._contents[stage])
        commits, ok = self.committed(stage), self.status(stage) == Status.OK
        found = []
        for block, commit in enumerate(commits):
            rows = np.packbits(ok[self.block_slice(block)]).tobytes()
            held = hashlib.sha256(commit.tobytes() + rows).hexdigest()[:32]
            found.append(held if commit.any() else "")
        self._contents[stage] = found
        return list(found)

    def _flags(self, kind: str, stage: str) -> np.ndarray:
        values = self._remembered(f"{kind}/{stage}")[: self.n_rows]
        done = np.repeat(self.committed(stage).any(axis=1), self.block_rows)[: self.n_rows]
        return np.where(done, values, np.uint8(0))


def _dims_of(array: zarr.Array[Any]) -> tuple[str, ...]:
    return tuple(str(dim) for dim in cast(Any, array.metadata).dimension_names or ())
