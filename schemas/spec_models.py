"""The run specification: what a YAML file may say, with defaults, limits and descriptions.

Every model refuses unknown keys and is frozen. File paths are relative to the specification's own
file. Read one with `schemas.spec.load_spec`, which turns every problem into a `SpecError` that
names the key, the value and the cure.

``trust`` is not a key: whether code inside a model file may run is decided on the command line by
the person who runs it, never by a file that may have come with the model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    ValidationInfo,
    model_validator,
)

from schemas.sections.catalog import AnalyseSpec
from schemas.sections.dataset import DatasetSpec
from schemas.sections.invert import InvertSection, invert_section, methods_without_encoder
from schemas.sections.train_encoder import TrainEncoderSpec
from schemas.sections.types import (
    BUNDLED,
    NAME_PATTERN,
    BatchSize,
    Cron,
    Integer,
    Label,
    Names,
    Number,
    SpecModel,
    SpecPath,
    Strings,
    resolved,
)

TRAINED = "trained"
TRAINED_FILE = ("encoder", "encoder.safetensors")
"""Where the trained encoder lies in the run folder."""


def _encoder(text: str, info: ValidationInfo) -> str:
    return text if text == TRAINED else resolved(text, info)


EncoderSource = Annotated[str, AfterValidator(_encoder)]


class TrustedPath(str):
    """A path to a model whose code may be run: the command line says so, never a file."""


class GeneratorSpec(SpecModel):
    """A generator with settings that its file does not state.

    The settings depend on its family, such as 'conv_clamp' of a StyleGAN2, or 'prior' of a plain
    network; `latentflow inspect FILE` shows which are assumed.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, bool | int | float | str | None] = Field(init=False)

    path: SpecPath = Field(description="Checkpoint, 'bundled:<name>' or 'obtained:<name>'.")
    family: Label | None = Field(
        default=None,
        description="Family of generators that the file belongs to. Default: recognised from its "
        "contents; needed only where several families claim it.",
    )

    @property
    def settings(self) -> dict[str, bool | int | float | str]:
        """What is given, by name."""
        given = self.__pydantic_extra__ or {}
        return {name: value for name, value in given.items() if value is not None}


def trusted(source: str | Path | GeneratorSpec) -> str | GeneratorSpec:
    """The same generator, whose code may be run."""
    if isinstance(source, GeneratorSpec):
        return source.model_copy(update={"path": TrustedPath(source.path)})
    return TrustedPath(source)


def _kind_of_generator(value: object) -> str:
    return "file" if isinstance(value, dict | GeneratorSpec) else "path"


GeneratorSource = Annotated[
    Annotated[SpecPath, Tag("path")] | Annotated[GeneratorSpec, Tag("file")],
    Discriminator(_kind_of_generator),
]


class AnnotateSpec(SpecModel):
    """One annotator: a model that measures images (scores, landmarks, pose, ...)."""

    name: Label = Field(description="Name of the annotations in the store, such as 'attributes'.")
    model: SpecPath = Field(
        description="ONNX or TorchScript file with its JSON description beside it, "
        "'bundled:<name>' or 'obtained:<name>'. TorchScript also needs --trust on the command line."
    )
    render: bool = Field(
        default=True,
        description="Also measure the render, which is what the generator draws from the stored "
        "code (stored as '<name>@render'; analyses use these by default).",
    )
    of: Literal["original", "resized"] = Field(
        default="original",
        description="Which form of the dataset's image is measured. original: cropped as in "
        "'invert', at the model's own input size. resized: as it is inverted, at the generator's "
        "resolution, like its render.",
    )
    batch_size: BatchSize = Field(
        default=64,
        description="Images in one forward pass, from 1 to 8192, or auto, as in 'invert'.",
    )


