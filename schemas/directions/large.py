"""Vectors above 1 MB, which lie in a direction set as float32 and are read where they are used."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import zarr

from schemas.fingerprint import canonical_json
from schemas.store.handle import damage_told, is_local, open_group

LARGE_BYTES = 2**20
"""Vectors of more bytes, as float64, are large: made and stored as float32."""
MAX_STEPS = 4096
DIGEST = "vector_sha256"
"""Attribute of a large vector's array. The sum over all attributes is a sum over it, too."""
REPAIR = "take it out with 'latentflow verify RUN --repair', then run or import it again"
NOT_SAVED = "its values or attributes are not those that were saved"


def is_large(shape: Sequence[int]) -> bool:
    """Whether a vector of this shape is stored as float32."""
    return 8 * math.prod(shape) > LARGE_BYTES


def has_steps(shape: Sequence[int]) -> bool:
    """Whether the first axis of a code counts layers or steps: (layers, channels), (steps, c, h,
    w)."""
    return len(shape) in (2, 4)


def digest_of(vector: np.ndarray) -> str:
    """sha256 over values, dtype and shape, 64 hex digits."""
    little = np.ascontiguousarray(vector, dtype=vector.dtype.newbyteorder("<"))
    hasher = hashlib.sha256(canonical_json([vector.dtype.name, list(vector.shape)]))
    hasher.update(little.data)
    return hasher.hexdigest()


@dataclass(frozen=True)
class StoredVector:
    """A large vector of a saved set. Small and picklable: workers read it from the same path."""

    path: str
    name: str
    shape: tuple[int, ...]
    sha256: str

    @classmethod
    def of(cls, path: str, name: str, shape: Sequence[int], sha256: str) -> Self:
        """Of a set; workers that get it have another working directory."""
        where = os.path.abspath(path) if is_local(path) else path
        return cls(where, name, tuple(shape), sha256)

    def read(self) -> np.ndarray:
        """The vector, float32 (*shape). Raises StoreError where it is not what was saved."""
        with damage_told(f"direction {self.name!r} of {self.path!r}", REPAIR):
            array = cast("zarr.Array[Any]", open_group(self.path)[f"directions/{self.name}"])
            if array.shape != self.shape:
                raise ValueError(NOT_SAVED)
            vector = np.asarray(array[...])
            if digest_of(vector) != self.sha256:
                raise ValueError(NOT_SAVED)
        return vector


def step_chunks(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """One chunk a step, None for a vector that has no steps."""
    return (1, *shape[1:]) if has_steps(shape) and shape[0] <= MAX_STEPS else None
