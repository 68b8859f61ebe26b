"""The kernel distance of two sets of rows: KID, where the rows are Inception's features.

Binkowski et al. (2018), "Demystifying MMD GANs": the unbiased squared maximum mean discrepancy of
the kernel (x.y / D + 1)^3. It is not below 0 in expectation alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from schemas.errors import DataError
from transforms.accumulate.blocks import TRANSFORMS


@dataclass(frozen=True)
class Subsets:
    """Random subsets of each of two sets of rows, each row at most once in a subset.

    count : of subsets.  size : of a subset, in rows; at most those of either set
    """

    kind = f"{TRANSFORMS}.generator_metrics.Subsets"

    count: int = 100
    size: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.size < 2:
            raise DataError(
                f"{self.count!r} subsets of {self.size!r} rows: give at least 1 of at least 2 rows"
            )

    def members(self, side: int, n: int) -> np.ndarray:
        """float64 (n, count): 1 for a row of a subset. side : 0 or 1, which set; n : its rows."""
        return _members(self, side, n)


@lru_cache(maxsize=4)
def _members(subsets: Subsets, side: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(np.random.SeedSequence([subsets.seed, 41, side]))
    found = np.zeros((n, subsets.count))
    for number in range(subsets.count):
        found[rng.choice(n, subsets.size, replace=False), number] = 1.0
    return found


class KernelDistance(NamedTuple):
    """mean, sd : of the subsets' estimates.  whole : the estimate from all rows"""

    mean: float
    sd: float
    whole: float


def kernel_distance(
    sums: Mapping[str, np.ndarray], n: tuple[int, int], subsets: Subsets
) -> KernelDistance:
    """Of the kernel sums of `transforms.generator_metrics.sets.SetsSolver`. n : rows of each."""
    m = subsets.size
    each = (sums["subsets/00"] + sums["subsets/11"]) / (m * (m - 1))
    each = each - 2 * sums["subsets/01"] / m**2
    whole = sums["all/00"] / (n[0] * (n[0] - 1)) + sums["all/11"] / (n[1] * (n[1] - 1))
    whole = whole - 2 * sums["all/01"] / (n[0] * n[1])
    return KernelDistance(float(each.mean()), float(each.std()), float(whole))