class HoldoutSpec(SpecModel):
    """Held-out rows, on which accuracy is measured."""

    factor: str | None = Field(
        default="person",
        description="Factor none of whose levels is split between fitted and held-out rows. Null, "
        "or a dataset without this factor: rows are split one by one.",
    )
    fraction: Number = Field(
        default=0.2, ge=0, lt=1, description="Share of levels (or rows) held out."
    )


class EvaluateSpec(SpecModel):
    """How directions are evaluated: samples are edited, drawn and measured by the annotators."""

    samples: Integer = Field(
        default=200, ge=1, description="Number of samples edited along each direction."
    )
    source: Literal["dataset", "prior"] = Field(
        default="dataset",
        description="dataset: codes of random rows, of held-out rows where these suffice. prior: "
        "draws from the generator's prior; a class-conditional generator's classes take turns.",
    )
    truncation_psi: Number = Field(
        default=1.0, ge=0, le=1, description="Truncation of draws from the prior."
    )
    strengths: list[Number] = Field(
        default=[-2.0, -1.0, 0.0, 1.0, 2.0],
        min_length=1,
        description="Edit strengths in standard deviations.",
    )
    holdout: HoldoutSpec = Field(default=HoldoutSpec(), description="Held-out rows.")
    stratify: Names = Field(
        default=[],
        description="Categorical factors. Every combination of their levels has the same share of "
        "the samples as of the rows that these are drawn from.",
    )
    seed: Integer | None = Field(
        default=None, ge=0, description="Seed of the samples. Default: 'seed'."
    )

    @model_validator(mode="after")
    def _some_effect(self) -> Self:
        if max(self.strengths) <= 0:
            raise ValueError(
                f"'strengths' is {self.strengths!r}, and an effect is measured from 0 to the "
                "largest: give one above 0"
            )
        return self


class ReportSpec(SpecModel):
    """The HTML page."""

    title: str | None = Field(default=None, description="Heading. Default: the run's name.")
    samples: Integer = Field(default=24, ge=1, le=1000, description="Reconstructions to show.")
    strip_rows: Integer = Field(
        default=3, ge=1, le=100, description="Samples in each direction's strip."
    )


class RaySpec(SpecModel):
    """Where inversion, annotation and evaluation run."""

    address: str | None = Field(
        default=None,
        description="Address of a Ray cluster. Default: one is started on this machine.",
    )
    actors: Integer = Field(default=1, ge=1, le=4096, description="Number of actors of each stage.")
    gpus_per_actor: Number = Field(
        default=0.0,
        ge=0,
        description="GPUs of an actor; below 1, several actors share one; 0: CPU.",
    )
    object_store_mb: Integer = Field(
        default=512, ge=80, description="Memory of a local Ray's object store, in MB."
    )
    actor_memory_mb: Integer = Field(
        default=4096,
        ge=256,
        description="Memory, in MB, that an actor (on a GPU: what it holds there) stays below "
        "where a 'batch_size' is auto.",
    )


class BeamSpec(SpecModel):
    """Where analyses run."""

    runner: str = Field(default="FnApiRunner", min_length=1, description="Beam runner.")
    options: Strings = Field(
        default=[],
        description="Beam options passed on unchanged, such as '--direct_num_workers=2'.",
    )


