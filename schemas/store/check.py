"""Is what a latent store holds whole? Every stored byte of a block is read and decoded.

A committed block must have all its shards, each with right checksums and of the block's full
shape; its flags must be known and agree; rows that are not OK, and places behind the last row,
must hold fill values; codes of OK rows must be finite (DESIGN section 2).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.storage
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from schemas import atomic
from schemas.atomic import read_json
from schemas.errors import LatentflowError, StoreError
from schemas.store.handle import (
    METADATA,
    damage_of,
    group_metadata,
    metadata_problem,
    write_metadata,
)
from schemas.store.latent_store import REASONS, STATUSES, LatentStore
from schemas.store.layout import (
    FINGERPRINT_BYTES,
    LAYOUT_VERSION,
    STAGE_GROUPS,
    ArraySpec,
    chunk_key,
    commit_layout,
    data_layout,
    flag_layout,
)
from schemas.store.reasons import Status
from schemas.store.rows import check_flags


@dataclass
class BlockCheck:
    """What was found in one block of one stage.

    commit : its fingerprint; None when the block is not committed, or its commit is damaged.
    problems : what is wrong, one line each. damaged : keys of the shards that cannot be used.
    bytes_read : stored bytes that were looked at. status : uint8 (rows,) where it is readable.
    """

    stage: str
    block: int
    commit: bytes | None = None
    problems: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    bytes_read: int = 0
    status: np.ndarray | None = None


def check_identity(store: LatentStore) -> list[str]:
    """Whether the store's fingerprint is that of its attributes, and its folder named after it."""
    attrs = store.attrs
    names = ("name", "generator_fp", "method", "seed", "block_rows", "dtype", "preprocess_version")
    missing = [name for name in (*names, "store_fp", "n_rows") if name not in attrs]
    if missing:
        return [f"the store's attributes lack {missing!r}"]
    problems = []
    expected = store.store_fp_of(**{name: attrs[name] for name in names})
    if expected != attrs["store_fp"]:
        problems.append(
            f"store_fp is {attrs['store_fp']!r}, the store's attributes give {expected!r}"
        )
    folder = store.path.rstrip("/").rpartition("/")[2]
    if folder != f"{attrs['name']}-{str(attrs['store_fp'])[:12]}":
        problems.append(f"the store's folder {folder!r} is not named after its store_fp")
    return problems


def check_metadata(
    store: LatentStore, specs: Mapping[str, Sequence[ArraySpec]], repair: bool
) -> list[str]:
    """Metadata of the store's groups and arrays that are not as they were laid out, one line each.

    specs : stage -> the arrays that it writes, where that is known: only the shape and attributes
        of other stages' arrays are taken as they are.
    repair : write them as they must be. Only the holder of the store's lock may do this.
    """
    group, problems = store._open(), []
    flags = flag_layout(store.n_rows, store.block_rows)
    wanted: dict[str, Mapping[str, Any]] = {}
    for stage in store.stages():
        try:
            arrays = specs.get(stage) or [store._spec_of(path) for path in store.arrays(stage)]
        except (StoreError, KeyError):
            continue  # told of by `stages_with_problems`
        for spec in arrays:
            layout = data_layout(spec, store.n_rows, store.block_rows)
            wanted[spec.path] = layout.metadata(spec.attrs)
            wanted[spec.group] = group_metadata({"layout_version": LAYOUT_VERSION})
        names = sorted(spec.path for spec in arrays)
        commits = commit_layout(stage, store.n_blocks)
        wanted[f"commit/{stage}"] = commits.metadata({"arrays": names})
        for kind, values in (("status", STATUSES), ("reason", REASONS)):
            path = f"{kind}/{stage}"
            wanted[path] = flags.metadata({"values": _values_of(store, path, values)})
    for name in STAGE_GROUPS if wanted else ():
        wanted[name] = group_metadata({"layout_version": LAYOUT_VERSION})
    for path in sorted(wanted):
        found = metadata_problem(group, path, wanted[path])
        problems += found
        if found and repair:
            write_metadata(group, path, wanted[path])
    if problems and repair:
        store.refresh()
    return problems


def _values_of(store: LatentStore, path: str, values: Mapping[str, int]) -> Mapping[str, int]:
    """The names of numbers that an array must give: all of now, or those that there were when an
    earlier release wrote it."""
    try:
        held = store._values(path)
    except (StoreError, KeyError, ValueError):
        return values
    earlier = isinstance(held, dict) and held and all(values.get(k) == n for k, n in held.items())
    return held if earlier else values


def check_block(store: LatentStore, stage: str, block: int) -> BlockCheck:
    """Read one block of a stage completely; a block that is not committed is not looked into."""
    found = BlockCheck(stage, block)
    key = _key(store, f"commit/{stage}", block)
    try:
        commit = _shard(store, f"commit/{stage}", block, found)
    except _Damaged as e:
        found.problems.append(f"commit {e}")
        found.damaged.append(key)
        return found
    if commit is None or not commit.any():
        return found
    found.commit = commit.astype(np.uint8).tobytes()[:FINGERPRINT_BYTES]
    rows = store.block_slice(block)
    n = rows.stop - rows.start
    values: dict[str, np.ndarray] = {}
    for name in (f"status/{stage}", f"reason/{stage}", *store.arrays(stage)):
        shard_key = _key(store, name, block)
        try:
            value = _shard(store, name, block, found)
            if value is None:
                raise _Damaged(f"{shard_key!r} is missing")
            if store.array(name).shape[0] < rows.stop:
                raise _Damaged(f"{name!r} has {store.array(name).shape[0]!r} rows")
        except _Damaged as e:
            found.problems.append(str(e))
            found.damaged.append(shard_key)
        else:
            values[name] = value
    _check_values(store, stage, n, values, found)
    return found


