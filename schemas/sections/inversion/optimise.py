"""``invert`` with ``method: optimise``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.sections.invert import WHEN_SET, InvertSpec, Needs
from schemas.sections.perceptual import PerceptualSpec
from schemas.sections.types import Integer, Number

#: What the program that came with StyleGAN2 takes.
PROJECTOR = {"steps": 1000, "learning_rate": 0.1}
UNDISTURBED = 100
"""Steps of L-BFGS before the first noise on a code that has settled."""
WEIGHTS = ("pixel_weight", "feature_weight", "structural_weight", "perceptual_weight")


def check_some_weight(spec: InvertSpec) -> None:
    """Raise ValueError for a section whose `WEIGHTS` are all 0."""
    if not any(getattr(spec, name) for name in WEIGHTS):
        raise ValueError(
            f"{', '.join(map(repr, WEIGHTS))} are all 0, so there is nothing to optimise: raise "
            "one of them"
        )


class OptimiseSpec(InvertSpec):
    """Gradient steps from the mean code."""

    schedule: Annotated[Literal["quasi_newton", "adam", "projector"], WHEN_SET] = Field(
        default="quasi_newton",
        description="How steps are taken. quasi_newton: L-BFGS, which needs the fewest; after 100 "
        "a code that has settled begins again with noise on it. adam: with a ramp, and from "
        "the mean code with noise that fades. projector: as the program that came with StyleGAN2, "
        "with noise images moved beside the code, large pictures compared at 256 px, and the last "
        "step's code.",
    )
    steps: Integer = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Gradient steps, the most for each image. Default: 100, of schedule projector "
        "1000.",
    )
    learning_rate: Number = Field(
        default=0.05,
        gt=0,
        description="Step size: of Adam, or of the first step of quasi_newton (root mean square of "
        "its coordinates). Default: 0.05, of schedule projector 0.1.",
    )
    pixel_weight: Number = Field(
        default=1.0, ge=0, description="Weight of the mean squared pixel error in the loss."
    )
    feature_weight: Number = Field(
        default=0.5,
        ge=0,
        description="Weight of the feature distance in the loss: image gradients compared over a "
        "pyramid of scales.",
    )
    structural_weight: Annotated[Number, WHEN_SET] = Field(
        default=0.0, ge=0, description="Weight of 1 - SSIM in the loss."
    )
    perceptual_weight: Annotated[Number, WHEN_SET] = Field(
        default=0.0,
        ge=0,
        description="Weight of the perceptual distance in the loss: of 'perceptual', or where that "
        "is null of the project's own network.",
    )
    mean_weight: Annotated[Number, WHEN_SET] = Field(
        default=0.0,
        ge=0,
        description="Weight of the code's mean squared distance from the mean code in the loss, in "
        "units of the prior's spread.",
    )
    truncation_weight: Annotated[Number, WHEN_SET] = Field(
        default=0.0,
        ge=0,
        description="Weight of max(0, d - 1)^2 in the loss, d a layer's root mean squared distance "
        "from the mean code in units of the prior's spread: codes as near as those of the prior "
        "pay nothing.",
    )
    tolerance: Annotated[Number, WHEN_SET] = Field(
        default=0.0,
        ge=0,
        description="An image is done when ten steps lower its loss by no more than this share. "
        "Default: all steps are taken.",
    )
    starts: Annotated[Integer, WHEN_SET] = Field(
        default=1,
        ge=1,
        le=1000,
        description="How often each image is started; the best code is kept. Further starts are "
        "each the best of 8 codes of the prior.",
    )
    noise_images: Annotated[bool | None, WHEN_SET] = Field(
        default=None,
        description="Move noise images of each layer beside the code, and store them with it. "
        "Default: with schedule projector, where the generator has noise inputs.",
    )
    noise_weight: Annotated[Number, WHEN_SET] = Field(
        default=1e5,
        ge=0,
        description="Weight in the loss of how much the pixels of the moved noise images tell of "
        "their neighbours, over all scales.",
    )

    @property
    def moves_noise(self) -> bool:
        """Whether noise images are moved beside the code, where there are any."""
        return self.schedule == "projector" if self.noise_images is None else self.noise_images

    @property
    def hops(self) -> bool:
        """Whether a row that has settled goes on from its best code with noise on it."""
        return self.schedule == "quasi_newton" and self.steps > UNDISTURBED and not self.tolerance

    @property
    def needs(self) -> Needs:
        random = self.schedule != "quasi_newton" or self.starts > 1 or self.hops
        return Needs(gradients=True, random=random)

    @property
    def compared_by(self) -> PerceptualSpec | None:
        if self.perceptual is None and self.perceptual_weight:
            return PerceptualSpec()
        return self.perceptual

    def brief(self) -> Self:
        return self.model_copy(update={"steps": min(self.steps, 2), "starts": 1})

    @model_validator(mode="before")
    @classmethod
    def _as_the_projector(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("schedule") == "projector":
            return {**PROJECTOR, **data}
        return data

    @model_validator(mode="after")
    def _consistent_steps(self) -> Self:
        check_some_weight(self)
        if self.noise_images and self.schedule == "quasi_newton":
            raise ValueError(
                "'noise_images' are moved by Adam, and 'schedule' is 'quasi_newton': set "
                "'schedule' to 'adam' or 'projector'"
            )
        if self.moves_noise and self.noise_mode == "none":
            raise ValueError(
                "'noise_images' are moved although 'noise_mode' is 'none', which draws without "
                "them: set 'noise_mode' to 'const', or 'noise_images' to false"
            )
        if self.tolerance and self.schedule == "projector":
            raise ValueError(
                f"'tolerance' is {self.tolerance!r}, and schedule 'projector' takes the code of "
                "the last step: leave it out, or set 'schedule' to 'adam'"
            )
        return self


PLUGIN = OptimiseSpec
