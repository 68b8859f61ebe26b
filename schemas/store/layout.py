"""How arrays lie in a latent store: dimensions, row blocks, chunks, fill values, codecs.

DESIGN section 2. One shard holds one row block of an array, whole in every other dimension; its
inner chunks hold at most 256 rows of one layer. Everything here is a pure function of the
specification, so that a store's bytes are a pure function of what was computed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
import zarr.codecs
import zarr.storage
from numcodecs.zstd import Zstd

from schemas.errors import NewerLayoutError, StoreError
from schemas.fingerprint import canonical_json

LAYOUT_VERSION = 1
BLOCK_BYTES = 32 * 2**20
MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 64, 8192
MAX_INNER_ROWS = 256
#: Rows larger than this live in a sibling store with its own block size.
MAX_ROW_BYTES = 256 * 2**10
FINGERPRINT_BYTES = 32
ZSTD_LEVEL = 3

COMPANIONS = "companions"
"""Group of the arrays that belong to codes beside their main array, ``<space>.<name>``."""
STAGE_GROUPS = ("status", "reason", "commit")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*(@render)?")
_GROUP = re.compile(r"[a-z][a-z0-9_]*")


def check_name(name: str, what: str) -> str:
    """``name`` if it can be an array or stage name, else StoreError."""
    if not NAME.fullmatch(name):
        raise StoreError(
            f"{what} name {name!r} is not allowed; use letters, digits, '_', '-' and '.', "
            "starting with a letter or digit, optionally ending in '@render'"
        )
    return name


def companion_array(space: str, name: str) -> str:
    """Name of the array of a companion of a space's codes: of "noise/b4" of w "w.noise--b4", for a
    slash would be a folder's."""
    return f"{space}.{name.replace('/', '--')}"


def companion_path(space: str, name: str) -> str:
    """`companion_array` with its group."""
    return f"{COMPANIONS}/{companion_array(space, name)}"


def companion_named(path: str, space: str) -> str | None:
    """The name of the companion whose `companion_path` this is; None where it is of another space,
    or no companion."""
    prefix = f"{COMPANIONS}/{space}."
    return path.removeprefix(prefix).replace("--", "/") if path.startswith(prefix) else None


def check_layout(attrs: Mapping[str, Any], kind: str, newest: int, path: str) -> None:
    """Raise unless ``attrs`` are those of a ``kind`` whose layout this release reads.

    newest : the newest layout version that this release knows.
    NewerLayoutError for a newer layout, StoreError when it is something else.
    """
    version = attrs.get("layout_version")
    if attrs.get("kind") != kind or not isinstance(version, int) or version < 1:
        raise StoreError(
            f"{path!r} is not a {kind.replace('_', ' ')} (kind {attrs.get('kind')!r}, layout "
            f"version {version!r}); check the path"
        )
    if version > newest:
        raise NewerLayoutError(
            f"{path!r} has layout version {version!r}, this release reads up to {newest!r}; "
            "install a newer latentflow"
        )


def default_dims(group: str, name: str, n_axes: int) -> tuple[str, ...]:
    """Dimension names of an array with ``n_axes`` axes after the row axis.

    Only ``row`` and ``xy`` are shared between arrays; the others carry the array's name (without
    ``@render``: both variants of an annotation have the same scores or points).
    """
    base = name.removesuffix("@render")
    if group == "landmarks" and n_axes == 2:
        return ("row", f"{base}_point", "xy")
    if group == "annotations" and n_axes == 1:
        return ("row", f"{base}_score")
    tails = {
        0: (),
        1: ("channel",),
        2: ("layer", "channel"),
        3: ("channel", "y", "x"),
    }.get(n_axes, tuple(f"axis{i}" for i in range(1, n_axes + 1)))
    return ("row", *(f"{base}_{tail}" for tail in tails))


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store: ``<group>/<name>`` of shape (row, *row_shape).

    row_shape : shape of one row, () for one number a row.
    dtype : a float type (missing rows hold NaN) or a signed integer type (missing rows hold -1).
    dims : names of all axes, the first is "row"; by default as in DESIGN section 2.
    attrs : JSON attributes of the array. ``names`` (scores, landmark points) must have one entry
        for each element of the first axis after the row axis.

    Raises StoreError for anything that the layout cannot hold.
    """

    group: str
    name: str
    row_shape: tuple[int, ...] = ()
    dtype: str = "float32"
    dims: tuple[str, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, "array")
        if not _GROUP.fullmatch(self.group) or self.group in STAGE_GROUPS:
            raise StoreError(
                f"group {self.group!r} of array {self.name!r} is not allowed; use a lower-case "
                f"name that is none of {list(STAGE_GROUPS)!r}"
            )
        shape = tuple(int(size) for size in self.row_shape)
        if any(size < 1 for size in shape):
            raise StoreError(f"array {self.path!r} has row shape {shape!r}; sizes must be positive")
        dtype = np.dtype(self.dtype)
        if dtype.kind not in "fi":
            raise StoreError(
                f"array {self.path!r} has dtype {dtype.name!r}, which has no fill value for "
                "missing rows; use a float or signed integer type"
            )
        dims = tuple(self.dims) or default_dims(self.group, self.name, len(shape))
        if len(dims) != len(shape) + 1 or dims[0] != "row" or len(set(dims)) != len(dims):
            raise StoreError(
                f"array {self.path!r} has dimensions {dims!r} for row shape {shape!r}; name the "
                "row axis 'row' and every other axis once"
            )
        names = self.attrs.get("names")
        if names is not None and (not shape or len(names) != shape[0]):
            raise StoreError(
                f"array {self.path!r} has {len(names)!r} names for row shape {shape!r}; give one "
                "name for each element of the first axis"
            )
        canonical_json(self.attrs)
        object.__setattr__(self, "row_shape", shape)
        object.__setattr__(self, "dtype", dtype.name)
        object.__setattr__(self, "dims", dims)

    @property
    def path(self) -> str:
        """``<group>/<name>``, the name by which the store knows the array."""
        return f"{self.group}/{self.name}"

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in memory."""
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    @property
    def fill_value(self) -> float | int:
        """What pending, quarantined and removed rows hold: NaN or -1."""
        return math.nan if np.dtype(self.dtype).kind == "f" else -1


