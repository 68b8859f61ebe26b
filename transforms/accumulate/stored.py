"""Statistics as plain arrays and bytes: for workers' answers, and for files that outlive a run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from schemas.errors import DataError
from transforms.accumulate.blocks import (
    Accumulator,
    Arrays,
    kind_of,
    statistic_class,
    statistic_kind,
)

_KIND = "kind"


def arrays_of(statistic: Accumulator) -> Arrays:
    """A statistic's arrays, and its kind as the array "kind"."""
    return {_KIND: np.array(kind_of(statistic)), **statistic.to_arrays()}


def statistic_of(arrays: Mapping[str, np.ndarray]) -> Accumulator:
    """Inverse of `arrays_of`. DataError for an unknown kind, or arrays that are not of it."""
    kind = str(arrays.get(_KIND))
    cls = statistic_class(kind)
    own = {name: array for name, array in arrays.items() if name != _KIND}
    try:
        return cls.from_arrays(own)  # type: ignore[no-any-return]
    except (KeyError, ValueError, TypeError, IndexError) as e:
        raise DataError(
            f"arrays {sorted(own)!r} are not those of a statistic of kind {kind!r}"
        ) from e


def statistic_bytes(statistic: Accumulator) -> bytes:
    """A statistic as an .npz of its arrays and its kind."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays_of(statistic))
    return buffer.getvalue()


def statistic_of_bytes(content: bytes) -> Accumulator:
    """Inverse of `statistic_bytes`; nothing in the bytes can run. DataError for damaged bytes."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as e:  # whatever zip and npy readers make of damaged bytes
        raise DataError(f"{len(content)!r} bytes are not a statistic: {e}") from e
    return statistic_of(arrays)


@statistic_kind("GroupStatistics")
@dataclass(frozen=True)
class GroupStatistics:
    """A statistic for each of some groups of blocks, by the group's number."""

    groups: Mapping[int, Accumulator]

    def merge(self, other: Self) -> Self:
        """Groups of both; a group in both gets the statistic of both sets of rows."""
        groups = dict(self.groups)
        for number, statistic in other.groups.items():
            groups[number] = groups[number].merge(statistic) if number in groups else statistic
        return type(self)(groups)

    def to_arrays(self) -> Arrays:
        """'<group>/<name>' -> array."""
        return {
            f"{number}/{name}": array
            for number, statistic in self.groups.items()
            for name, array in arrays_of(statistic).items()
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`."""
        groups: dict[int, Arrays] = {}
        for name, array in arrays.items():
            number, _, key = name.partition("/")
            groups.setdefault(int(number), {})[key] = array
        return cls({number: statistic_of(part) for number, part in groups.items()})
