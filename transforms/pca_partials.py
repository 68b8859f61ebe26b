"""Moments kept by groups of 16 blocks, so that changed or new rows cost only their groups.

The total is the sum of the groups' moments in ascending order, the same bits as a pass over all
rows gives; nothing is ever subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from schemas.errors import DataError, UsageError
from transforms.blocks import (
    GROUP_BLOCKS,
    Arrays,
    BlockSource,
    flatten_rows,
    group_blocks,
    sum_in_order,
)
from transforms.moments import Moments


@dataclass(frozen=True)
class MomentsByGroup:
    """Moments of every group of blocks, by the group's number."""

    groups: dict[int, Moments]

    def merge(self, other: Self) -> Self:
        """Groups of both; a group in both gets the moments of both sets of rows."""
        groups = dict(self.groups)
        for number, moments in other.groups.items():
            groups[number] = groups[number].merge(moments) if number in groups else moments
        return type(self)(groups)

    def total(self) -> Moments:
        """Moments of all rows: the groups in ascending order."""
        if not self.groups:
            raise DataError("no groups to sum: the source has 0 blocks; give at least one row")
        return sum_in_order(self.groups[number] for number in sorted(self.groups))

    def to_arrays(self) -> Arrays:
        """group (g,), count (g,), mean (g, D), second (g, D, D)."""
        numbers = sorted(self.groups)
        parts = [self.groups[number].to_arrays() for number in numbers]
        arrays = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        return {"group": np.array(numbers, np.int64)} | arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`."""
        names = ("count", "mean", "second")
        numbers = np.asarray(arrays["group"]).tolist()
        return cls(
            {
                number: Moments.from_arrays({name: arrays[name][i] for name in names})
                for i, number in enumerate(numbers)
            }
        )


@dataclass(frozen=True)
class GroupsOfBlocks:
    """The blocks of some groups of a source, each with the number of its group.

    groups : numbers of groups, ascending
    """

    source: BlockSource
    groups: tuple[int, ...]

    def __post_init__(self) -> None:
        known = len(group_blocks(self.source.n_blocks))
        if not self.groups or list(self.groups) != sorted(set(self.groups)):
            raise UsageError(f"groups are {self.groups!r}: give ascending numbers, at least one")
        if self.groups[0] < 0 or self.groups[-1] >= known:
            raise UsageError(f"groups are {self.groups!r} of {known!r}: give 0..{known - 1!r}")

    @property
    def key(self) -> str:
        """The source's key and the groups."""
        return f"{self.source.key}:groups{self.groups!r}"

    def _blocks(self) -> list[int]:
        ranges = group_blocks(self.source.n_blocks)
        return [block for group in self.groups for block in ranges[group]]

    @property
    def n_blocks(self) -> int:
        """Blocks in these groups."""
        return len(self._blocks())

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """As the source's, and the group's number ()."""
        at = self._blocks()[block]
        rows, arrays = self.source.read(at)
        return rows, arrays | {"group": np.array(at // GROUP_BLOCKS)}


@dataclass(frozen=True)
class MomentsOfGroups:
    """Moments of array x (m, ...) by group, of a `GroupsOfBlocks`."""

    token: str = "x-group"

    def prepare(self, arrays: Arrays) -> Arrays:
        """x as (m, D), and the group."""
        return {"x": flatten_rows(arrays["x"]), "group": arrays["group"]}

    def statistic(self, prepared: Arrays) -> MomentsByGroup:
        """`MomentsByGroup` of the block: its one group."""
        return MomentsByGroup({int(prepared["group"]): Moments.of(prepared["x"])})


def stale_groups(wanted: Sequence[str], known: Mapping[str, Moments]) -> tuple[int, ...]:
    """Numbers of the groups whose fingerprint is not known."""
    return tuple(i for i, fingerprint in enumerate(wanted) if fingerprint not in known)
