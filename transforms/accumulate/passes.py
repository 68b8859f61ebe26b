"""Solvers that need several passes over the data, as machines that any engine can drive.

A solver is a value. It says what its next pass must compute (`request`, small and picklable), the
engine computes that statistic for every block and sums it, and `step` returns the next solver. The
in-memory loop below and the Beam path drive the same machines, so they agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeVar

from schemas.errors import UsageError
from transforms.accumulate.blocks import Accumulator, Arrays, BlockSource, sum_blocks

K = TypeVar("K")


class PassRequest(Protocol):
    """What one pass computes; a small picklable value."""

    @property
    def kind(self) -> str:
        """A constant of the class (and of every dataclass among its parameters): names what was
        summed for it, so that a class that is renamed or moved keeps its saved sums."""
        ...

    @property
    def token(self) -> str:
        """Names the preparation, so that prepared blocks can be kept between passes."""
        ...

    def prepare(self, arrays: Arrays) -> Arrays:
        """Block arrays in the form that `statistic` wants (centred, projected, ...)."""
        ...

    def statistic(self, prepared: Arrays) -> Accumulator:
        """The block's statistic: a pure function of this request and the prepared arrays."""
        ...


class PassSolver(Protocol):
    """State between passes.

    A class attribute ``saved_passes`` is the number of leading passes whose statistics are worth
    keeping, because another solve with other parameters asks for the same; default 0.
    """

    @property
    def done(self) -> bool:
        """No further pass is needed."""
        ...

    def request(self) -> PassRequest:
        """What the next pass computes."""
        ...

    def step(self, total: Accumulator) -> Self:
        """State after a pass whose summed statistic is `total`."""
        ...


def expect(total: Accumulator, kind: type[K]) -> K:
    """The sum of a pass, as the statistic that it must be; UsageError for another request's."""
    if not isinstance(total, kind):
        raise UsageError(
            f"a pass returned {type(total).__name__!r}, this solver expects {kind.__name__!r}: run "
            "the pass with the request that the solver gives now"
        )
    return total


@dataclass(frozen=True)
class OnePass:
    """A request as a solver, whose source is therefore kept for further passes where it is made."""

    saved_passes: ClassVar[int] = 1

    wanted: PassRequest
    total: Any = None

    @property
    def done(self) -> bool:
        """The pass has been made."""
        return self.total is not None

    def request(self) -> PassRequest:
        """The request."""
        return self.wanted

    def step(self, total: Accumulator) -> OnePass:
        """With its sum."""
        return OnePass(self.wanted, total)


S = TypeVar("S", bound=PassSolver)
Seen = Callable[[PassRequest, Accumulator], None]


class Statistics(Protocol):
    """Where an analysis gets its statistics: summed by an engine, or kept from another time."""

    def sum(self, source: BlockSource, request: PassRequest) -> Any:
        """Sum of the blocks' statistics, in the fixed order of `transforms.accumulate.blocks`."""

    def run(self, solver: S, source: BlockSource) -> S:
        """Drive a solver until it is done."""


class Engine(Statistics, Protocol):
    """Where statistics are summed: in this process, or in Beam."""

    def run(self, solver: S, source: BlockSource, *, seen: Seen | None = None) -> S:
        """Drive a solver until it is done. seen : called with each pass's request and sum."""


def run_passes(
    solver: S,
    source: BlockSource,
    max_passes: int = 10_000,
    keep: bool = True,
    seen: Seen | None = None,
) -> S:
    """Drive a solver over a source in this process.

    keep : hold prepared blocks in memory between passes, else prepare them each time
    seen : called with each pass's request and summed statistic
    """
    kept: dict[int, tuple[str, Arrays]] = {}

    def prepared(request: PassRequest, block: int) -> Arrays:
        token, arrays = kept.get(block, (None, None))
        if token != request.token or arrays is None:
            arrays = request.prepare(source.read(block)[1])
            if keep:
                kept[block] = (request.token, arrays)
        return arrays

    def summed(request: PassRequest) -> Accumulator:
        return sum_blocks(
            source.n_blocks, lambda block: request.statistic(prepared(request, block))
        )

    for _ in range(max_passes):
        if solver.done:
            break
        request = solver.request()
        total = summed(request)
        if seen is not None:
            seen(request, total)
        solver = solver.step(total)
    return solver
