"""The part of the run specification that says which analyses to run, and how."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from schemas.spec_types import Integer, Level, Number, Space, SpecModel, Strings, as_levels


class PcaSpec(SpecModel):
    """Principal components of the stored codes."""

    space: Space = Field(default="w_plus", description="Latent array to read.")
    n_components: Integer | None = Field(
        default=64, ge=1, description="Components to keep; null keeps all there are."
    )
    layers: Literal["each"] | list[tuple[Integer, Integer]] | None = Field(
        default=None,
        description="Layers with a PCA of their own: 'each', or ranges [start, stop) such as "
        "[[0, 4], [4, 8]]; null is one PCA over all layers.",
    )
    solver: Literal["auto", "covariance", "gram", "randomised"] = Field(
        default="auto", description="How to solve; 'auto' takes the cheapest."
    )
    n_directions: Integer = Field(
        default=8,
        ge=0,
        description="Components of each PCA that become directions of the set; the model has all.",
    )
    regress_to: Literal["z", "w"] | None = Field(
        default=None,
        description="Latent of the same store that each component is regressed back to (GANSpace).",
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


class MeanDifferenceSpec(SpecModel):
    """Difference of class means, one direction a factor level."""

    space: Space = Field(default="w_plus", description="Latent array to read.")
    factors: Strings | None = Field(
        default=None,
        description="Factors and annotated attributes to use. Default: all categorical "
        "factors and all annotated attributes.",
    )
    baseline: dict[str, Level] = Field(
        default={},
        description="Factor -> level the others are compared with (expression: "
        "neutral). Without one, a level is compared with the mean of the other levels.",
    )


class SvmSpec(SpecModel):
    """Linear separating hyperplanes, all attributes in one solve."""

    space: Space = Field(default="w_plus", description="Latent array to read.")
    attributes: Strings | None = Field(
        default=None, description="Annotated attributes to separate. Default: all."
    )
    labels: Literal["render", "image"] = Field(
        default="render", description="Measure what the code draws, or the original image."
    )
    threshold: Number = Field(default=0.5, description="Scores above it count as +1, others as -1.")
    c: Number = Field(default=1.0, gt=0, description="Weight C of the squared hinge loss.")
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


class HosvdSpec(SpecModel):
    """Tensor model over declared factors."""

    space: Space = Field(default="w_plus", description="Latent array to read.")
    modes: list[str | list[str]] = Field(
        description="Factors that span the tensor, one mode each; a list is a composite mode: "
        "[person, [expression, intensity], view]."
    )
    where: dict[str, Annotated[list[Level], BeforeValidator(as_levels)]] = Field(
        default={}, description="Factor -> level or levels of the rows to use."
    )
    missing: Literal["error", "drop_person", "complete"] = Field(
        default="error",
        description="Empty cells: stop; drop the levels of the first mode that have "
        "any; or estimate them.",
    )
    energy: Number = Field(
        default=0.95, gt=0, le=1, description="Share of each mode's energy that its rank keeps."
    )
    ranks: list[Integer | None] | None = Field(
        default=None,
        description="Rank of each mode instead of 'energy'; null in the list leaves that "
        "mode to 'energy'.",
    )
    standardise: bool = Field(
        default=False, description="Scale every latent coordinate to unit standard deviation first."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [n for m in self.modes for n in ([m] if isinstance(m, str) else m)]
        if not self.modes or not all(self.modes):
            raise ValueError("'modes' must name at least one factor in every mode")
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"factors {twice!r} stand in more than one mode: keep each once")
        if self.ranks is not None and len(self.ranks) != len(self.modes):
            raise ValueError(
                f"'ranks' has {len(self.ranks)} entries for {len(self.modes)} modes: "
                "give one rank a mode, null for those that 'energy' decides"
            )
        if self.ranks is not None and any(r is not None and r < 1 for r in self.ranks):
            raise ValueError(f"'ranks' must be at least 1, got {self.ranks!r}")
        return self


class NrsfmSpec(SpecModel):
    """Non-rigid structure from motion over one model's landmarks."""

    landmarks: str = Field(description="Name of the landmark model under 'annotate'.")
    n_shapes: Integer = Field(
        default=12, ge=0, description="Rank-one basis shapes besides the rigid one."
    )
    labels: Literal["render", "image"] = Field(
        default="render", description="Landmarks of what the code draws, or of the original image."
    )


class AnalyseSpec(SpecModel):
    """The analyses to run; a section that is absent is not run, an empty one uses defaults."""

    pca: PcaSpec | None = Field(default=None, description="Principal components.")
    mean_difference: MeanDifferenceSpec | None = Field(default=None, description="Class means.")
    svm: SvmSpec | None = Field(default=None, description="Hyperplanes.")
    hosvd: HosvdSpec | None = Field(default=None, description="Tensor model.")
    nrsfm: NrsfmSpec | None = Field(default=None, description="3D shape of the landmarks.")
