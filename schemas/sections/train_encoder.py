"""The section ``train_encoder``: an encoder of the specification's generator, and its training."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from schemas.sections.types import Integer, Label, Number, Space, SpecModel

STEPS = 10_000


class ChosenSpec(SpecModel):
    """A plug-in by its name, and settings of its own."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, bool | int | float | str | None] = Field(init=False)

    name: Label = Field(
        description="Its name; the other keys are its settings, see docs/train-encoder.md."
    )

    @property
    def settings(self) -> dict[str, bool | int | float | str]:
        """What is given beside the name."""
        given = self.__pydantic_extra__ or {}
        return {key: value for key, value in given.items() if value is not None}


def _named(value: Any) -> Any:
    """A name alone is a section without settings."""
    return {"name": value} if isinstance(value, str) else value


Chosen = Annotated[ChosenSpec, BeforeValidator(_named, json_schema_input_type=Label | ChosenSpec)]


class TrainEncoderSpec(SpecModel):
    """An encoder of the generator's images, trained on its own samples by `train-encoder`.

    'encoder: trained' of the specification is the one that this makes.
    """

    architecture: Chosen = Field(
        default=ChosenSpec(name="convolutional"),
        description="Architecture of the encoder: convolutional (any generator), dse, sketch, or "
        "one of another package; or a section of its 'name' and settings.",
    )
    objective: Chosen = Field(
        default=ChosenSpec(name="reconstruction"),
        description="What is minimised: reconstruction (pixels, gradients, perceptual distance and "
        "the known codes), similarity (that of the diverse similarity encoder), or one of another "
        "package; or a section of its 'name' and settings.",
    )
    space: Space | None = Field(
        default=None,
        description="Latent space of the codes. Default: 'invert.space', else the generator's own.",
    )
    steps: Integer | None = Field(
        default=None,
        ge=1,
        le=100_000_000,
        description=f"Gradient steps. Default: {STEPS}, or as many as 'minutes' allow.",
    )
    minutes: Number | None = Field(
        default=None,
        gt=0,
        description="In place of 'steps': as many steps as take so long, by the speed of the first "
        "few. A training that goes on keeps their number.",
    )
    batch_size: Integer = Field(default=16, ge=1, le=8192, description="Images of one step.")
    learning_rate: Number = Field(
        default=0.001,
        gt=0,
        description="Of the optimiser (Adam): it rises during the first steps and falls to a "
        "hundredth along a cosine.",
    )
    truncation: Number = Field(
        default=1.0, gt=0, le=1, description="Truncation psi of the samples; 1 is no truncation."
    )
    real: Number = Field(
        default=0.0,
        ge=0,
        le=0.9,
        description="Share of each batch that is images of 'dataset', which have no known code and "
        "are trained by what is drawn from theirs alone.",
    )
    held_out: Integer = Field(
        default=1000,
        ge=2,
        le=1_000_000,
        description="Samples that no training sees, on which the encoder is measured at the end.",
    )
    seed: Integer | None = Field(
        default=None,
        ge=0,
        lt=1 << 32,
        description="Seed of first weights and samples. Default: 'seed' of the specification.",
    )
    threads: Integer | None = Field(
        default=None, ge=1, le=1024, description="CPU threads. Default: as many as there are cores."
    )
    device: str = Field(
        default="auto",
        description="auto (a GPU where there is one), cpu, cuda or cuda:<number>.",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.minutes is not None:
            raise ValueError(
                f"'steps' is {self.steps!r} and 'minutes' {self.minutes!r}: give one of them"
            )
        return self