def block_rows_for(row_bytes: int) -> int:
    """Rows in a block: the power of two in 64..8192 whose block is nearest to 32 MiB; from 1 where
    a row is above 256 KiB.

    row_bytes : bytes of one row of the store's largest array. A tie takes the smaller block.
    """
    if row_bytes < 1:
        raise StoreError(f"row_bytes is {row_bytes!r}; a row must hold at least one byte")
    least = 1 if row_bytes > MAX_ROW_BYTES else MIN_BLOCK_ROWS
    candidates = [1 << k for k in range(14) if 1 << k >= least]  # .. 8192
    return min(candidates, key=lambda rows: (abs(rows * row_bytes - BLOCK_BYTES), rows))


def choose_block_rows(arrays: Sequence[ArraySpec], block_rows: int | None) -> int:
    """The given block size if it is usable, else the one that fits the largest of ``arrays``.

    An explicit size is any power of two from 1 to 8192 (small ones serve tiny data sets).
    """
    if block_rows is None:
        return block_rows_for(max((spec.row_bytes for spec in arrays), default=1))
    if not 1 <= block_rows <= MAX_BLOCK_ROWS or block_rows & (block_rows - 1):
        raise StoreError(
            f"block_rows is {block_rows!r}; use a power of two from 1 to {MAX_BLOCK_ROWS!r}"
        )
    return block_rows


def check_row_sizes(arrays: Iterable[ArraySpec]) -> None:
    """Raise StoreError when rows above 256 KiB share a store with smaller ones: codes with other
    codes, companions with any codes."""
    specs = list(arrays)
    sizes = {spec.path: spec.row_bytes for spec in specs if spec.group == "latents"}
    large = {path: size for path, size in sizes.items() if size > MAX_ROW_BYTES}
    mixed = len(large) < len(sizes)
    for spec in specs if sizes else ():
        if spec.group == COMPANIONS and spec.row_bytes > MAX_ROW_BYTES:
            large[spec.path], mixed = spec.row_bytes, True
    if large and mixed:
        path, size = max(large.items(), key=lambda item: item[1])
        raise StoreError(
            f"array {path!r} has {size!r} bytes a row, above {MAX_ROW_BYTES!r}; put it in a "
            "sibling store with its own block size"
        )


def check_dimensions(arrays: Iterable[ArraySpec]) -> None:
    """Raise StoreError when a dimension name has two sizes within one group."""
    seen: dict[tuple[str, str], tuple[int, str]] = {}
    for spec in arrays:
        for dim, size in zip(spec.dims[1:], spec.row_shape, strict=True):
            other_size, other = seen.setdefault((spec.group, dim), (size, spec.path))
            if other_size != size:
                raise StoreError(
                    f"dimension {dim!r} has size {size!r} in {spec.path!r} but {other_size!r} in "
                    f"{other!r}; give one of the arrays another name"
                )


