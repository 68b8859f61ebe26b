"""Statistics by groups of 16 blocks, so that changed or new rows cost only their groups.

The sum over the groups in ascending order has the same bits as a pass over all rows; nothing is
ever subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.errors import UsageError
from transforms.accumulate.blocks import GROUP_BLOCKS, TRANSFORMS, Arrays, BlockSource, group_blocks
from transforms.accumulate.passes import PassRequest
from transforms.accumulate.stored import GroupStatistics


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
class StatisticOfGroups:
    """What a request computes, by group, of a `GroupsOfBlocks`.

    Only the last group of a source is short, so that blocks of ascending groups fall into the same
    groups of 16 as in the source, and every group's statistic is the same to the bit.
    """

    kind = f"{TRANSFORMS}.partials.StatisticOfGroups"

    request: PassRequest

    @property
    def token(self) -> str:
        """The request's, with the group."""
        return f"{self.request.token}-group"

    def prepare(self, arrays: Arrays) -> Arrays:
        """As the request's, and the group."""
        own = {name: array for name, array in arrays.items() if name != "group"}
        return {**self.request.prepare(own), "group": arrays["group"]}

    def statistic(self, prepared: Arrays) -> GroupStatistics:
        """`GroupStatistics` of the block: its one group."""
        own: dict[str, Any] = {name: a for name, a in prepared.items() if name != "group"}
        return GroupStatistics({int(prepared["group"]): self.request.statistic(own)})
