"""Vectors as anybody saves them: one alone, or several by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from generators.peers.base import (
    DirectionFormat,
    Entry,
    Evidence,
    LatentFormat,
    Peer,
    is_array,
    is_vector,
    lone,
)


class Vector(DirectionFormat):
    """A single array."""

    name = "vector"
    files = ".npy, ..."
    contents = "(dim,), (1, dim), (L, dim) or (1, L, dim), as stylegan-encoder's directions"
    evidence: Evidence | None = Evidence.NUMBERS

    def recognise(self, value: Any) -> bool:
        return is_vector(value)

    def read(self, value: Any, path: Path) -> list[Entry]:
        return [Entry("", lone(value))]


class Named(DirectionFormat):
    """Vectors by name, in any of a vector's shapes; single numbers and texts beside them stay."""

    name = "named"
    files = "any"
    contents = "dict: name -> one of these"
    evidence = Evidence.NUMBERS

    def recognise(self, value: Any) -> bool:
        if not isinstance(value, dict):
            return False
        inside = any(isinstance(v, dict | list | tuple) for v in value.values())
        arrays = self._arrays(value)
        return not inside and bool(arrays) and all(map(is_vector, arrays.values()))

    def read(self, value: Any, path: Path) -> list[Entry]:
        return [Entry(name, lone(vector)) for name, vector in self._arrays(value).items()]

    @staticmethod
    def _arrays(value: dict[Any, Any]) -> dict[str, np.ndarray]:
        return {str(k): v for k, v in value.items() if isinstance(v, np.ndarray) and v.ndim}


class Array(LatentFormat):
    """The codes alone, in the order of their images."""

    name = "array"
    contents = "(n, dim) or (n, L, dim)"
    files: Mapping[str, str] = {}
    evidence = Evidence.NUMBERS

    def recognise(self, value: Any) -> bool:
        return is_array(value, 2, 3)

    def read(self, value: Any, path: Path) -> tuple[np.ndarray, list[str] | None]:
        return value, None


PLUGIN = Peer("any", directions=(Vector(), Named()), latents=(Array(),))
