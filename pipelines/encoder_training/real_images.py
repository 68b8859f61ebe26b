"""Pictures of the specification's dataset, mixed into a training."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pipelines.sources.open import run_source
from schemas.errors import InputError
from schemas.fingerprint import digest
from schemas.spec import RunSpec
from transforms.images.preprocess import decode, fit, to_float
from transforms.images.quarantine import Quarantine

TRIES = 100
"""Unreadable pictures one after another, after which a dataset counts as unreadable."""


class RealImages:
    """Pictures of a dataset, brought to the generator's size as inversion does.

    size : (height, width) in pixels
    """

    def __init__(self, spec: RunSpec, size: tuple[int, int], seed: int) -> None:
        self._source, self._size, self._seed = run_source(spec), size, seed
        self._crop, self._max_pixels = spec.invert.crop, spec.invert.max_pixels

    @cached_property
    def uris(self) -> list[str]:
        """All pictures. Raises InputError where there are none."""
        found = [item.uri for item in self._source.list().items]
        if not found:
            raise InputError(
                f"'dataset' in {self._source.root!r} has no images to train with: correct it, or "
                "set 'train_encoder.real' to 0"
            )
        return found

    @property
    def fingerprint(self) -> str:
        """Of which pictures there are, by their names, and how they are fitted."""
        return digest([self.uris, self._crop, self._max_pixels])

    def __call__(self, step: int, n: int) -> Tensor:
        """n pictures of a step, float32 (n, 3, *size) in [-1, 1]: a function of seed and step.

        An unreadable one is replaced by the next that can be read. Raises InputError after many
        that cannot.
        """
        rng = np.random.default_rng([self._seed, step])
        rows = rng.integers(len(self.uris), size=n)
        return torch.from_numpy(to_float(np.stack([self._read(int(row)) for row in rows])))

    def _read(self, row: int) -> np.ndarray:
        why = ""
        for k in range(min(TRIES, len(self.uris))):
            try:
                data = self._source.read(self.uris[(row + k) % len(self.uris)])
                return fit(decode(data, self._max_pixels), self._size, self._crop)
            except Quarantine as e:
                why = str(e)
        raise InputError(
            f"none of the images of 'dataset' from {self.uris[row]!r} on can be read, the last for "
            f"{why!r}: correct 'dataset', or set 'train_encoder.real' to 0"
        )
