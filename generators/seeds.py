"""Random numbers of a seed: numpy's frozen MT19937 stream, the same in every release."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from schemas.errors import UsageError


def streams(seeds: Sequence[int]) -> Iterator[np.random.RandomState]:
    """The stream of each seed, until the next one is asked for.

    As in StyleGAN2's official ``generate.py``, so that seeds below 2**32 give the official images;
    larger seeds are split into 32-bit words. Raises UsageError for a negative one.
    """
    state = np.random.RandomState(0)  # making one costs ten times what seeding it again does
    for seed in map(int, seeds):
        if seed < 0:
            raise UsageError(f"seed {seed!r} is negative: give seeds from 0")
        words = [(seed >> shift) & 0xFFFFFFFF for shift in range(0, seed.bit_length() or 1, 32)]
        state.seed(words if len(words) > 1 else words[0])
        yield state


def drawn(prior: str, seeds: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """One row for each seed, float32 (n, *shape), of the seed's stream alone.

    prior : "normal" (standard normal), "uniform" (on [-1, 1]), or "truncated_normal" (standard
        normal within 2). Raises UsageError for a negative seed.
    """
    rows = np.empty((len(seeds), *shape), np.float32)
    for row, stream in zip(rows, streams(seeds), strict=True):
        row[...] = _DRAWN[prior](stream, shape)
    return rows


def _truncated(stream: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal, each number drawn again until it lies within 2."""
    values = stream.standard_normal(shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = stream.standard_normal(int(outside.sum()))
    return values


_DRAWN: Mapping[str, Callable[[np.random.RandomState, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda stream, shape: stream.standard_normal(shape),
    "uniform": lambda stream, shape: stream.uniform(-1, 1, shape),
    "truncated_normal": _truncated,
}
