"""Differences of class means: the section 'analyse.mean_difference'."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Level, Names, Number


class MeanDifferenceSpec(AnalysisSection):
    """Differences of class means, a direction a level or attribute; regressions of angles,
    quantities and continuous factors."""

    order = 20
    summary = "Differences of class means, and linear regressions."

    factors: Names | None = Field(
        default=None,
        description="Factors and annotated attributes to use. Default: all factors and all "
        "annotated attributes.",
    )
    baseline: dict[str, Level] = Field(
        default={},
        description="Factor -> level that the others are compared with, such as {expression: "
        "neutral}. Without one, a level is compared with the mean of the other levels.",
    )
    pair_by: Names = Field(
        default=[],
        description="Factors within whose combinations levels are compared, such as [person]: "
        "the mean of per-person differences. Default: every row counts once.",
    )
    ridge: Number = Field(
        default=1e-3,
        ge=0,
        description="Ridge penalty of the regressions of angles, quantities and continuous "
        "factors, as a multiple of the mean variance of a coordinate.",
    )
    held_out: bool = Field(
        default=False,
        description="Also tell how well each regression predicts the rows of 'evaluate.holdout', "
        "by a fit to the other rows: R2.",
    )

    @classmethod
    def about_unknown(cls, key: str, data: Any) -> str:
        if key == "attributes":
            return "attributes that an annotator measures go under 'factors', beside the factors"
        return super().about_unknown(key, data)


PLUGIN = MeanDifferenceSpec
