"""Hyperplanes: the section 'analyse.svm'."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer, Names, Number


class SvmSpec(AnalysisSection):
    """Linear separating hyperplanes, all attributes in one solve."""

    order = 30
    summary = "Hyperplanes."

    attributes: Names | None = Field(
        default=None, description="Annotated attributes to separate. Default: all."
    )
    labels: Literal["render", "image"] = Field(
        default="render", description="Measure what the code draws, or the original image."
    )
    threshold: Number = Field(default=0.5, description="Scores above it count as +1, others as -1.")
    c: Number = Field(default=1.0, gt=0, description="Weight C of the squared hinge loss.")
    path: list[Annotated[Number, Field(gt=0)]] | None = Field(
        default=None,
        min_length=1,
        description="Values of C to try instead of 'c'. Each attribute takes the one with the "
        "largest area under the ROC curve over the rows kept back.",
    )
    folds: Integer | None = Field(
        default=None,
        ge=2,
        description="Measure by cross-validation in this many folds, which keep the levels of "
        "'evaluate.holdout.factor' whole. Default: once, on the rows of 'evaluate.holdout'.",
    )
    balanced: bool = Field(
        default=False, description="Weigh both classes of an attribute alike, however rare one is."
    )
    tolerance: Number = Field(
        default=1e-5,
        gt=0,
        lt=1,
        description="Relative gradient at which an attribute has converged.",
    )
    max_passes: Integer = Field(
        default=50, ge=1, description="Passes over the data before giving up."
    )
    penalise_intercept: bool = Field(
        default=False,
        description="Penalise the intercept too, as liblinear does (for comparisons).",
    )


PLUGIN = SvmSpec
