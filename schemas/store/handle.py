"""An opened latent store: where it lies, what it is, which arrays and commits it holds."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from schemas import atomic
from schemas.errors import LatentflowError, StoreError
from schemas.store.layout import (
    LAYOUT_VERSION,
    MAX_BLOCK_ROWS,
    check_layout,
    check_name,
    read_small,
)

KIND = "latent_store"
METADATA = "zarr.json"

Mode = Literal["r", "r+", "a"]


class StoreHandle:
    """A store on a local path or any URL that fsspec opens.

    Holds a path and a mode; the Zarr handles are opened when first needed, and are not pickled,
    so that an instance travels cheaply to Ray and Beam workers.
    """

    def __init__(self, path: str | os.PathLike[str], mode: Mode = "r") -> None:
        if mode not in ("r", "r+"):
            raise StoreError(f"mode {mode!r} is not known; use 'r' to read or 'r+' to write")
        # absolute, because workers that get a pickled store have another working directory
        self.path = os.path.abspath(path) if is_local(path) else os.fspath(path)
        self.mode = mode
        self._group: zarr.Group | None = None
        self._attrs: dict[str, Any] = {}
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._read: dict[str, np.ndarray] = {}
        self._contents: dict[str, list[str]] = {}
        self._stages: list[str] | None = None
        self._encoded: tuple[Any, bytes] = (None, b"")
        """The rows that `LatentStore.block_fp` got last, and their canonical JSON."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.path, self.mode))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, mode={self.mode!r})"

    @staticmethod
    def path_for(root: str | os.PathLike[str], name: str, store_fp: str) -> str:
        """``<root>/<name>-<first 12 of store_fp>``; ``root`` is the run's stores folder."""
        return f"{os.fspath(root).rstrip('/')}/{check_name(name, 'store')}-{store_fp[:12]}"

    @classmethod
    def open(cls, path: str | os.PathLike[str], mode: Mode = "r") -> Self:
        """Open an existing store, "r" to read or "r+" to write.

        Raises StoreError when there is none, NewerLayoutError when a newer release wrote it.
        """
        store = cls(path, mode)
        store._open()
        return store

    def _open(self) -> zarr.Group:
        if self._group is None:
            if not exists(self.path):
                raise StoreError(
                    f"there is no store at {self.path!r}; check the path, or create it"
                )
            try:
                group = open_group(self.path, self.mode)
                attrs = dict(group.attrs)
            except (ValueError, TypeError, KeyError, AttributeError, FileNotFoundError) as e:
                raise StoreError(f"{self.path!r} is not a readable Zarr v3 group: {e}") from e
            check_layout(attrs, KIND, LAYOUT_VERSION, self.path)
            for key, most in (("n_rows", sys.maxsize), ("block_rows", MAX_BLOCK_ROWS)):
                number = attrs.get(key)
                if (
                    not isinstance(number, int)
                    or not 1 <= number <= most
                    or (key == "block_rows" and number & (number - 1))
                ):
                    raise StoreError(
                        f"{self.path!r} has {key!r} {number!r}, which is no number of rows: "
                        "put a copy of its 'zarr.json' back, or delete the folder and run again"
                    )
            self._group, self._attrs = group, attrs
        return self._group

    def refresh(self) -> None:
        """Forget opened handles, so that what another process changed is seen."""
        self._group = None
        self._attrs = {}
        self._arrays = {}
        self._read = {}
        self._contents = {}
        self._stages = None

    @property
    def attrs(self) -> dict[str, Any]:
        """The store's own attributes: identity, layout version, number of rows."""
        self._open()
        return dict(self._attrs)

    @property
    def store_fp(self) -> str:
        return str(self.attrs["store_fp"])

    @property
    def n_rows(self) -> int:
        return int(self.attrs["n_rows"])

    @property
    def block_rows(self) -> int:
        return int(self.attrs["block_rows"])

    @property
    def n_blocks(self) -> int:
        return -(-self.n_rows // self.block_rows)

    def block_slice(self, block: int) -> slice:
        """Rows of a block. Raises StoreError when the block does not exist."""
        if not 0 <= block < self.n_blocks:
            raise StoreError(
                f"block {block!r} does not exist in {self.path!r}; it has {self.n_blocks!r} blocks"
            )
        start = block * self.block_rows
        return slice(start, min(start + self.block_rows, self.n_rows))

    def stages(self) -> list[str]:
        """Names of the stages that the store has, sorted."""
        if self._stages is None:
            self._stages = members(self._open(), "commit")
        return list(self._stages)

    def arrays(self, stage: str) -> list[str]:
        """Names of the arrays that a stage writes, sorted."""
        attrs = self.array(f"commit/{stage}").attrs
        with self._told_of(f"commit/{stage}"):
            return list(cast(Sequence[str], attrs["arrays"]))

    def array(self, name: str) -> zarr.Array[Any]:
        """The Zarr array ``<group>/<name>``, as stored: fill values and uncommitted blocks too."""
        if name not in self._arrays:
            with self._told_of(name):
                found = self._open().get(name)
            if not isinstance(found, zarr.Array):
                raise StoreError(f"store {self.path!r} has no array {name!r}; add its stage first")
            length = self.n_blocks if name.startswith("commit/") else self.n_rows
            if not found.shape or found.shape[0] < length:
                raise StoreError(
                    f"array {name!r} of {self.path!r} has shape {found.shape!r}, its store "
                    f"{self.n_rows!r} rows in blocks of {self.block_rows!r}: put a copy of its "
                    "'zarr.json' back, or delete the folder and run again"
                )
            self._arrays[name] = found
        return self._arrays[name]

    def committed(self, stage: str) -> np.ndarray:
        """uint8 (n_blocks, 32): the blocks' fingerprints, zero where not committed.

        Like status and reason remembered, and so read-only, until this handle writes, or is told
        to `refresh`.
        """
        return self._remembered(f"commit/{stage}")[: self.n_blocks]

    def commit_of(self, stage: str, block: int) -> bytes:
        """The 32 bytes that a block is committed with; all zero when it is not."""
        self.block_slice(block)
        return self._stored(f"commit/{stage}", block).tobytes()

    def _remembered(self, name: str) -> np.ndarray:
        """A whole array of commits or flags, read once."""
        if name not in self._read:
            array = self.array(name)
            with self._told_of(name):
                values = (
                    read_small(Path(self.path, name), array) if is_local(self.path) else array[:]
                )
            self._read[name] = np.asarray(values)
            self._read[name].flags.writeable = False
        return self._read[name]

    def _stored(self, name: str, chosen: Any) -> np.ndarray:
        """A part of an array. Raises StoreError where stored bytes are damaged."""
        array = self.array(name)
        with self._told_of(name):
            return np.asarray(array[chosen])

    def _told_of(self, name: str) -> AbstractContextManager[None]:
        """What checksums and codecs raise, as the StoreError of an array."""
        cure = "'latentflow verify --repair' takes the damaged blocks out, then run again"
        return damage_told(f"array {name!r} of {self.path!r}", cure)

    def is_committed(self, stage: str, block: int, fp: bytes) -> bool:
        """Whether the block is complete and was computed from exactly what ``fp`` names."""
        return any(fp) and self.commit_of(stage, block) == fp

    def _put(self, key: str, data: bytes) -> None:
        if is_local(self.path):
            atomic.write_bytes(Path(self.path, key), data)
        else:
            buffer = default_buffer_prototype().buffer.from_bytes(data)
            sync(self._open().store.set(self._key(key), buffer))

    def _key(self, path: str) -> str:
        prefix = self._open().path
        return f"{prefix}/{path}" if prefix else path

    def _writable(self) -> None:
        if self.mode == "r":
            raise StoreError(f"store {self.path!r} is open for reading only; open it with 'r+'")


@contextmanager
def damage_told(what: str, cure: str) -> Iterator[None]:
    """Whatever Zarr and its codecs raise for metadata and bytes that are not what was written, as
    a StoreError; errors of the disk stay what they are."""
    try:
        yield
    except (LatentflowError, OSError):
        raise
    except MemoryError as e:
        raise StoreError(
            f"{what} does not fit into memory ({e}): if it should not be that large, {cure}"
        ) from e
    except Exception as e:
        raise StoreError(f"{what} is damaged: {damage_of(e)}; {cure}") from e


def damage_of(error: Exception) -> str:
    """What an error of Zarr's or a codec's says of stored bytes, in a few words."""
    text = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    if "checksum do not match" in text:
        return "its bytes are not those that were written, by their checksum"
    return text


def is_local(path: str | os.PathLike[str]) -> bool:
    return "://" not in os.fspath(path)


def target(path: str | os.PathLike[str]) -> Any:
    """What Zarr opens: a path object for local stores, else the URL."""
    return Path(path) if is_local(path) else os.fspath(path)


def exists(path: str | os.PathLike[str]) -> bool:
    if is_local(path):
        return Path(path, METADATA).exists()
    try:
        open_group(path)
    except FileNotFoundError:
        return False
    return True


def open_group(
    where: str | os.PathLike[str] | zarr.Group, mode: Mode = "r", name: str = ""
) -> zarr.Group:
    """A Zarr v3 group of ours: at a path or URL, or the group ``name`` inside of an open one.

    Metadata that other programs consolidated into it is never read, for it goes out of date as
    soon as something is written; with a mode that writes it is removed.

    Raises FileNotFoundError where there is none, ValueError where something else is.
    """
    group = zarr.open_group(
        where.store if isinstance(where, zarr.Group) else target(where),
        path=_below(where, name) if isinstance(where, zarr.Group) else name,
        mode=mode,
        zarr_format=3,
        use_consolidated=False,
    )
    if mode != "r" and b"consolidated_metadata" in _metadata_of(group):
        group.attrs.put(dict(group.attrs))
    return group


def _metadata_of(group: zarr.Group) -> bytes:
    key = _below(group, METADATA)
    found = sync(group.store.get(key, default_buffer_prototype()))
    return b"" if found is None else found.to_bytes()


def members(group: zarr.Group, path: str = "") -> list[str]:
    """Names of the arrays and groups directly below a part of a group, sorted, whatever other
    files lie beside them."""

    async def collect() -> list[str]:
        store, there = group.store, []
        async for name in store.list_dir(_below(group, path)):
            hidden = name.startswith(".")
            if not hidden and await store.exists(_below(group, path, name, METADATA)):
                there.append(name)
        return sorted(there)

    return sync(collect())


def metadata_problem(group: zarr.Group, path: str, wanted: Mapping[str, Any]) -> list[str]:
    """What is wrong with the metadata of an array or group: at most one line. What others have
    consolidated does not count. wanted : as of `Layout.metadata` or `group_metadata`."""
    data = sync(group.store.get(_below(group, path, METADATA), default_buffer_prototype()))
    if data is None:
        return [f"the metadata of {path!r} are missing"]
    try:
        held = json.loads(data.to_bytes())
    except ValueError as e:
        return [f"the metadata of {path!r} cannot be read: {e}"]
    held = held if isinstance(held, dict) else {}
    held.pop("consolidated_metadata", None)
    differs = sorted(
        k for k in {*wanted, *held} if (k in held, held.get(k)) != (k in wanted, wanted.get(k))
    )
    return (
        [f"the metadata of {path!r} are not those that were written: {differs!r}"]
        if differs
        else []
    )


def write_metadata(group: zarr.Group, path: str, wanted: Mapping[str, Any]) -> None:
    """Write metadata as they must be; the data below stay as they are."""
    data = default_buffer_prototype().buffer.from_bytes(json.dumps(wanted, indent=2).encode())
    sync(group.store.set(_below(group, path, METADATA), data))


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in the metadata of a group."""
    return {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}


def _below(group: zarr.Group, *names: str) -> str:
    return "/".join(name for name in (group.path, *names) if name)


def open_array(path: str | os.PathLike[str]) -> zarr.Array[Any]:
    """A plain Zarr array, of any maker, to read. Raises StoreError when there is none."""
    try:
        return zarr.open_array(target(path), mode="r")
    except (ValueError, FileNotFoundError) as e:
        raise StoreError(f"there is no Zarr array at {os.fspath(path)!r}; check the path") from e
