"""``invert`` with ``method: pivotal_tuning``."""

from __future__ import annotations

from pydantic import Field

from schemas.sections.inversion.pivot import PivotSpec
from schemas.sections.invert import Needs
from schemas.sections.types import Integer, Number


class PivotalTuningSpec(PivotSpec):
    """The codes of another method, and for each image weights of the generator tuned to it."""

    steps: Integer = Field(
        default=350,
        ge=1,
        le=100_000,
        description="Gradient steps of the generator's weights, the same number for each image.",
    )
    learning_rate: Number = Field(
        default=3e-4, gt=0, description="Step size of the optimiser (Adam)."
    )
    rank: Integer | None = Field(
        default=None,
        ge=1,
        description="Weights are changed by matrices of at most this rank: fewer numbers are "
        "stored. Default: every weight by itself, as many numbers as the synthesis has.",
    )
    stop_below: Number | None = Field(
        default=None,
        gt=0,
        description="An image is done when its loss is at most this; asked every ten steps. "
        "Default: all steps are taken.",
    )
    locality_weight: Number = Field(
        default=0.0,
        ge=0,
        description="Weight of the change, by the same losses, of what is drawn from a random code "
        "near the pivot. Pivotal tuning takes 0.1 where it is used; each step then takes three "
        "times as long.",
    )
    locality_radius: Number = Field(
        default=30.0, gt=0, description="How far from the pivot that code lies."
    )

    @property
    def needs(self) -> Needs:
        needs = super().needs
        return Needs(needs.encoder, needs.gradients, needs.random or self.locality_weight > 0)


PLUGIN = PivotalTuningSpec
