"""Beam: accumulate statistics over row blocks, in an order that nothing can change.

Elements are ranges of block numbers; blocks are read inside workers. Partials are keyed by their
range and summed in ascending order inside groups of 16 blocks, then over the groups, exactly as
`transforms.accumulate.blocks.sum_blocks` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from schemas.errors import UsageError
from transforms.accumulate.blocks import (
    GROUP_BLOCKS,
    Accumulator,
    BlockSource,
    group_blocks,
    sum_in_order,
)
from transforms.accumulate.passes import PassRequest
from transforms.accumulate.pinned import DEFAULT_CACHE_BYTES, PINNED

Range = tuple[int, int]
Partials = dict[Range, Any]

# Up to this many blocks every block is an element of its own; above, a group of 16 is, so that a
# pass hands one partial a group to Beam and not one a block. The sums are equal to the bit.
SINGLE_BLOCKS = 64


def block_ranges(n_blocks: int, per_group: bool | None = None) -> list[Range]:
    """The elements of a pass: (start, stop) of single blocks or of whole groups."""
    if n_blocks < 1:
        raise UsageError(f"{n_blocks!r} blocks: the source is empty; give at least one row")
    grouped = n_blocks > SINGLE_BLOCKS if per_group is None else per_group
    if grouped:
        return [(group.start, group.stop) for group in group_blocks(n_blocks)]
    return [(block, block + 1) for block in range(n_blocks)]


class SumInOrder(beam.CombineFn):  # type: ignore[misc]
    """Combine (range, partial statistic) into the statistic of all blocks.

    The accumulator holds the partials by range; what has arrived of a group without a gap is summed
    at once. Neither the order of arrival nor the split into bundles can change a bit of the result.
    """

    def __init__(self, n_blocks: int) -> None:
        self.n_blocks = n_blocks

    def create_accumulator(self) -> Partials:
        """No partials."""
        return {}

    def add_input(self, accumulator: Partials, element: tuple[Range, Any]) -> Partials:
        """Take in one partial. A range that arrives twice raises UsageError."""
        return self._take(dict(accumulator), [element])

    def merge_accumulators(self, accumulators: Iterable[Partials]) -> Partials:
        """Partials of all accumulators, in any order."""
        merged: Partials = {}
        for accumulator in accumulators:
            merged = self._take(merged, accumulator.items())
        return merged

    def compact(self, accumulator: Partials) -> Partials:
        """The accumulator: what can be summed already is."""
        return accumulator

    def extract_output(self, accumulator: Partials) -> Any:
        """Sum over the groups, ascending. Missing blocks raise UsageError; no input is None."""
        if not accumulator:
            return None
        ranges = sorted(accumulator)
        expected = [(group.start, group.stop) for group in group_blocks(self.n_blocks)]
        if ranges != expected:
            raise UsageError(
                f"partials cover {ranges!r} but the source has {self.n_blocks!r} blocks: give "
                "every block once"
            )
        return _sum([accumulator[r] for r in ranges])

    def _take(self, partials: Partials, elements: Iterable[tuple[Range, Any]]) -> Partials:
        for (start, stop), partial in elements:
            if (start, stop) in partials:
                raise UsageError(f"blocks {start!r} to {stop!r} arrived twice: give each once")
            partials[start, stop] = partial
            first = start - start % GROUP_BLOCKS
            self._fold(partials, first, min(first + GROUP_BLOCKS, self.n_blocks))
        return partials

    def _fold(self, partials: Partials, first: int, last: int) -> None:
        """Sum what has arrived of a group from its first block on without a gap, in order."""
        head = next((r for r in partials if r[0] == first), None)
        while head is not None and head[1] < last and (head[1], head[1] + 1) in partials:
            following = (head[1], head[1] + 1)
            pair = [partials.pop(head), partials.pop(following)]
            head = (first, following[1])
            partials[head] = _sum(pair)


def _sum(partials: list[Any]) -> Any:
    """Left fold; a pass that has nothing to compute hands in None throughout."""
    return None if partials[0] is None else sum_in_order(partials)


class AccumulateBlocks(beam.DoFn):  # type: ignore[misc]
    """(start, stop) -> (0, ((start, stop), statistic of these blocks in ascending order))."""

    def __init__(self, source: BlockSource, cache_bytes: int) -> None:
        self.source = source
        self.cache_bytes = cache_bytes

    def process(
        self, element: Range, request: PassRequest | None
    ) -> Iterator[tuple[int, tuple[Range, Accumulator | None]]]:
        """One partial an element; None where the request is None (the solver is done)."""
        if request is None:
            yield 0, (element, None)
            return
        yield 0, (element, sum_in_order(self._one(request, b) for b in range(*element)))

    def _one(self, request: PassRequest, block: int) -> Accumulator:
        def load() -> dict[str, Any]:
            return request.prepare(self.source.read(block)[1])

        key = self.source.key
        return request.statistic(PINNED.get(key, request.token, block, self.cache_bytes, load))


@dataclass(eq=False)
class CreateBlocks(beam.PTransform):  # type: ignore[misc]
    """The ranges of a source's blocks, spread over workers."""

    n_blocks: int
    per_group: bool | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self._ranges = block_ranges(self.n_blocks, self.per_group)

    def expand(self, pbegin: Any) -> Any:
        """PBegin -> PCollection[(start, stop)]; Create itself reshuffles."""
        return pbegin | "Ranges" >> beam.Create(self._ranges)


@dataclass(eq=False)
class SumKeyed(beam.PTransform):  # type: ignore[misc]
    """As `SumBlocks`, but the statistic keeps its key: PCollection with one (0, statistic).

    A solver's passes are unrolled into one pipeline, so a step fewer in each is worth having.
    """

    source: BlockSource
    request: Any
    cache_bytes: int = DEFAULT_CACHE_BYTES

    def __post_init__(self) -> None:
        super().__init__()
        if self.cache_bytes < 0:
            raise UsageError(f"cache_bytes is {self.cache_bytes!r}: give 0 or more")
        self._n_blocks = self.source.n_blocks

    def expand(self, ranges: Any) -> Any:
        """PCollection[(start, stop)] -> PCollection[(0, statistic)]."""
        request = self.request
        if isinstance(request, beam.PCollection):
            request = beam.pvalue.AsSingleton(request)
        return (
            ranges
            | "Accumulate" >> beam.ParDo(AccumulateBlocks(self.source, self.cache_bytes), request)
            | "Sum" >> beam.CombinePerKey(SumInOrder(self._n_blocks))
        )


@dataclass(eq=False)
class SumBlocks(SumKeyed):
    """Statistic of a whole source.

    source : read inside workers, which pin prepared blocks up to `cache_bytes`
    request : a `PassRequest`, or a singleton PCollection of one (or of None)
    """

    def expand(self, ranges: Any) -> Any:
        """PCollection[(start, stop)] -> PCollection with one statistic."""
        return super().expand(ranges) | "Total" >> beam.Values()
