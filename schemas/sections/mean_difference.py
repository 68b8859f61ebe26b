"""Differences of class means: the section 'analyse.mean_difference'."""

from __future__ import annotations

from pydantic import Field

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Level, Names, Number


class MeanDifferenceSpec(AnalysisSection):
    """Difference of class means, one direction a factor level; regressions of quantities."""

    order = 20
    summary = "Class means."

    factors: Names | None = Field(
        default=None,
        description="Factors and annotated attributes to use. Default: all factors and all "
        "annotated attributes.",
    )
    baseline: dict[str, Level] = Field(
        default={},
        description="Factor -> level the others are compared with (expression: "
        "neutral). Without one, a level is compared with the mean of the other levels.",
    )
    pair_by: Names = Field(
        default=[],
        description="Factors within whose combinations levels are compared, such as [person]: "
        "the mean of per-person differences. Default: rows count once, whoever they show.",
    )
    ridge: Number = Field(
        default=1e-3,
        ge=0,
        description="Penalty of the predictions of measured angles and continuous factors, as a "
        "multiple of the mean variance of a coordinate.",
    )


PLUGIN = MeanDifferenceSpec
