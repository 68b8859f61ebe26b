"""How near what is drawn is to pictures: the section 'analyse.fidelity'."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from schemas.sections.base import AnalysisSection, SpaceName
from schemas.sections.types import Integer, Label, Number, SpecPath


class FidelitySpec(AnalysisSection):
    """FID, KID, precision and recall of what the codes draw, from features of a network."""

    order = 80
    summary = "FID, KID, precision and recall of what is drawn."

    features: Label | None = Field(
        default=None,
        description="Annotator of kind 'features' whose numbers are compared. Default: the only "
        "one.",
    )
    reference: SpecPath | None = Field(
        default=None,
        description="Another run, by its specification or folder, with which what this one draws "
        "is compared: its original images, or what it draws where it has none. Default: this "
        "run's originals.",
    )
    kid_subsets: Integer = Field(default=100, ge=1, le=10_000, description="Subsets of KID.")
    kid_subset_size: Integer = Field(
        default=1000, ge=2, description="Rows of a subset of KID, at most those that there are."
    )
    neighbours: Integer = Field(
        default=3, ge=1, le=100, description="Nearest neighbours k of precision and recall."
    )
    samples: Integer = Field(
        default=50_000,
        ge=2,
        description="Most rows of either side for KID, precision and recall, which compare every "
        "row with every other; FID takes all.",
    )
    truncations: list[Annotated[Number, Field(ge=0, le=1)]] = Field(
        default=[],
        description="Also draw from the generator's prior with each of these truncations (1: none) "
        "and compare: a sweep.",
    )
    truncation_samples: Integer = Field(
        default=10_000, ge=2, description="Pictures drawn for each of 'truncations'."
    )
    truncation_space: SpaceName | None = Field(
        default=None,
        description="Space in which these codes are drawn. Default: the stored one, or, where that "
        "is not truncated (z), the next one that is (w).",
    )
    seed: Integer = Field(
        default=0, ge=0, lt=1 << 32, description="Seed of subsets, chosen rows and draws."
    )

    def check(self, spec: Any) -> None:
        """Raise ValueError for the key of the other analyses."""
        if self.space is not None:
            raise ValueError(
                f"'analyse.fidelity.space' is {self.space!r}, and no codes are read: leave it out, "
                "or give 'truncation_space', in which codes are drawn"
            )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.truncations)) < len(self.truncations):
            raise ValueError(f"'truncations' is {self.truncations!r}: name each once")
        return self


PLUGIN = FidelitySpec
