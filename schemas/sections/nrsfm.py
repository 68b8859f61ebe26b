"""3D shapes of landmarks: the section 'analyse.nrsfm'."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer, Number


class NrsfmSpec(AnalysisSection):
    """Non-rigid structure from motion over one model's landmarks."""

    order = 50
    summary = "3D shapes of landmarks (NRSfM)."

    landmarks: str = Field(description="Name of the annotator of landmarks under 'annotate'.")
    n_shapes: Integer = Field(
        default=12, ge=0, description="Rank-one basis shapes besides the rigid one."
    )
    labels: Literal["render", "image"] = Field(
        default="render", description="Landmarks of the code's render, or of the original image."
    )
    temporal: bool = Field(
        default=False,
        description="The rows are one sequence in order, whose shape changes smoothly.",
    )
    zoom: bool = Field(
        default=False,
        description="With 'temporal': the camera's scale changes slowly (zoom, or distance).",
    )
    robust: bool = Field(
        default=False,
        description="Student's t loss instead of squared errors, against outlying landmarks.",
    )
    refine: bool = Field(
        default=False,
        description="Refine cameras and shapes jointly (always done with 'robust', or where "
        "landmarks are missing).",
    )
    regressor: Number | None = Field(
        default=None,
        ge=0,
        description="Ridge penalty of a linear regressor from codes to pose and shape "
        "coefficients, as a share of the codes' variance; it gives directions of pose and shape. "
        "Null: none.",
    )

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.temporal and self.refine:
            raise ValueError(
                "'temporal' and 'refine' are both set: a sequence is always refined jointly; "
                "leave 'refine' out"
            )
        if self.zoom and not self.temporal:
            raise ValueError(
                "'zoom' is set without 'temporal': only a sequence has cameras of one scale, which "
                "a zoom would change; set 'temporal' too, or leave 'zoom' out"
            )
        return self

    def check(self, spec: Any) -> None:
        """Its landmarks are a model of the run."""
        names = [a.name for a in spec.annotate]
        if self.landmarks not in names:
            raise ValueError(
                f"'analyse.nrsfm.landmarks' is {self.landmarks!r}, but 'annotate' has "
                f"{names!r}: add that model under 'annotate', or name one of these"
            )


PLUGIN = NrsfmSpec
