"""Rows through a network some at a time, where no bit may depend on how many these are.

What a network gives for a row may differ, in its last bits, with the number of rows that go through
it together: products of other shapes add up in another order. So that number is fixed. On most
machines larger products of the same layers add up in the same order; then they are taken, for they
cost a third less.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from generators.protocols import Code

ROWS = 64
"""Rows that go through a network together. Fewer are filled up with copies of the last one."""
MANY = 1024
"""Rows that go through it together where that gives each of them the bits that `ROWS` give."""

_SAME: dict[Hashable, bool] = {}
"""What was asked -> whether the first `MANY` rows of this process had the same bits both ways."""


def in_batches(
    n: int,
    make: Callable[[np.ndarray], Code],
    what: Hashable,
    rows: int = ROWS,
    many: int = MANY,
) -> Iterator[tuple[slice, Code]]:
    """Codes of `n` rows, some at a time.

    make : codes of rows given by their places in 0 .. n - 1, int64 (`rows`,) or (`many`,)
    what : all that `make` does, but for the rows themselves
    many : a multiple of `rows`; `rows`, where more are not to be tried
    """
    import torch

    what = what, rows, many, torch.get_num_threads()

    def made(start: int, size: int) -> tuple[slice, Code]:
        part = slice(start, min(start + size, n))
        return part, make(np.minimum(np.arange(start, start + size), n - 1))[: part.stop - start]

    for start in range(0, n, many):
        whole = rows < many <= n - start
        if whole and _SAME.get(what, False):
            yield made(start, many)
            continue
        parts = [made(at, rows) for at in range(start, min(start + many, n), rows)]
        if whole and what not in _SAME:
            _SAME[what] = _equal([code for _, code in parts], made(start, many)[1])
        yield from parts


def _equal(parts: list[Code], whole: Code) -> bool:
    """Whether codes have the same bits in parts as together."""
    import torch

    first = parts[0]
    return torch.equal(torch.cat([code.main for code in parts]), whole.main) and all(
        torch.equal(torch.cat([code.companions[name] for code in parts]), whole.companions[name])
        for name in first.companions
    )
