"""e4e (omertov/encoder4editing) and what shares its files: pSp, PTI, GANInverter, editors."""

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
    lone,
    of_axes,
    one_of,
)
from generators.unpickle.writer import tensor_head, torch_file
from schemas.directions.direction import Direction
from schemas.errors import UsageError


class Tensor(DirectionFormat):
    """One vector, with or without layers."""

    name = "e4e"
    files = ".pt"
    contents = "tensor (1, dim) or (1, L, dim), as also PTI and stylegan2 editors use"
    evidence = None
    suffix = ".pt"

    def recognise(self, value: Any) -> bool:
        return is_array(value, 2, 3) and len(value) == 1

    def read(self, value: Any, path: Path) -> list[Entry]:
        return [Entry("", lone(value))]

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        direction = one_of(directions, self.name)
        vector = of_axes(direction, min(len(direction.shape), 2), self.name)
        return torch_file(vector[None].astype("<f4"))


class Latents(LatentFormat):
    """All codes of an inference, in the order of its images."""

    name = "e4e_latents"
    contents = "tensor float32 (n, L, dim)"
    files = {"w_plus": "latents.pt"}
    evidence = None

    def recognise(self, value: Any) -> bool:
        return is_array(value, 3)

    def read(self, value: Any, path: Path) -> tuple[np.ndarray, list[str] | None]:
        return value, None

    def write(self, file: BinaryIO, codes: Codes) -> None:
        _write_tensor(file, codes, codes.shape)


class Embeddings(LatentFormat):
    """What PTI (danielroich/PTI) keeps of every image before it tunes the generator."""

    name = "pti_embeddings"
    contents = "tensor float32 (1, L, dim), in a folder named after the image"
    files = {"w_plus": "PTI/{stem}/0.pt"}
    evidence = None

    def recognise(self, value: Any) -> bool:
        return is_array(value, 3) and len(value) == 1

    def read(self, value: Any, path: Path) -> tuple[np.ndarray, list[str] | None]:
        return value, None

    def write(self, file: BinaryIO, codes: Codes) -> None:
        _write_tensor(file, codes, codes.shape)


class Inverted(LatentFormat):
    """What GANInverter keeps of every image."""

    name = "ganinverter_codes"
    contents = "tensor float32 (L, dim), named after the image"
    files = {"w_plus": "code/{stem}.pt"}
    evidence = None

    def recognise(self, value: Any) -> bool:
        return is_array(value, 2)

    def read(self, value: Any, path: Path) -> tuple[np.ndarray, list[str] | None]:
        return value[None], None

    def write(self, file: BinaryIO, codes: Codes) -> None:
        _write_tensor(file, codes, codes.shape[1:])


def _write_tensor(file: BinaryIO, codes: Codes, shape: tuple[int, ...]) -> None:
    if codes.dtype != "<f4":
        name = np.dtype(codes.dtype).name
        raise UsageError(f"codes are {name!r}, e4e's are 'float32'; use 'npz'")
    file.write(tensor_head(shape))
    for values in codes.values():
        file.write(values)


PLUGIN = Peer(
    "e4e, PTI, GANInverter",
    directions=(Tensor(),),
    latents=(Latents(), Embeddings(), Inverted()),
)
