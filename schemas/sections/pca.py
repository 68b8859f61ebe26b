"""Principal components: the section 'analyse.pca'."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer


class PcaSpec(AnalysisSection):
    """Principal components of the stored codes."""

    order = 10
    summary = "Principal components."

    n_components: Integer | None = Field(
        default=64, ge=1, description="Number of components to keep; null: all."
    )
    layers: Literal["each"] | list[tuple[Integer, Integer]] | None = Field(
        default=None,
        description="Layers with a PCA of their own: 'each', or ranges [start, stop) such as "
        "[[0, 4], [4, 8]]; null is one PCA over all layers.",
    )
    solver: Literal["auto", "covariance", "gram", "randomised"] = Field(
        default="auto", description="Numerical method; 'auto' takes the cheapest."
    )
    n_directions: Integer = Field(
        default=8,
        ge=0,
        description="How many leading components of each PCA become directions; the model keeps "
        "all.",
    )
    regress_to: Literal["z", "w"] | None = Field(
        default=None,
        description="Latent space in which each component is also given, by regression (GANSpace): "
        "that of the stored codes, or one that they convert to. For z, store z: sampled rows with "
        "'invert.space: z', and 'space: w' here.",
    )

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if isinstance(self.layers, list):
            wrong = [r for r in self.layers if not 0 <= r[0] < r[1]]
            if wrong or not self.layers:
                raise ValueError(
                    f"'layers' has ranges {wrong!r}: give [start, stop) with 0 <= start < stop, "
                    "at least one"
                )
            if len(set(self.layers)) < len(self.layers):
                raise ValueError(f"'layers' names a range twice in {self.layers!r}: keep each once")
        return self


PLUGIN = PcaSpec
