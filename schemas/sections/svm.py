"""Hyperplanes: the section 'analyse.svm'."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer, Names, Number


class SvmSpec(AnalysisSection):
    """Linear separating hyperplanes, all attributes in one solve."""

    order = 30
    summary = "Separating hyperplanes of attributes (SVM)."

    attributes: Names | None = Field(
        default=None,
        description="Annotated attributes to separate, or factors. Default: all (factors: those of "
        "two levels; each level of one with more is separated from its others).",
    )
    labels: Literal["render", "image", "factors"] = Field(
        default="render",
        description="Attributes of the code's render, or of the original image, as annotators "
        "measure them; or factors, as the dataset's table has them.",
    )
    threshold: Number = Field(
        default=0.5, description="Scores above it are labelled +1, others -1."
    )
    c: Number = Field(default=1.0, gt=0, description="Weight C of the squared hinge loss.")
    path: list[Annotated[Number, Field(gt=0)]] | None = Field(
        default=None,
        min_length=1,
        description="Values of C to try instead of 'c'. Each attribute takes the one with the "
        "largest area under the ROC curve on held-out rows.",
    )
    folds: Integer | None = Field(
        default=None,
        ge=2,
        description="Measure accuracy by cross-validation in so many folds, none of which splits a "
        "level of 'evaluate.holdout.factor'. Default: once, on the held-out rows of "
        "'evaluate.holdout'.",
    )
    balanced: bool = Field(
        default=False,
        description="Give both classes of an attribute the same total weight, however rare one is.",
    )
    tolerance: Number = Field(
        default=1e-5,
        gt=0,
        lt=1,
        description="Relative norm of the gradient at which an attribute has converged.",
    )
    max_passes: Integer = Field(
        default=50, ge=1, description="Largest number of passes over the data."
    )
    penalise_intercept: bool = Field(
        default=False,
        description="Penalise the intercept too, as liblinear does (for comparisons).",
    )


PLUGIN = SvmSpec
