"""Random numbers of a seed: numpy's frozen MT19937 stream, the same in every release."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