@dataclass(frozen=True)
class Layout:
    """What Zarr needs to know about one array: the same object makes the same bytes."""

    shape: tuple[int, ...]
    shard: tuple[int, ...]
    inner: tuple[int, ...]
    dtype: str
    fill_value: float | int
    dims: tuple[str, ...]

    def create(
        self,
        store: Any,
        name: str,
        shape: tuple[int, ...] | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> zarr.Array[Any]:
        """Create the array ``name`` (its metadata only) in a Zarr store."""
        sharded = self.shard != self.inner
        return zarr.create_array(
            store=store,
            name=name,
            shape=self.shape if shape is None else shape,
            dtype=self.dtype,
            chunks=self.inner,
            shards=self.shard if sharded else None,
            filters=None,
            compressors=(
                zarr.codecs.ZstdCodec(level=ZSTD_LEVEL, checksum=False),
                zarr.codecs.Crc32cCodec(),
            ),
            serializer=zarr.codecs.BytesCodec(endian="little"),
            fill_value=self.fill_value,
            attributes=attributes,
            dimension_names=self.dims,
            zarr_format=3,
            config={"write_empty_chunks": True},
        )

    def metadata(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """What stands in the metadata of an array of this layout."""
        memory: dict[str, Any] = {}
        self.create(zarr.storage.MemoryStore(memory), "array", attributes=dict(attributes))
        found: dict[str, Any] = json.loads(memory["array/zarr.json"].to_bytes())
        return found

    def encode(self, block: np.ndarray) -> bytes:
        """Bytes of one shard that holds ``block`` in its first rows, fill values after it.

        A pure function of its input: unlike assigning to the stored array, nothing that is
        already on disk is read, merged or trusted.
        """
        whole = block
        if len(block) < self.shard[0]:
            whole = np.full(self.shard, self.fill_value, dtype=self.dtype)
            whole[: len(block)] = block
        memory: dict[str, Any] = {}
        array = self.create(zarr.storage.MemoryStore(memory), "shard", shape=self.shard)
        array[...] = whole
        return bytes(memory[f"shard/{self.chunk_key(0)}"].to_bytes())

    def chunk_key(self, block: int) -> str:
        """Key of a block's shard below the array's own."""
        return chunk_key(block, len(self.shard))


def chunk_key(block: int, ndim: int) -> str:
    """Key below an array's own of the shard (or chunk) that holds a block, whole in all other
    dimensions."""
    return "/".join(["c", str(block), *["0"] * (ndim - 1)])


def read_small(folder: Path, array: zarr.Array[Any]) -> np.ndarray:
    """A whole unsharded array of bytes in a local folder: commits, status, reason.

    What ``array[:]`` gives, fill values and checks of the checksums included, at a hundredth of its
    half millisecond a chunk. Raises ValueError or RuntimeError for damaged bytes.
    """
    values = np.full(array.shape, array.fill_value, np.uint8)
    rows = array.chunks[0]
    for block, first in enumerate(range(0, len(values), rows)):
        try:
            data = (folder / chunk_key(block, array.ndim)).read_bytes()
        except FileNotFoundError:
            continue
        body, checksum = data[:-4], int.from_bytes(data[-4:], "little")
        if google_crc32c.value(body) != checksum:
            raise ValueError(f"the checksum of chunk {block!r} does not match its bytes")
        chunk = np.frombuffer(Zstd().decode(body), np.uint8).reshape(array.chunks)
        values[first : first + rows] = chunk[: len(values) - first]
    return values


def data_layout(spec: ArraySpec, n_rows: int, block_rows: int) -> Layout:
    """Layout of a data array: shard = block, inner chunk = at most 256 rows x one layer."""
    inner_rows = min(MAX_INNER_ROWS, block_rows)
    inner = [
        1 if dim.endswith("_layer") else size
        for dim, size in zip(spec.dims[1:], spec.row_shape, strict=True)
    ]
    return Layout(
        shape=(n_rows, *spec.row_shape),
        shard=(block_rows, *spec.row_shape),
        inner=(inner_rows, *inner),
        dtype=spec.dtype,
        fill_value=spec.fill_value,
        dims=spec.dims,
    )


def flag_layout(n_rows: int, block_rows: int) -> Layout:
    """Layout of ``status/<stage>`` and ``reason/<stage>``: uint8 a row, one chunk a block."""
    return Layout((n_rows,), (block_rows,), (block_rows,), "uint8", 0, ("row",))


def commit_layout(stage: str, n_blocks: int) -> Layout:
    """Layout of ``commit/<stage>``: one fingerprint a chunk."""
    one = (1, FINGERPRINT_BYTES)
    dims = ("block", f"{stage}_byte")
    return Layout((n_blocks, FINGERPRINT_BYTES), one, one, "uint8", 0, dims)
