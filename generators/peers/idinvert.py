"""idinvert (genforce/idinvert) and HiGAN: boundaries with their layers, and codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from generators.peers.base import (
    Codes,
    DirectionFormat,
    Entry,
    LatentFormat,
    Peer,
    is_array,
    is_vector,
    lone,
    of_axes,
    one_of,
    space_of,
)
from generators.unpickle.writer import object_npy
from schemas.directions.direction import Direction
from schemas.errors import InputError

MAX_LAYERS = 1 << 10
_PLACES = ("mean", "centre", "center", "w_avg", "latent_avg", "std", "sd")
_NUMBERS = ("bias", "intercept", "intercept_")
_VECTOR_KEYS = ("boundary", "direction", "vector", "normal", "coef_", "coef", "weight")


class Boundary(DirectionFormat):
    """A dict with one vector, and others' dicts that are made so: layers and a bias beside it."""

    name = "idinvert"
    files = ".npy"
    contents = "dict: boundary (1, L, dim), HiGAN's (1, dim), meta_data: manipulate_layers"
    suffix = ".npy"

    def recognise(self, value: Any) -> bool:
        if not isinstance(value, dict):
            return False
        keys = _vectors_of(value)
        if len(keys) != 1:
            return False
        others = [v for key, v in value.items() if key not in (keys[0], *_PLACES) and is_vector(v)]
        return all(v.size != value[keys[0]].size for v in others)

    def read(self, value: Any, path: Path) -> list[Entry]:
        meta = value.get("meta_data")
        facts = {**value, **meta} if isinstance(meta, dict) else value
        layers = layer_list(facts.get("manipulate_layers", facts.get("layers")), path)
        space = space_of(facts.get("space", facts.get("latent_space")))
        scalars = {key: np.asarray(value[key]) for key in _NUMBERS if key in value}
        numbers = {
            key: v.item()
            for key, v in scalars.items()
            if v.size == 1 and v.dtype.kind in "fiu" and np.isfinite(v).all()
        }
        vector = lone(value[_vectors_of(value)[0]])
        return [Entry("", vector, layers=layers, space=space, quality=numbers)]

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        direction = one_of(directions, self.name)
        vector = of_axes(direction, 2, self.name)
        meta = {
            "manipulate_layers": direction.layers, "space": direction.space, "sd": direction.sd
        }  # fmt: skip
        return object_npy({"boundary": vector[None].astype("<f4"), "meta_data": meta})


def _vectors_of(value: dict[Any, Any]) -> list[str]:
    return [key for key in _VECTOR_KEYS if is_vector(value.get(key))]


def layer_list(value: Any, path: Path) -> list[int] | None:
    """Layers as numbers, flags, or text like "0-3,5"; nothing, an empty text or "all" means all.

    0 and 1 that occur again are flags, too. Raises InputError for anything else.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if value is None or value in ("", "all", [], ()):
        return None
    if isinstance(value, str):
        parts = [part.strip().partition("-") for part in value.split(",")]
        if all(n.strip().isdecimal() for first, _, last in parts for n in (first, last or first)):
            ranges = [range(int(first), int(last or first) + 1) for first, _, last in parts]
            if all(layers.stop <= MAX_LAYERS for layers in ranges):
                return sorted({layer for layers in ranges for layer in layers})
    numbers = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    if not all(isinstance(n, int | float) and float(n).is_integer() for n in numbers):
        raise InputError(
            f"{str(path)!r} names layers {value!r}: give numbers, or a text such as '0-3,5'"
        )
    repeated = len(set(numbers)) < len(numbers) and set(numbers) <= {0, 1}
    if repeated or all(isinstance(n, bool) for n in numbers):
        return [layer for layer, flag in enumerate(numbers) if flag]
    return sorted({int(n) for n in numbers})


class InvertedCodes(LatentFormat):
    """All codes of ``invert.py``, in the order of the list that it was given."""

    name = "idinvert_codes"
    contents = "float32 (n, L, dim), in the order of image_list.txt beside it"
    files = {"w_plus": "inverted_codes.npy"}
    evidence = None
    list_file = "image_list.txt"

    def recognise(self, value: Any) -> bool:
        return is_array(value, 3)

    def read(self, value: Any, path: Path) -> tuple[np.ndarray, list[str] | None]:
        return value, None

    def write(self, file: BinaryIO, codes: Codes) -> None:
        codes.write_npy(file)


PLUGIN = Peer("idinvert, HiGAN", directions=(Boundary(),), latents=(InvertedCodes(),))
