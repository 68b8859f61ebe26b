"""What another project's file formats are: one definition recognises, reads and writes each.

A project is a `Peer` with its formats of directions and of codes. A module of this folder, or of
another package (entry points of the group ``latentflow.peers``), has it under ``PLUGIN``. Formats
see a file's contents as `generators.unpickle.plain.read_foreign` gives them: dicts, lists, texts,
numbers and arrays. They import neither torch nor anything else that is heavy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from schemas.directions.direction import Direction
from schemas.errors import DirectionMismatchError, UsageError

SPACE_AXES = {"z": 1, "w": 1, "w_plus": 2}
"""Axes of a GAN's codes by space."""
_SPACES = {"z": "z", "w": "w", "wp": "w_plus", "w+": "w_plus", "w_plus": "w_plus"}


class Evidence(IntEnum):
    """What recognising a format rests on. Of the formats that claim a file those with the most
    evidence have it; two with the same are an error that names both."""

    NUMBERS = 0
    """Anything that could be a direction, by itself or by name."""
    SHAPES = 1
    """Shapes and types alone."""
    KEYS = 2
    """Keys or a structure that the project's code writes."""
    ITS_WORD = 3
    """The file says what it is."""


@dataclass(frozen=True)
class Entry:
    """One vector of a file.

    name : any text, "" where the file has none. sd : length in the space of the peer's own unit of
    strength, None where it has none. layers : that the file applies it to, None for all.
    space, generator_fp : what the file says that it is for, None where it does not.
    """

    name: str
    vector: np.ndarray
    sd: float | None = None
    layers: list[int] | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    space: str | None = None
    generator_fp: str | None = None


class DirectionFormat(ABC):
    """A layout of a file of directions.

    name : one word, unique among all projects' formats.
    files : endings of its files, and contents : their layout, for the tables of formats.
    evidence : see `Evidence`; None for a layout that nothing tells from plain vectors, which is
        read as its own only where it is named.
    not_of : spaces whose directions it never holds, though files of theirs may look so.
    suffix : ending of the file of one direction; None where a file holds several.
    mean : whether `write` needs the mean code.
    """

    name: str
    files: str
    contents: str
    evidence: Evidence | None = Evidence.KEYS
    not_of: frozenset[str] = frozenset()
    suffix: str | None = None
    mean: bool = False

    @abstractmethod
    def recognise(self, value: Any) -> bool:
        """Whether a file's contents have this layout."""

    @abstractmethod
    def read(self, value: Any, path: Path) -> list[Entry]:
        """The vectors in contents that were recognised.

        Raises KeyError, TypeError, ValueError, OverflowError for values of other kinds than the
        layout has, InputError where a better message can be given.
        """

    def write(self, directions: Sequence[Direction], mean: np.ndarray | None) -> bytes:
        """A file of at least one direction, all of one generator; the same input, the same bytes.

        mean : (dim,), the mean code, where ``mean`` asks for it.

        Raises DirectionMismatchError, UsageError for directions that the format cannot hold.
        """
        raise NotImplementedError

    @property
    def writes(self) -> bool:
        """Whether the format can be written, too."""
        return type(self).write is not DirectionFormat.write


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of images.

    space : of the codes. shape : (n, ...). chunks : gives their values in order, some rows at a
    time. names : of the images, one a row, None where nobody says. dtype : of the values.
    """

    space: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[np.ndarray]]
    names: Sequence[str] | None = None
    dtype: str = "<f4"

    @classmethod
    def of(cls, values: np.ndarray, space: str, names: Sequence[str] | None = None) -> Codes:
        """Codes that are in memory, (n, ...), as float32."""
        little = np.asarray(values, "<f4")
        return cls(space, little.shape, lambda: iter([little]), names)

    def array(self) -> np.ndarray:
        """All values, (n, ...)."""
        return np.concatenate(list(self.chunks())).reshape(self.shape)

    def values(self) -> Iterator[bytes]:
        """The values as they lie in files: little-endian, in C order, some rows at a time."""
        for chunk in self.chunks():
            yield np.ascontiguousarray(chunk, self.dtype).tobytes()

    def write_npy(self, file: IO[bytes]) -> None:
        """Write them as ``numpy.save`` does."""
        head = {"descr": self.dtype, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, head)
        for values in self.values():
            file.write(values)


class LatentFormat(ABC):
    """A layout of a file of codes.

    name : one word, unique among all projects' formats, and contents : for the tables of formats.
    files : space -> name that the project gives the file; without any it is read only. A name
        with ``{stem}`` in it is that of a file for each image, named after the image's.
    evidence : as of a `DirectionFormat`.
    scores : name of the file beside it that holds one score of every image, (n, 1), with a
        ``{name}`` in it; None where the project has none.
    list_file : name of the file beside it with the images' names, one a line in the order of the
        codes; None where the project has none.
    """

    name: str
    contents: str
    files: Mapping[str, str]
    evidence: Evidence | None = Evidence.KEYS
    scores: str | None = None
    list_file: str | None = None

    @property
    def one_a_file(self) -> bool:
        """Whether every image's code has a file of its own."""
        return any("{stem}" in name for name in self.files.values())

    @abstractmethod
    def recognise(self, value: Any) -> bool:
        """Whether a file's contents have this layout."""

    @abstractmethod
    def read(self, value: Any, path: Path) -> tuple[np.ndarray, list[str] | None]:
        """Codes (n, ...) and the images' names, None where the file has none; raises as
        `DirectionFormat.read`."""

    def write(self, file: BinaryIO, codes: Codes) -> None:
        """Write codes of a space of ``files``, a chunk at a time where the layout allows; the same
        input, the same bytes. Raises UsageError for codes that the format cannot hold."""
        raise NotImplementedError


