"""A specification against its data, before the hours: what a run asks for and cannot be given.

Needs the specification, the index and the descriptions of the models, no model session. `plan` and
`run` call it once the images are indexed. Imports nothing heavy.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from generators.annotators.card import AnnotatorCard, read_description
from generators.annotators.load import check_trust
from pipelines.analyses.known import (
    Problems,
    active_rows,
    factor_problems,
    present_levels,
    refuse,
)
from pipelines.analyses.measured import Measured, promised
from pipelines.analyses.problems import PROBLEMS, space_problems
from pipelines.folder.store_identity import INVERT
from pipelines.runs.lineage import requested
from schemas.class_labels import class_numbers
from schemas.errors import DataError
from schemas.index import CATEGORICAL, CONTINUOUS, DatasetIndex
from schemas.spec import RunSpec
from schemas.suggest import suggestion

BEAM_RUNNERS = (
    "DirectRunner", "DataflowRunner", "FlinkRunner", "FnApiRunner", "InteractiveRunner",
    "KafkaStreamsRunner", "PortableRunner", "PrismRunner", "SparkRunner",
)  # fmt: skip
"""Beam's own runners by name; any other is named by its module."""
DRAWN_WITH = ("space", "noise_mode", "batch_size", "block_rows", "actors", "threads")
"""Keys of 'invert' that tell about sampled rows as well."""


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a run's analyses before there is a store (a `Subject` of their problems).

    code_shape : of the codes that will be stored. cards : of the annotators, by name
    classes : of the generator, 0 where it is not class-conditional
    """

    spec: RunSpec
    index: DatasetIndex
    code_shape: tuple[int, ...]
    cards: Mapping[str, AnnotatorCard]
    classes: int = 0

    @property
    def space(self) -> str:
        """The one space that all analyses read."""
        return self.spec.invert.space

    def measurements(self, kind: str, labels: str = "render") -> list[Measured]:
        """Measurements of one kind that the annotators will give."""
        return promised(self.spec.annotate, self.cards, kind, labels)


def check_run(
    spec: RunSpec,
    index: DatasetIndex,
    code_shape: tuple[int, ...],
    trust: bool = True,
    classes: int = 0,
) -> list[str]:
    """Raise SpecError with everything that the specification asks for and its data cannot give.

    trust : TorchScript annotators may be loaded. classes : of the generator

    Returns `run_notes`. Raises CheckpointError for an annotator without a usable description and
    UntrustedError for one that needs trust.
    """
    cards = {a.name: read_description(a.model, a.name) for a in spec.annotate}
    for card in cards.values():
        check_trust(card, trust)
    known = Known(spec, index, code_shape, cards, classes)
    refuse(run_problems(known))
    return list(run_notes(known))


def run_problems(known: Known) -> Problems:
    """All that `check_run` refuses, section by section."""
    spec = known.spec
    yield from _dataset(spec, known.index)
    yield from _labels(known)
    yield from _sampled(spec)
    yield from _annotators(known)
    spaces = list(space_problems(spec))
    yield from spaces
    for name, problems in PROBLEMS.items():
        own = getattr(spec.analyse, name)
        if own is not None and not spaces:
            yield from problems(known, own)
    yield from _thresholds(known)
    yield from _other_latents(spec)
    yield from _evaluation(spec, known.index)
    yield from _runner(spec.beam.runner)


def _dataset(spec: RunSpec, index: DatasetIndex) -> Problems:
    """Columns that no table has, and kinds that the index no longer takes up."""
    for kind in (CONTINUOUS, CATEGORICAL):
        names = getattr(spec.dataset, kind)
        yield from factor_problems(f"dataset.{kind}", names, index, kind)


def _labels(known: Known) -> Problems:
    """Class labels that are not there, or are no classes of the generator."""
    labels = known.spec.dataset.labels
    if known.spec.dataset.sampled or not isinstance(labels, str):
        return
    if not known.classes:
        yield f"'dataset.labels' is {labels!r}, but the generator has no classes: leave it out"
        return
    wrong = list(factor_problems("dataset.labels", [labels], known.index))
    yield from wrong
    if not wrong:
        try:
            class_numbers(known.index, labels, known.classes)
        except DataError as e:
            yield f"'dataset.labels' is {labels!r}: {e}"


def _sampled(spec: RunSpec) -> Problems:
    """What is asked of images, of rows that have none."""
    if not spec.dataset.sampled:
        return
    why = "but sampled rows are drawn from the generator, and no image is"
    if spec.encoder is not None:
        yield f"'encoder' is {spec.encoder!r}, {why} inverted: leave it out"
    for key, field in type(spec.invert).model_fields.items():
        value = getattr(spec.invert, key)
        if key not in DRAWN_WITH and value != field.default:
            yield f"'invert.{key}' is {value!r}, {why} inverted: leave it out"
    for i, model in enumerate(spec.annotate):
        if not model.render:
            yield f"'annotate[{i}].render' is false, {why} measured: leave it out"
    for name in requested(spec):
        if getattr(getattr(spec.analyse, name), "labels", None) == "image":
            yield f"'analyse.{name}.labels' is 'image', {why} measured: leave it out"


def _annotators(known: Known) -> Problems:
    """Names that an annotator and inversion would both write."""
    if INVERT in known.cards:
        yield f"'annotate' has the name {INVERT!r}, which is inversion's in the store: rename it"


def _other_latents(spec: RunSpec) -> Problems:
    """Latents that a store of inverted images does not hold."""
    pca, held = spec.analyse.pca, spec.invert.space
    if pca is not None and pca.regress_to not in (None, held):
        yield (
            f"'analyse.pca.regress_to' is {pca.regress_to!r}, but inverting into {held!r} stores "
            "no other codes: leave it out"
        )


def _thresholds(known: Known) -> Problems:
    """Thresholds that no score of any annotator can be on both sides of."""
    bounded = [card.activation for card in known.cards.values() if card.kind == "scores"]
    for name in ("svm", "s_space"):
        own = getattr(known.spec.analyse, name)
        if own is not None and bounded and all(bounded) and not 0 <= own.threshold < 1:
            yield (
                f"'analyse.{name}.threshold' is {own.threshold!r}, but all scores lie in 0 to 1 "
                f"(activation {bounded[0]!r}): give a number between"
            )


def _evaluation(spec: RunSpec, index: DatasetIndex) -> Problems:
    """Factors that are not there, or not levels."""
    own, key = spec.evaluate, "evaluate"
    factor = own.holdout.factor
    if factor is not None and ("factor" in own.holdout.model_fields_set or factor in index.factors):
        yield from factor_problems(f"{key}.holdout.factor", [factor], index)
    yield from factor_problems(f"{key}.stratify", own.stratify, index)
    if own.source == "prior" and own.stratify:
        yield (
            f"'{key}.stratify' is {own.stratify!r}, but draws from the prior have no factors: "
            "leave it out, or set 'evaluate.source' to 'dataset'"
        )


def run_notes(known: Known) -> Iterator[str]:
    """Numbers of the specification that the data cannot fill, and that are used as far as it can.

    As ``key: what was asked for, what will be used and why``.
    """
    spec, index = known.spec, known.index
    own, rows = spec.evaluate, int(active_rows(index).sum())
    samples = own.samples
    if own.source == "dataset" and samples > rows:
        if "samples" in own.model_fields_set:
            yield f"evaluate.samples: {samples} asked for, {rows} used, all rows of the dataset"
        samples = rows
    shown = spec.report.strip_rows
    if shown > samples and "strip_rows" in spec.report.model_fields_set:
        yield f"report.strip_rows: {shown} asked for, {samples} used: {samples} samples are edited"
    svm, holdout = spec.analyse.svm, own.holdout
    if svm is not None and svm.folds is None and holdout.fraction > 0:
        factor = holdout.factor if holdout.factor in index.factors else None
        n = rows if factor is None else len(present_levels(index, factor))
        of = "rows" if factor is None else f"levels of factor {factor!r}"
        kept = round(holdout.fraction * n)
        if kept in (0, n):
            yield (
                f"evaluate.holdout.fraction: {holdout.fraction} of {n} {of} are {kept}: accuracy "
                "of hyperplanes is not measured; change it, or set 'analyse.svm.folds'"
            )


def _runner(name: str) -> Problems:
    """A Beam runner that there is not."""
    package = name.partition(".")[0]
    if "." in name:
        if not package or importlib.util.find_spec(package) is None:
            yield f"'beam.runner' is {name!r}, but {package!r} is not installed: install it"
        return
    taken = {n.lower() for n in BEAM_RUNNERS}
    if not {name.lower(), f"{name.lower()}runner"} & taken:
        yield f"'beam.runner' is {name!r}, which Beam does not have: " + suggestion(
            name, BEAM_RUNNERS
        )