class RunSpec(SpecModel):
    """A whole run: dataset -> latents -> annotations -> directions -> report."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=100)] = Field(
        description="Name of the run and of its store: letters, digits, '.', '_' and '-'."
    )
    dataset: DatasetSpec = Field(description="The images, or sampled rows.")
    generator: GeneratorSource = Field(
        default="bundled:faces64",
        description="Checkpoint of a generator (.pkl, .pt, .pth, .ckpt, .safetensors, .onnx, "
        ".pt2), 'bundled:<name>' or 'obtained:<name>'; or a section of 'path' and settings that "
        "the file does not state.",
    )
    encoder: EncoderSource | None = Field(
        default=None,
        description="Encoder from images to the generator's latent space: a file, or 'trained', "
        "what 'latentflow train-encoder' makes. Default: the one bundled with a bundled generator.",
    )
    train_encoder: TrainEncoderSpec = Field(
        default=TrainEncoderSpec(), description="Training of an encoder of the generator."
    )
    invert: InvertSection = Field(
        default=invert_section(), description="How images become latent codes."
    )
    annotate: list[AnnotateSpec] = Field(
        default=[], description="Annotators: models that measure images."
    )
    analyse: SerializeAsAny[AnalyseSpec] = Field(default=AnalyseSpec(), description="Analyses.")
    evaluate: EvaluateSpec = Field(default=EvaluateSpec(), description="Evaluation of directions.")
    report: ReportSpec = Field(default=ReportSpec(), description="The HTML page.")
    ray: RaySpec = Field(default=RaySpec(), description="Ray.")
    beam: BeamSpec = Field(default=BeamSpec(), description="Beam.")
    cache_bytes: Integer = Field(
        default=1 << 30,
        ge=0,
        description="Memory, in bytes, in which workers keep blocks between passes over the data.",
    )
    seed: Integer = Field(default=0, ge=0, lt=1 << 63, description="Random seed.")
    max_quarantined: Number = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Largest share of rows quarantined at inversion with which analyses are still "
        "run. Rows that an annotator cannot measure do not count.",
    )
    schedule: Cron | None = Field(
        default=None,
        description="When a scheduler runs this specification, as a cron expression in UTC: "
        "'0 3 * * *' is every night at 3:00. Read by 'dagster dev -m pipelines.definitions'; "
        "'latentflow run' runs at once. It does not change any result.",
    )
    output: SpecPath | None = Field(
        default=None,
        description="Folder for stores, index, directions and report, relative to the "
        "specification's own folder. Default: runs/<name> in the working directory.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [a.name for a in self.annotate]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"'annotate' has the names {twice!r} more than once: rename one")
        for key in type(self.analyse).model_fields:
            if (section := getattr(self.analyse, key)) is not None:
                section.check(self)
        if (
            self.invert.needs.encoder
            and not self.dataset.sampled
            and self.encoder is None
            and not self.generator_path.startswith(BUNDLED)
        ):
            raise ValueError(
                f"'invert.method' is {self.invert.method!r}, which needs an encoder, and "
                f"{self.generator_path!r} brings none: name one under 'encoder' ('trained' is the "
                "one that 'latentflow train-encoder' makes), or set 'invert.method' to "
                f"{' or '.join(map(repr, methods_without_encoder()))}"
            )
        return self

    @property
    def generator_path(self) -> str:
        """File or bundled name of the generator."""
        return self.generator if isinstance(self.generator, str) else self.generator.path

    def trusting(self, trust: bool) -> Self:
        """The same, whose generator's code may be run where `trust` says so."""
        if not trust:
            return self
        return self.model_copy(update={"generator": trusted(self.generator)})

    @property
    def output_path(self) -> str:
        """``output``, or runs/<name> in the working directory."""
        return self.output if self.output is not None else os.path.join("runs", self.name)

    @property
    def encoder_path(self) -> str | None:
        """``encoder``, with the file of the trained one in place of 'trained'."""
        if self.encoder != TRAINED:
            return self.encoder
        return os.path.abspath(os.path.join(self.output_path, *TRAINED_FILE))

    @property
    def invert_actors(self) -> int:
        """``invert.actors``, or ``ray.actors``."""
        return self.invert.actors if self.invert.actors is not None else self.ray.actors

    @property
    def single_process(self) -> bool:
        """Whether one actor, here and on the CPU, is all that the specification asks for."""
        local = self.ray.address is None and self.ray.gpus_per_actor == 0
        return local and self.invert_actors == 1

    @property
    def evaluate_seed(self) -> int:
        """``evaluate.seed``, or ``seed``."""
        return self.evaluate.seed if self.evaluate.seed is not None else self.seed
