"""``invert`` with ``method: feature_style``."""

from __future__ import annotations

from pydantic import Field

from schemas.sections.inversion.pivot import PivotSpec
from schemas.sections.types import Integer, Number


class FeatureStyleSpec(PivotSpec):
    """The codes of another method, moved further together with a feature map of each image."""

    layer: str | None = Field(
        default=None,
        description="The layer whose feature map is found beside the code, such as 'b16.conv1'. "
        "Default: the last whose height is at most 32 and a quarter of the picture's.",
    )
    steps: Integer = Field(
        default=200, ge=1, le=100_000, description="Gradient steps of code and feature map."
    )
    learning_rate: Number = Field(default=0.01, gt=0, description="Step size of the code (Adam).")
    feature_learning_rate: Number = Field(
        default=0.01,
        gt=0,
        description="Step size of the feature map, in units of what the layer puts out for the "
        "mean code (root mean square).",
    )
    feature_penalty: Number = Field(
        default=0.01,
        ge=0,
        description="Weight of the mean squared difference, in the same units, of the feature map "
        "from the one that the code itself gives: the nearer, the better edits carry over.",
    )


PLUGIN = FeatureStyleSpec
