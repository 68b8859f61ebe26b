"""Which rows directions are measured on: random ones, held-out ones where these suffice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.analyses.inputs import hold_out
from schemas.index import DatasetIndex
from schemas.spec import RunSpec


def sample_rows(
    index: DatasetIndex, rows: NDArray[np.int64], spec: RunSpec, size: int, stream: int
) -> NDArray[np.int64]:
    """``size`` of ``rows`` (all, where there are not more) in random order, int64 (m,).

    Rows of 'evaluate.holdout' where these are enough; in the proportions of the levels of
    'evaluate.stratify'. stream : tells apart draws for different ends with the same seed.
    Raises DataError for a factor that the index does not have, or that is continuous.
    """
    wanted, seed = spec.evaluate, spec.evaluate_seed
    held = hold_out(index, wanted.holdout.factor, wanted.holdout.fraction, seed)[rows]
    if held.sum() >= size:
        rows = rows[held]
    rng = np.random.default_rng(np.random.SeedSequence([seed, stream]))
    if not wanted.stratify:
        chosen: NDArray[np.int64] = rng.permutation(rows)[:size]
        return chosen
    codes = np.stack([index.categorical(name)[0][rows] for name in wanted.stratify], axis=1)
    strata = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    return rows[stratified(strata, size, rng)]


def stratified(strata: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places of ``size`` random entries, in random order, each stratum in its proportion.

    strata : (n,) numbers 0, 1, ...; each has at least one entry. Of each stratum with n_k entries
    are chosen size n_k / n, rounded by largest remainder, ties by lot (proportional allocation:
    Cochran, Sampling Techniques, 1977, section 5.5). At most all n are chosen.
    """
    counts = np.bincount(strata)
    size = min(size, len(strata))
    take, remainder = np.divmod(counts * size, len(strata))
    by_remainder = np.lexsort((rng.permutation(len(counts)), -remainder))
    take[by_remainder[: size - take.sum()]] += 1
    shuffled = rng.permutation(len(strata))
    by_stratum = np.argsort(strata[shuffled], kind="stable")  # in each stratum still at random
    first = np.cumsum(counts) - counts
    places = [by_stratum[start : start + n] for start, n in zip(first, take, strict=True)]
    chosen: NDArray[np.int64] = rng.permutation(shuffled[np.concatenate(places)])
    return chosen
