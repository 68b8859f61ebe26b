"""Tensors in safetensors files, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

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
        raise ValueError(f"it is no safetensors file or is damaged ({e})") from e
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
