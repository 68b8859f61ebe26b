"""The gradient edit of Paper III for strips along the pose and shape directions of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from generators.protocols import Code
from pipelines.evaluation.samples import Samples
from schemas.directions.direction_set import DirectionSet
from schemas.errors import UsageError

if TYPE_CHECKING:
    import torch

    from generators.protocols import Generator


@dataclass(frozen=True, eq=False)
class GradientEdit:
    """Codes with the landmark parameters of codes moved along a direction, and a picture more
    like the original's: `generators.gradient_edit.gradient_edit` row by row.

    mean (D,), weights (D, P), intercept (P,) : of the run's regressor;  scale : (P,), standard
    deviations of the parameters;  weight : of the picture's mean squared change
    """

    generator: Generator
    mean: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    scale: np.ndarray
    weight: float
    steps: int = 100

    @classmethod
    def of(cls, generator: Generator, directions: DirectionSet, weight: float) -> GradientEdit:
        """With the regressor stored beside the directions; UsageError where there is none."""
        names = directions.model_names()
        arrays = directions.load_model("nrsfm")[0] if "nrsfm" in names else {}
        if "regressor_weights" not in arrays:
            raise UsageError(
                "the run has no regressor from codes to landmark parameters, which the gradient "
                "edit needs: set analyse.nrsfm.regressor, such as 0.01, and run again"
            )
        scale = np.nanstd(arrays["parameters"], axis=0)
        return cls(
            generator,
            arrays["regressor_mean"],
            arrays["regressor_weights"],
            arrays["regressor_intercept"],
            np.where(scale > 0, scale, 1.0),
            weight,
        )

    def __call__(self, samples: Samples, edited: np.ndarray) -> np.ndarray:
        """Codes (rows, strengths, ...) from the analytic edits `edited` of the samples."""
        from generators.gradient_edit import gradient_edit

        found = []
        for row, moved in enumerate(edited):
            alike = samples[np.full(len(moved), row)]
            whole = alike.code()

            def draw(
                batch: torch.Tensor, whole: Code = whole, alike: Samples = alike
            ) -> torch.Tensor:
                moved = whole.moved(batch)
                return self.generator.draw(moved, labels=alike.classes, noise=alike.noise).cpu()

            flat = moved.reshape(len(moved), -1)
            result = gradient_edit(
                draw,
                alike.codes,
                (flat - self.mean) @ self.weights + self.intercept,
                mean=self.mean,
                weights=self.weights,
                intercept=self.intercept,
                scale=self.scale,
                weight=self.weight,
                steps=self.steps,
                start=moved,
            )
            found.append(result.codes)
        return np.stack(found)
