"""The zoom of a sequence's camera: how the scale of its frames changes slowly in time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from transforms.accumulate.blocks import TRANSFORMS, Accumulator, Arrays, Sums
from transforms.nrsfm.cameras import nearest_scaled_rotation
from transforms.nrsfm.frames import enough_frames
from transforms.nrsfm.model import ShapeModel
from transforms.nrsfm.sequence import ZOOM_TERMS, cosines


@dataclass(frozen=True)
class ZoomRequest:
    """Normal equations of the cosines of the logarithm of the rigid fit's scales."""

    kind = f"{TRANSFORMS}.nrsfm_zoom.ZoomRequest"

    model: ShapeModel
    n_frames: int
    token: str = "nrsfm-zoom"

    def prepare(self, arrays: Arrays) -> Arrays:
        """The points and the frame numbers as they are."""
        return arrays

    def statistic(self, prepared: Arrays) -> Sums:
        """normal (Z + 1, Z + 1), right (Z + 1,), frames."""
        cameras = self.model.fit(prepared["points"]).cameras
        scale = nearest_scaled_rotation(np.nan_to_num(cameras))[0]
        use = np.isfinite(cameras).all(axis=(1, 2)) & (scale > 0)
        rows = cosines(prepared["frame"][use], self.n_frames, ZOOM_TERMS + 1)
        sums = {"normal": rows.T @ rows, "right": rows.T @ np.log(scale[use])}
        return Sums({**sums, "frames": use.sum()})


@dataclass(frozen=True)
class ZoomSolver:
    """One pass (a `PassSolver`) over arrays points and frame.

    model : rigid model of the points;  n_frames : F, frames of the sequence, numbered 0..F-1
    zoom : the result, for `transforms.nrsfm.sequence.zoom_scales`
    """

    model: ShapeModel
    n_frames: int
    zoom: np.ndarray = field(default_factory=lambda: np.zeros(0))
    done: bool = False
    passes_per_pipeline: ClassVar[int] = 1

    def request(self) -> ZoomRequest:
        """The only pass."""
        return ZoomRequest(self.model, self.n_frames)

    def step(self, total: Accumulator) -> ZoomSolver:
        """The coefficients, without the constant: the rigid shape has the mean scale."""
        total = enough_frames(total)
        found = np.linalg.lstsq(total["normal"], total["right"], rcond=1e-10)[0]
        return replace(self, zoom=found[1:], done=True)