@dataclass(frozen=True)
class Peer:
    """Another project: what it is called in the tables, and the formats of its files."""

    project: str
    directions: tuple[DirectionFormat, ...] = ()
    latents: tuple[LatentFormat, ...] = ()


# ---- contents -----------------------------------------------------------------------------------


def is_array(value: Any, *ndims: int) -> bool:
    """Whether this is an array of real numbers with one of these numbers of axes."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim in ndims


def is_vector(value: Any) -> bool:
    """Numbers that could be a direction, with or without layers and axes of length 1."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and 1 <= value.ndim <= 4


def has_arrays(value: Any, **ndims: int) -> bool:
    """Whether this is a dict with arrays of real numbers under these keys, of so many axes."""
    return isinstance(value, dict) and all(is_array(value.get(k), n) for k, n in ndims.items())


def lone(value: np.ndarray) -> np.ndarray:
    """A vector without leading axes of length 1."""
    while value.ndim > 1 and len(value) == 1:
        value = value[0]
    return value


def norm_of(vector: np.ndarray) -> float:
    """Length of a vector of any shape."""
    return float(np.linalg.norm(vector.astype(np.float64)))


def space_of(text: Any) -> str | None:
    """A peer's name of a space as ours, None for others."""
    return _SPACES.get(text.lower()) if isinstance(text, str) else None


# ---- directions to write ------------------------------------------------------------------------


def of_axes(direction: Direction, axes: int, what: str) -> np.ndarray:
    """The vector, which must have this many axes: 1, 2 (layers) or 4 (steps of h)."""
    if len(direction.shape) != axes:
        fits = {1: "'interfacegan' or 'anycost'", 2: "'e4e' or 'idinvert'", 4: "'h_jacobian'"}
        raise DirectionMismatchError(
            f"direction {direction.name!r} has shape {direction.shape!r} and does not fit "
            f"into a file of format {what!r}, whose vectors have {axes!r} axes; use "
            f"{fits.get(len(direction.shape), 'DirectionSet.save')}"
        )
    return direction.vector


def one_of(directions: Sequence[Direction], what: str) -> Direction:
    """The only direction. Raises UsageError for several."""
    if len(directions) != 1:
        raise UsageError(
            f"a file of format {what!r} holds one direction, not {len(directions)!r}: write each "
            "into a file of its own"
        )
    return directions[0]
