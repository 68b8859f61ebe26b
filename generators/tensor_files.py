"""Tensors in safetensors files, without torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


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
