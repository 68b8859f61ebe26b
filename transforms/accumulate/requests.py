"""The analyses that need one pass: what each computes from a block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transforms.accumulate.blocks import TRANSFORMS, Arrays, flatten_rows
from transforms.accumulate.factor_cells import CellSums
from transforms.accumulate.moments import Moments, join_targets


@dataclass(frozen=True)
class MomentsOfRows:
    """Moments of array x (m, ...): for principal components and standard deviations."""

    kind = f"{TRANSFORMS}.requests.MomentsOfRows"

    diagonal: bool = False
    token: str = "x"

    def prepare(self, arrays: Arrays) -> Arrays:
        """x as (m, D)."""
        return {"x": flatten_rows(arrays["x"])}

    def statistic(self, prepared: Arrays) -> Moments:
        """`Moments` of the block."""
        return Moments.of(prepared["x"], self.diagonal)


@dataclass(frozen=True)
class MomentsAlong:
    """Moments of the projections on directions (A, D): their standard deviations, any D."""

    kind = f"{TRANSFORMS}.requests.MomentsAlong"

    directions: np.ndarray
    token: str = "x"

    def prepare(self, arrays: Arrays) -> Arrays:
        """x as (m, D)."""
        return {"x": flatten_rows(arrays["x"])}

    def statistic(self, prepared: Arrays) -> Moments:
        """Diagonal `Moments` of the (m, A) projections."""
        along = prepared["x"].astype(np.float64) @ flatten_rows(self.directions).T
        return Moments.of(along, diagonal=True)


@dataclass(frozen=True)
class SumsOfCells:
    """Sums of x per cell, from arrays x (m, ...) and cells (m,): for mean differences."""

    kind = f"{TRANSFORMS}.requests.SumsOfCells"

    token: str = "x-cells"

    def prepare(self, arrays: Arrays) -> Arrays:
        """x as (m, D), and the cells."""
        return {"x": flatten_rows(arrays["x"]), "cells": arrays["cells"]}

    def statistic(self, prepared: Arrays) -> CellSums:
        """`CellSums` of the block."""
        return CellSums.of(prepared["x"], prepared["cells"])


@dataclass(frozen=True)
class CountsOfCells:
    """Rows per cell, without their sums: what a tensor model lacks is known before it is built."""

    kind = f"{TRANSFORMS}.requests.CountsOfCells"

    token: str = "cells"

    def prepare(self, arrays: Arrays) -> Arrays:
        """The cells."""
        return {"cells": arrays["cells"]}

    def statistic(self, prepared: Arrays) -> CellSums:
        """`CellSums` without features."""
        cells = prepared["cells"]
        return CellSums.of(np.zeros((len(cells), 0)), cells)


@dataclass(frozen=True)
class JointMoments:
    """Joint moments of x and targets (m, T), rows with every target: for regressions."""

    kind = f"{TRANSFORMS}.requests.JointMoments"

    token: str = "x-targets"

    def prepare(self, arrays: Arrays) -> Arrays:
        """x and targets side by side, (m', D + T)."""
        return {"joint": join_targets(arrays["x"], arrays["targets"])}

    def statistic(self, prepared: Arrays) -> Moments:
        """`Moments` of the block."""
        return Moments.of(prepared["joint"])
