"""Row blocks and how their statistics are summed: the spine that every analysis shares.

An analysis is an additive statistic and a solve. A block's statistic is a pure function of the
block; blocks are summed in ascending order inside fixed groups of ``GROUP_BLOCKS``, and the group
partials are summed in ascending order at the end. The result therefore depends on neither the
number of workers nor their timing, and the in-memory loop here and the Beam path give equal bits.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np

from schemas.errors import DataError, UsageError

GROUP_BLOCKS = 16
DEFAULT_BLOCK_ROWS = 8192

Arrays = dict[str, np.ndarray]


@runtime_checkable
class Accumulator(Protocol):
    """A mergeable statistic: a value, never changed in place."""

    def merge(self, other: Self) -> Self:
        """Statistic of the rows of both."""
        ...

    def to_arrays(self) -> Arrays:
        """Plain arrays from which `from_arrays` makes an equal value."""
        ...

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`."""
        ...


A = TypeVar("A", bound=Accumulator)
C = TypeVar("C", bound=type)

_KINDS: dict[str, Any] = {}

TRANSFORMS, PIPELINES = "transforms", "pipelines"
"""Kinds that release 0.1.0 gave: package, module and class as they lay then, whatever moves."""


def statistic_kind(kind: str) -> Callable[[C], C]:
    """Decorator of a statistic's class: the constant name under which its arrays are kept.

    Files of statistics say their kind, and are read by whoever asks for such a statistic and has
    therefore imported its class. A class that is renamed or moved keeps its kind. UsageError where
    another class has it.
    """

    def register(cls: C) -> C:
        held = _KINDS.setdefault(kind, cls)
        if (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UsageError(
                f"statistics {held.__module__}.{held.__qualname__!r} and "
                f"{cls.__module__}.{cls.__qualname__!r} both have the kind {kind!r}: give the "
                "later one another"
            )
        _KINDS[kind] = cls
        cls.kind = kind  # type: ignore[attr-defined]
        return cls

    return register


def kind_of(statistic: Accumulator) -> str:
    """The constant name of a statistic's class. UsageError for a class without its own."""
    cls = type(statistic)
    kind = vars(cls).get("kind")
    if not isinstance(kind, str):
        raise UsageError(
            f"statistic {cls.__qualname__!r} has no kind: decorate its class with statistic_kind"
        )
    return kind


def statistic_class(kind: str) -> Any:
    """The class of a kind. DataError where no class that has been imported is of that kind."""
    if kind not in _KINDS:
        raise DataError(f"statistic of kind {kind!r} is not one of {sorted(_KINDS)!r}")
    return _KINDS[kind]


@dataclass(frozen=True)
class Parts:
    """Named arrays of each part by its number, where parts are kept side by side, not added."""

    parts: dict[int, Arrays]

    def merge(self, other: Self) -> Self:
        """Parts of both."""
        return type(self)(self.parts | other.parts)

    def to_arrays(self) -> Arrays:
        """'<number>/<name>' -> array."""
        return {f"{i}/{k}": v for i, part in self.parts.items() for k, v in part.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`."""
        parts: dict[int, Arrays] = {}
        for name, array in arrays.items():
            number, _, key = name.partition("/")
            parts.setdefault(int(number), {})[key] = np.asarray(array)
        return cls(parts)


@runtime_checkable
class BlockSource(Protocol):
    """Rows in blocks, read where they are needed; small and picklable."""

    @property
    def key(self) -> str:
        """Identity of the content, for caches: two sources with one key hold equal blocks."""
        ...

    @property
    def n_blocks(self) -> int:
        """Number of blocks; blocks may be empty."""
        ...

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Row numbers int64 (m,) and arrays (m, ...) of the block's usable rows."""
        ...


@runtime_checkable
class KeyedSource(BlockSource, Protocol):
    """A source whose content has an identity that outlives the process and the place."""

    def part_key(self, blocks: range) -> str:
        """Of what these blocks hold: computed from what they were made of, never from paths."""
        ...


def flatten_rows(x: np.ndarray) -> np.ndarray:
    """Rows (m, ...) as (m, D), also when m is 0."""
    return x.reshape(len(x), int(np.prod(x.shape[1:])))


@statistic_kind("Sums")
@dataclass(frozen=True)
class Sums:
    """Named arrays that add up: gradients, Hessian products, counts.

    arrays : name -> float64 or int64 array; every addend has the same names and shapes.
    """

    arrays: Arrays

    @classmethod
    def zero(cls) -> Self:
        """The sum of nothing."""
        return cls({})

    def add(self, **arrays: Any) -> Self:
        """Add one block's arrays."""
        return self.merge(type(self)({k: np.asarray(v) for k, v in arrays.items()}))

    def merge(self, other: Self) -> Self:
        """Elementwise sum; the empty sum is neutral."""
        if not self.arrays:
            return other
        if not other.arrays:
            return self
        if self.arrays.keys() != other.arrays.keys():
            raise UsageError(
                f"cannot add sums of {sorted(self.arrays)!r} and {sorted(other.arrays)!r}: "
                "merge statistics of one analysis only"
            )
        return type(self)({k: v + other.arrays[k] for k, v in self.arrays.items()})

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def to_arrays(self) -> Arrays:
        """The named arrays."""
        return dict(self.arrays)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`."""
        return cls({k: np.asarray(v) for k, v in arrays.items()})


def group_blocks(n_blocks: int) -> list[range]:
    """The fixed groups of blocks: 0..15, 16..31, ... (the last may be short)."""
    return [
        range(start, min(start + GROUP_BLOCKS, n_blocks))
        for start in range(0, n_blocks, GROUP_BLOCKS)
    ]


def sum_in_order(partials: Iterable[A]) -> A:
    """Left fold by `merge` in the order given. Empty input raises DataError."""
    iterator = iter(partials)
    try:
        total = next(iterator)
    except StopIteration:
        raise DataError(
            "no blocks to sum: the source has 0 blocks; give at least one row"
        ) from None
    for partial in iterator:
        total = total.merge(partial)
    return total


def sum_blocks(n_blocks: int, statistic: Callable[[int], A]) -> A:
    """Statistic of all blocks: ascending inside groups of 16, then the groups ascending."""
    return sum_in_order(
        sum_in_order(statistic(block) for block in group) for group in group_blocks(n_blocks)
    )


_SERIAL = itertools.count()


def serial_key() -> str:
    """A key for arrays in memory, never given twice by one process."""
    return f"arrays-{os.getpid()}-{next(_SERIAL)}"


def _check_lengths(lengths: Mapping[str, int]) -> int:
    if not lengths:
        raise UsageError("no arrays given: name at least one array")
    (first, n_rows), *others = lengths.items()
    for name, n in others:
        if n != n_rows:
            raise UsageError(
                f"array {name!r} has {n!r} rows but {first!r} has {n_rows!r}: give equal lengths"
            )
    return n_rows


@dataclass(frozen=True)
class ArrayBlocks:
    """Numpy arrays (n, ...) cut into blocks of `block_rows` rows."""

    arrays: Mapping[str, np.ndarray]
    block_rows: int = DEFAULT_BLOCK_ROWS
    key: str = field(default_factory=serial_key)

    def __post_init__(self) -> None:
        _check_lengths({k: len(v) for k, v in self.arrays.items()})
        if self.block_rows < 1:
            raise UsageError(f"block_rows is {self.block_rows!r}: give at least 1")

    @property
    def n_rows(self) -> int:
        """Rows in all blocks."""
        return len(next(iter(self.arrays.values())))

    @property
    def n_blocks(self) -> int:
        """Number of blocks, the last one possibly short."""
        return -(-self.n_rows // self.block_rows)

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Rows ``block * block_rows`` onward; views, not copies."""
        start = block * self.block_rows
        stop = min(start + self.block_rows, self.n_rows)
        return np.arange(start, stop), {k: v[start:stop] for k, v in self.arrays.items()}


@dataclass(frozen=True)
class NpyBlocks:
    """Uncompressed .npy files (n, ...) cut into blocks; only the paths travel to workers."""

    paths: Mapping[str, str]
    block_rows: int = DEFAULT_BLOCK_ROWS

    def __post_init__(self) -> None:
        _check_lengths({k: len(self._open(k)) for k in self.paths})

    def _open(self, name: str) -> np.ndarray:
        return np.load(self.paths[name], mmap_mode="r", allow_pickle=False)

    @property
    def key(self) -> str:
        """Paths, sizes and modification times."""
        stats = {k: Path(p).stat() for k, p in self.paths.items()}
        return repr([(k, self.paths[k], s.st_size, s.st_mtime_ns) for k, s in stats.items()])

    @property
    def n_rows(self) -> int:
        """Rows in all blocks."""
        return len(self._open(next(iter(self.paths))))

    @property
    def n_blocks(self) -> int:
        """Number of blocks, the last one possibly short."""
        return -(-self.n_rows // self.block_rows)

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Rows ``block * block_rows`` onward, read into memory."""
        start = block * self.block_rows
        arrays = {k: np.array(self._open(k)[start : start + self.block_rows]) for k in self.paths}
        return np.arange(start, start + len(next(iter(arrays.values())))), arrays


def iterate_blocks(source: BlockSource) -> Iterator[tuple[int, np.ndarray, Arrays]]:
    """(block, rows, arrays) in ascending order."""
    for block in range(source.n_blocks):
        rows, arrays = source.read(block)
        yield block, rows, arrays
