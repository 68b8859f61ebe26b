"""Measurements of a block as labels and targets of an analysis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.fingerprint import digest
from transforms.accumulate.blocks import Arrays, KeyedSource, flatten_rows


@dataclass(frozen=True)
class Labels:
    """Scores that become ``y`` int8 (m, A): 1 above the threshold, -1 below, 0 where missing.

    columns : of the array "scores" to use
    """

    columns: tuple[int, ...]
    threshold: float

    def of(self, arrays: Arrays) -> Arrays:
        """The block's labels."""
        scores = arrays["scores"][:, list(self.columns)]
        sign = np.where(scores > self.threshold, 1, -1)
        return {"y": np.where(np.isfinite(scores), sign, 0).astype(np.int8)}


@dataclass(frozen=True)
class Targets:
    """Measured quantities that become ``targets`` float64 (m, T)."""

    columns: tuple[int, ...]

    def of(self, arrays: Arrays) -> Arrays:
        """The block's targets."""
        return {"targets": arrays["scores"][:, list(self.columns)].astype(np.float64)}


@dataclass(frozen=True)
class LabelledBlocks:
    """A source with codes ``x`` flattened to (m, D), and measurements turned into labels."""

    source: KeyedSource
    labels: Labels | Targets | None = None

    @property
    def key(self) -> str:
        """The source's key and what is made of its measurements."""
        return f"{self.source.key}:{self.labels!r}"

    def part_key(self, blocks: range) -> str:
        """The source's, and what is made of its measurements."""
        return digest([self.source.part_key(blocks), repr(self.labels)])

    @property
    def n_blocks(self) -> int:
        """Blocks of the source."""
        return self.source.n_blocks

    def read(self, block: int) -> tuple[np.ndarray, Arrays]:
        """Row numbers and arrays of the block's rows."""
        rows, arrays = self.source.read(block)
        arrays = dict(arrays, x=flatten_rows(arrays["x"]))
        return rows, arrays | (self.labels.of(arrays) if self.labels else {})
