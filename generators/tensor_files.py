"""Tensors in safetensors files, whole or split, without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from generators.file_kinds import other_kind, text_instead
from schemas.errors import CheckpointError, UnsafeCheckpointError

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")
MAX_INDEX_BYTES = 16 << 20

#: Element type of a file -> numpy's; bfloat16 is widened when it is read.
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
           "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
           "BOOL": "|b1"}  # fmt: skip


def contiguous(array: np.ndarray) -> np.ndarray:
    """The values as little-endian C order, of the same shape and type; a copy where they are not.

    For writers that take an array's memory as it lies, such as safetensors': arrays in Fortran
    order, strided or transposed views, networks in ``channels_last`` and big-endian arrays would
    come back scrambled.
    """
    array = np.asarray(array)
    dtype = array.dtype.newbyteorder("<")
    # ascontiguousarray makes a 0-d array 1-d
    return np.ascontiguousarray(array, dtype).reshape(array.shape)


def safetensors_bytes(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> bytes:
    """A safetensors file of the arrays, whatever their order in memory; the same arrays give the
    same bytes."""
    from safetensors.numpy import save

    arrays = {name: contiguous(value) for name, value in tensors.items()}
    return bytes(save(arrays, None if metadata is None else dict(metadata)))


def read_safetensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors by name, sorted, and metadata of a safetensors file; bfloat16 comes as float32.

    Raises ValueError for bytes that are something else and for element types that numpy has not.
    """
    from safetensors import SafetensorError, deserialize

    try:
        parts: list[tuple[str, dict[str, Any]]] = deserialize(data)
    except SafetensorError as e:
        raise ValueError(f"it is no safetensors file or is damaged ({e}); copy it again") from e
    tensors = {}
    for name, part in sorted(parts, key=lambda item: item[0]):
        kind = part["dtype"]
        if kind == "BF16":
            values = (np.frombuffer(part["data"], "<u2").astype(np.uint32) << 16).view(np.float32)
        elif kind in _DTYPES:
            values = np.frombuffer(part["data"], _DTYPES[kind])
        else:
            raise ValueError(f"tensor {name!r} has element type {kind!r}; convert it to float32")
        tensors[name] = values.reshape(part["shape"])
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, head.get("__metadata__", {})


def is_tensor_file(path: Path) -> bool:
    """Whether `read_tensors` is the one to read the file: by its contents, else by its name."""
    if path.name.endswith(INDEX_SUFFIX):
        return True
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    if head[8:] == b"{" and 2 <= length <= path.stat().st_size - 8:
        return True
    return path.suffix == SUFFIX and not head.startswith((b"PK", b"\x80"))  # torch's, pickles


def stem_of(path: Path) -> str:
    """Name of a safetensors file or of an index of split ones, without its ending."""
    for suffix in (INDEX_SUFFIX, SUFFIX):
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem


def parts_of(path: Path) -> list[Path]:
    """The files that hold the tensors of `path`: itself, or, of an index, those that it names.

    Raises CheckpointError for an index that cannot be read, and for one part of several;
    UnsafeCheckpointError for an index that names files of another folder.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return sorted({path.with_name(name) for name in _read_index(path).values()})
    if match := _PART.fullmatch(path.name):
        raise CheckpointError(
            f"is one of {int(match[2])} parts: give their index, "
            f"{match[1] + INDEX_SUFFIX!r} in the same folder"
        )
    return [path]


def _read_index(path: Path) -> dict[str, str]:
    """Name of a tensor -> name of the file that holds it."""
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise CheckpointError(f"index has more than {MAX_INDEX_BYTES} bytes: it is no index")
    try:
        found = json.loads(path.read_bytes())["weight_map"]
        files = {str(name): str(file) for name, file in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise CheckpointError(
            f"is not an index of safetensors files ({e!r}): it needs a 'weight_map' of tensors and "
            "the files that hold them; copy it again"
        ) from e
    for file in files.values():
        if Path(file).name != file or file in ("", "..") or "\\" in file or ":" in file:
            raise UnsafeCheckpointError(
                f"index names {file[:120]!r}, which is not a file of its own folder: do not trust "
                "this file"
            )
    return files


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file, or of all files that an index (``*.safetensors.index.json``)
    names; bfloat16 comes as float32, every other type as it is stored.

    Raises CheckpointError when a file is missing or damaged, or holds a type that numpy has not.
    """
    parts = parts_of(path)
    if parts == [path]:
        return _read_file(path)
    wanted = _read_index(path)
    tensors: dict[str, np.ndarray] = {}
    for part in parts:
        if not part.is_file():
            raise CheckpointError(
                f"part {part.name!r} is missing beside it: copy all files that the index names"
            )
        tensors |= {k: v for k, v in _read_file(part).items() if wanted.get(k) == part.name}
    missing = sorted(set(wanted) - set(tensors))
    if missing:
        raise CheckpointError(
            f"tensors {missing[:4]!r} ({len(missing)}) are not in the files that the index names: "
            "copy the index and its files together again"
        )
    return tensors


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_safetensors(path.read_bytes())[0]
    except ValueError as e:
        kind = other_kind(path) or text_instead(path)
        raise CheckpointError(kind or f"tensors of {path.name!r} cannot be read: {e}") from e
