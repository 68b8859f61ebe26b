"""The part of the run specification that says which analyses to run, and how."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.sections.types import Integer, Level, Levels, Names, Number, Space, SpecModel


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
        description="Latent of the same store that each component is regressed back to (GANSpace). "
        "A store of inverted images holds codes of 'invert.space' alone.",
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
    """Difference of class means, one direction a factor level; regressions of quantities."""

    space: Space = Field(default="w_plus", description="Latent array to read.")
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


class SvmSpec(SpecModel):
    """Linear separating hyperplanes, all attributes in one solve."""

    space: Space = Field(default="w_plus", description="Latent array to read.")
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


class HosvdSpec(SpecModel):
    """Tensor model over declared factors."""

    space: Space = Field(default="w_plus", description="Latent array to read.")
    modes: list[str | list[str]] = Field(
        description="Factors that span the tensor, one mode each; a list is a composite mode: "
        "[person, [expression, intensity], view]."
    )
    where: dict[str, Levels] = Field(
        default={}, description="Factor -> level or levels of the rows to use."
    )
    missing: Literal["error", "drop_person", "complete"] = Field(
        default="error",
        description="Empty cells: stop; drop the levels of the first mode that have "
        "any; or estimate them.",
    )
    repeats: Literal["mean", "weighted"] = Field(
        default="mean",
        description="Cells with several rows: their mean, like any other cell; or weighted by "
        "their number of rows.",
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
    stacked: bool = Field(
        default=False,
        description="Decompose every layer of w_plus apart (stacked style-separated model).",
    )
    pairs: dict[str, list[tuple[Level, Level]]] = Field(
        default={},
        description="Factor -> pairs of levels; each gives a direction from the first to the "
        "second, such as view: [[left, right]].",
    )
    intensity: dict[str, str] = Field(
        default={},
        description="Factor -> factor of its intensity, each a mode of its own. The intensity is "
        "cut to one dimension and the factor's directions point to rising intensity.",
    )
    folds: Integer = Field(
        default=0,
        ge=0,
        description="Folds over the first mode's levels that choose the ridge penalty of "
        "parameter fits; 0 does not.",
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
        later = {n for m in self.modes[1:] for n in ([m] if isinstance(m, str) else m)}
        unknown = sorted(set(self.pairs) - later)
        if unknown:
            raise ValueError(
                f"'pairs' names {unknown!r}, not among the modes after the first, "
                f"{sorted(later)!r}: correct the name"
            )
        lists = [[m] if isinstance(m, str) else m for m in self.modes[1:]]
        single = {m[0] for m in lists if len(m) == 1}
        for factor, intensity in self.intensity.items():
            if not {factor, intensity} <= single or factor == intensity:
                raise ValueError(
                    f"'intensity' pairs {factor!r} with {intensity!r}: name two different modes "
                    f"after the first, each of one factor ({sorted(single)!r})"
                )
        if self.folds == 1:
            raise ValueError("'folds' is 1: give 2 or more, or 0 for none")
        if self.folds and self.stacked:
            raise ValueError("'folds' is for one model of all layers: leave out 'stacked'")
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
    temporal: bool = Field(
        default=False,
        description="The rows are one sequence in order, whose shape changes smoothly.",
    )
    zoom: bool = Field(
        default=False, description="With 'temporal': the camera zooms slowly or comes nearer."
    )
    robust: bool = Field(
        default=False, description="Student's t loss instead of squares, against stray landmarks."
    )
    refine: bool = Field(
        default=False,
        description="Refine cameras and shapes jointly (always done with 'robust', or where "
        "points are missing).",
    )
    regressor: Number | None = Field(
        default=None,
        ge=0,
        description="Ridge of a linear regressor from codes to landmark parameters, as a share of "
        "the codes' variance; it gives directions of pose and shape. Null fits none.",
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


class SefaSpec(SpecModel):
    """Closed-form directions of the generator's weights (SeFa); reads no codes but their spread."""

    space: Space = Field(default="w_plus", description="Latent array to read.")
    n_components: Integer = Field(default=8, ge=1, description="Directions to keep.")
    layers: list[Integer] | None = Field(
        default=None,
        min_length=1,
        description="Rows of w_plus whose layers are factorised and edited. Default: all.",
    )


class JacobianSpec(SpecModel):
    """Directions that change the picture, or one region of it, most at some codes of the store."""

    space: Space = Field(default="w_plus", description="Latent array to read.")
    n_components: Integer = Field(default=4, ge=1, description="Directions to keep.")
    samples: Integer = Field(
        default=4, ge=1, description="Codes, spread over the store, whose Jacobians are averaged."
    )
    region: list[Number] | None = Field(
        default=None,
        min_length=4,
        max_length=4,
        description="Rectangle that should change, as left, top, right, bottom in shares of the "
        "picture (0 to 1); the rest should not. Default: the whole picture.",
    )
    background_rank: Integer = Field(
        default=16,
        ge=1,
        description="Directions that change the rest most, taken out before; with 'region' only.",
    )

    @model_validator(mode="after")
    def _in_the_picture(self) -> Self:
        if self.region is not None:
            left, top, right, bottom = self.region
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(
                    f"'region' is {self.region!r}, not a rectangle in the picture: give left, top, "
                    "right, bottom from 0 to 1"
                )
        return self


class SSpaceSpec(SpecModel):
    """Single style channels that stand out where an attribute is present (StyleSpace)."""

    space: Space = Field(default="w_plus", description="Latent array to read; styles follow.")
    attributes: Names | None = Field(
        default=None, description="Annotated attributes to search channels for. Default: all."
    )
    threshold: Number = Field(default=0.5, description="Scores above it count as present.")


class AnalyseSpec(SpecModel):
    """The analyses to run; a section that is absent is not run, an empty one uses defaults."""

    pca: PcaSpec | None = Field(default=None, description="Principal components.")
    mean_difference: MeanDifferenceSpec | None = Field(default=None, description="Class means.")
    svm: SvmSpec | None = Field(default=None, description="Hyperplanes.")
    hosvd: HosvdSpec | None = Field(default=None, description="Tensor model.")
    nrsfm: NrsfmSpec | None = Field(default=None, description="3D shape of the landmarks.")
    sefa: SefaSpec | None = Field(default=None, description="Directions of the weights.")
    jacobian: JacobianSpec | None = Field(
        default=None, description="Directions of the generator's Jacobian."
    )
    s_space: SSpaceSpec | None = Field(default=None, description="Style channels of attributes.")