def uncommit(store: LatentStore, found: BlockCheck) -> None:
    """Take a bad block's commit away and delete its unusable shards, so that the next run makes
    it again. Only the holder of the store's lock may do this."""
    store._writable()
    store._write_commit(found.stage, found.block, bytes(FINGERPRINT_BYTES))
    for key in found.damaged:
        if not key.startswith("commit/"):
            sync(store._open().store.delete(store._key(key)))


# ---------------------------------------------------------------------------------------------


class _Damaged(Exception):
    """A shard that is missing or cannot be decoded."""


def _key(store: LatentStore, name: str, block: int) -> str:
    return f"{name}/{chunk_key(block, store.array(name).ndim)}"


def _shard(store: LatentStore, name: str, block: int, found: BlockCheck) -> np.ndarray | None:
    """All of a block's shard (block_rows, ...), decoded with its checksums; None without one."""
    key = _key(store, name, block)
    source = store._open().store
    prototype = default_buffer_prototype()
    data = sync(source.get(store._key(key), prototype))
    if data is None:
        return None
    found.bytes_read += len(data)
    array = store.array(name)
    shape = array.shards or array.chunks
    facts = json.dumps({**array.metadata.to_dict(), "shape": shape}).encode()
    memory = {"zarr.json": prototype.buffer.from_bytes(facts), chunk_key(0, len(shape)): data}
    try:
        alone = zarr.open_array(zarr.storage.MemoryStore(memory), mode="r")
        return np.asarray(alone[...])
    except Exception as e:  # whatever zarr and its codecs raise for bytes that are not theirs
        raise _Damaged(f"{key!r} cannot be read: {damage_of(e)}") from e


def _check_values(
    store: LatentStore, stage: str, n: int, values: Mapping[str, np.ndarray], found: BlockCheck
) -> None:
    status, reason = values.get(f"status/{stage}"), values.get(f"reason/{stage}")
    if status is None or reason is None:
        return
    found.status = status[:n]
    where = f"block {found.block!r} of stage {stage!r}"
    try:
        check_flags(status[:n], reason[:n], where)
    except LatentflowError as e:
        found.problems.append(str(e))
    for name in (f"status/{stage}", f"reason/{stage}"):
        if values[name][n:].any():
            found.problems.append(f"{name!r} is not empty behind the block's last row")
    ok = status == Status.OK
    ok[n:] = False
    for name in store.arrays(stage):
        value = values.get(name)
        if value is None:
            continue
        floats = value.dtype.kind == "f"
        filled = np.isnan(value) if floats else value == -1
        filled = filled.reshape(len(value), -1).all(axis=1)
        wrong = np.flatnonzero(~filled & ~ok)
        if wrong.size:
            found.problems.append(
                f"{name!r} holds values in {wrong.size} rows that are not ok, the first is row "
                f"{int(wrong[0]) + store.block_slice(found.block).start!r}"
            )
        if name.startswith("latents/"):
            finite = np.isfinite(value).reshape(len(value), -1).all(axis=1)
            lost = np.flatnonzero(ok & ~finite)
            if lost.size:
                found.problems.append(f"{name!r} is not finite in {lost.size} rows that are ok")


def strangers(path: str | os.PathLike[str]) -> list[str]:
    """What lies in a store or direction set on a local path and belongs to none of its groups and
    arrays, relative to it, sorted. Hidden files, and half-written ones, do not count."""
    root = Path(path)

    def below(folder: Path) -> Iterator[Path]:
        array = read_json(folder / METADATA).get("node_type") == "array"
        for entry in folder.iterdir():
            if entry.name == METADATA or entry.name.startswith(".") or atomic.is_partial(entry):
                continue
            if array and entry.name == "c":
                for inner, folders, files in os.walk(entry):
                    named = (Path(inner, name) for name in (*folders, *files))
                    yield from (p for p in named if not p.name.isdecimal() and p.name[0] != ".")
            elif not array and (entry / METADATA).is_file():
                yield from below(entry)
            else:
                yield entry

    return sorted(found.relative_to(root).as_posix() for found in below(root))


def stages_with_problems(store: LatentStore) -> tuple[list[str], list[str]]:
    """Stages whose arrays can all be opened, and what is wrong with the others."""
    good, problems = [], []
    for stage in store.stages():
        try:
            for name in (f"status/{stage}", f"reason/{stage}", *store.arrays(stage)):
                store.array(name)
        except (StoreError, KeyError, ValueError, TypeError) as e:
            problems.append(f"stage {stage!r} cannot be opened: {e}")
        else:
            good.append(stage)
    return good, problems
