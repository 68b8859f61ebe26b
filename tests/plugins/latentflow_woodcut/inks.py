"""A kind of annotator: how much of each ink a picture has, as shares that sum to one."""

from __future__ import annotations

import numpy as np

from generators.annotators.kinds.base import AnnotatorKind, Described


class Inks(AnnotatorKind):
    """A model's amounts of inks, stored as shares; analyses take them for scores."""

    name = "inks"
    role = "scores"
    unit = "share"

    def finish(self, values: np.ndarray, card: Described, shape: tuple[int, int]) -> np.ndarray:
        """Shares (n, inks), float32; NaN where a picture has no ink at all."""
        total = values.astype(np.float64).sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (values / total).astype(np.float32)


PLUGIN = Inks()
