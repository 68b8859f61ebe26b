"""Perceptual path length: the section 'analyse.path_length'."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from schemas.sections.base import AnalysisSection
from schemas.sections.types import Integer, Number, SpecPath, once

ENDS = ("full", "end")


def _path(text: Any) -> Any:
    if isinstance(text, str) and text.rpartition("_")[2] not in ENDS:
        raise ValueError(
            "is no path: give a space and which part of its paths, such as 'w_end', 'w_full', "
            "'z_end' or 'z_full'"
        )
    return text


class PathLengthSpec(AnalysisSection):
    """How much pictures change along short steps between codes of the prior (PPL)."""

    order = 90
    summary = "Perceptual path length (PPL)."

    paths: Annotated[list[Annotated[str, BeforeValidator(_path)]], AfterValidator(once)] | None = (
        Field(
            default=None,
            min_length=1,
            description="What to measure: a space and 'full' (steps anywhere between two codes) or "
            "'end' (steps at codes). Default: w_end, of a generator without w z_end.",
        )
    )
    samples: Integer = Field(default=50_000, ge=2, description="Steps to measure, of each path.")
    epsilon: Number = Field(
        default=1e-4, gt=0, le=1, description="Length of a step, in parts of a path."
    )
    crop: bool = Field(
        default=False,
        description="Measure the middle of the picture alone, as the figures for faces of Karras "
        "et al. (2019) do: rows from 3/8 to 7/8, columns from 2/8 to 6/8.",
    )
    noise: str = Field(
        default="random",
        pattern="^(random|run)$",
        description="Noise inputs of the generator: 'random', new ones for each step, or 'run', "
        "those of the inversion.",
    )
    network: SpecPath = Field(
        default="bundled:features64/features",
        description="Network of the perceptual distance: 'bundled:features64/features' (PPL*), or "
        "a VGG16 file (PPL).",
    )
    linear: SpecPath | None = Field(
        default=None, description="Linear weights of LPIPS, where the network's file has none."
    )
    seed: Integer = Field(default=0, ge=0, lt=1 << 32, description="Seed of the steps.")

    def check(self, spec: Any) -> None:
        """Raise ValueError for the key of the other analyses."""
        if self.space is not None:
            raise ValueError(
                f"'analyse.path_length.space' is {self.space!r}: this analysis has 'paths', such "
                "as 'w_end', in its place"
            )


PLUGIN = PathLengthSpec
