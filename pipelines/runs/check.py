"""A specification against its data, before the hours: what a run asks for and cannot be given.

Needs the specification, the index and the descriptions of the models, no model session. `plan` and
`run` call it once the images are indexed. Imports nothing heavy.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence

from generators.annotators.card import AnnotatorCard, read_description
from generators.annotators.kinds.catalog import role_of
from generators.annotators.load import check_trust
from generators.protocols import ModelFacts
from pipelines.analyses.base import Known
from pipelines.analyses.catalog import ANALYSES, analysis_of, problems_of, requested, selected
from pipelines.analyses.checks import Problems, active_rows, factor_problems, refuse
from pipelines.analyses.measured import Measured, promised
from pipelines.analyses.spaces import Spaces
from pipelines.folder.likeness import EMBEDDING
from pipelines.folder.qualities import qualities_of
from pipelines.folder.store_identity import INVERT, StoreIdentity
from schemas.class_labels import class_numbers
from schemas.errors import DataError, QuarantineExceededError
from schemas.index import CATEGORICAL, CONTINUOUS, DatasetIndex
from schemas.spec import RunSpec
from schemas.store.latent_store import LatentStore
from schemas.store.reasons import Status
from schemas.suggest import suggestion

BEAM_RUNNERS = (
    "DirectRunner", "DataflowRunner", "FlinkRunner", "FnApiRunner", "InteractiveRunner",
    "KafkaStreamsRunner", "PortableRunner", "PrismRunner", "SparkRunner",
)  # fmt: skip
"""Beam's own runners by name; any other is named by its module."""
DRAWN_WITH = ("space", "noise_mode", "batch_size", "block_rows", "actors", "threads")
"""Keys of 'invert' that tell about sampled rows as well."""


def held_spaces(spec: RunSpec, identity: StoreIdentity) -> Spaces:
    """Space -> shape of a row's code, of the codes that inversion stores and of those that the
    generator converts them to."""
    shape = identity.facts.space(identity.space).shape
    return Spaces({identity.space: shape}, lambda: identity.facts)


def check_run(
    spec: RunSpec,
    index: DatasetIndex,
    spaces: Mapping[str, tuple[int, ...]],
    trust: bool = True,
    facts: ModelFacts | None = None,
) -> list[str]:
    """Raise SpecError with everything that the specification asks for and its data cannot give.

    spaces : see `held_spaces`. trust : TorchScript annotators may be loaded. facts : of the
        generator

    Returns `run_notes`. Raises CheckpointError for an annotator without a usable description and
    UntrustedError for one that needs trust.
    """
    cards = {a.name: read_description(a.model, a.name) for a in spec.annotate}
    for card in cards.values():
        check_trust(card, trust)
    known = known_before(spec, index, spaces, cards)
    refuse(run_problems(known, cards, facts))
    return list(run_notes(known))


def check_classes(spec: RunSpec, facts: ModelFacts) -> None:
    """Raise SpecError for images without classes whose codes need one, before they are indexed."""
    refuse(_classes_needed(spec, facts))


def known_before(
    spec: RunSpec,
    index: DatasetIndex,
    spaces: Mapping[str, tuple[int, ...]],
    cards: Mapping[str, AnnotatorCard],
) -> Known:
    """What is known of a run before there is a store. cards : of the annotators, by name."""

    def measured(kind: str, labels: str) -> list[Measured]:
        return promised(spec.annotate, cards, kind, labels)

    activations = [card.activation for card in cards.values() if role_of(card.kind) == "scores"]
    bounded = activations[0] if activations and all(activations) else None
    return Known(spec, index, spaces, measured, bounded)


def check_quarantine(spec: RunSpec, store: LatentStore) -> None:
    """Raise QuarantineExceededError where more rows have no code than the specification allows."""
    status = store.status(INVERT)
    bad = int((status == Status.QUARANTINED).sum())
    rows = int((status != Status.REMOVED).sum())
    share = bad / max(rows, 1)
    if share > spec.max_quarantined:
        raise QuarantineExceededError(
            f"{bad!r} of {rows!r} rows are quarantined ({share:.1%}), more than "
            f"'max_quarantined' {spec.max_quarantined!r} allows: analyses are not run; see "
            "the reasons in run.json, repair the files, or raise the limit"
        )


def reads_annotations(spec: RunSpec) -> dict[str, bool]:
    """Analysis that is asked for -> whether what annotators measure, or its names, decide it."""
    found = {}
    for name in requested(spec):
        asked: list[str] = []

        def measured(kind: str, labels: str, asked: list[str] = asked) -> list[Measured]:
            asked.append(kind)
            return []

        selected(Known(spec, DatasetIndex.empty(), {}, measured), name)
        found[name] = bool(asked)
    return found


def run_problems(
    known: Known, cards: Mapping[str, AnnotatorCard], facts: ModelFacts | None = None
) -> Problems:
    """All that `check_run` refuses, section by section."""
    spec = known.spec
    yield from _dataset(spec, known.index)
    if facts is not None:
        yield from _classes_needed(spec, facts)
    yield from _labels(spec, known.index, 0 if facts is None else facts.classes)
    yield from _sampled(spec, facts)
    if INVERT in cards:
        yield f"'annotate' has the name {INVERT!r}, which is inversion's in the store: rename it"
    embeddings = {name for name, card in cards.items() if role_of(card.kind) == EMBEDDING}
    for name in sorted(embeddings & set(qualities_of(spec.invert)) if embeddings else ()):
        yield (
            f"'annotate' has embeddings {name!r}, whose cosine would be called as inversion's own "
            f"quality {name!r}: rename it"
        )
    for name in requested(spec):
        yield from problems_of(known, name)
    yield from _evaluation(spec, known.index, facts)
    yield from _runner(spec.beam.runner)


def _dataset(spec: RunSpec, index: DatasetIndex) -> Problems:
    """Columns that no table has, and kinds that the index no longer takes up."""
    for kind in (CONTINUOUS, CATEGORICAL):
        names = getattr(spec.dataset, kind)
        yield from factor_problems(f"dataset.{kind}", names, index, kind)


def _classes_needed(spec: RunSpec, facts: ModelFacts) -> Problems:
    """Images without classes, inverted into codes that are drawn with one."""
    held = facts.spaces.get(spec.invert.space or facts.default_space)
    if spec.dataset.sampled or spec.dataset.labels is not None or not facts.classes:
        return
    if held is not None and held.conditional:
        without = [
            space.name
            for space in facts.spaces.values()
            if not (space.conditional or space.required or space.injected_into)
        ]
        other = f", or set 'invert.space' to {_one_of(without)}" if without else ""
        yield (
            f"'dataset.labels' is missing: codes of {held.name!r} are drawn with one of the "
            f"generator's {facts.classes!r} classes: name the factor that holds each image's"
            + other
        )


def _one_of(names: Sequence[str]) -> str:
    """ "'w'", or "one of 'w', 'w_plus'"."""
    return f"{'one of ' if len(names) > 1 else ''}{', '.join(map(repr, names))}"


def _labels(spec: RunSpec, index: DatasetIndex, classes: int) -> Problems:
    """Class labels that are not there, or are no classes of the generator."""
    labels = spec.dataset.labels
    if spec.dataset.sampled or not isinstance(labels, str):
        return
    if not classes:
        yield f"'dataset.labels' is {labels!r}, but the generator has no classes: leave it out"
        return
    wrong = list(factor_problems("dataset.labels", [labels], index))
    yield from wrong
    if not wrong:
        try:
            class_numbers(index, labels, classes)
        except DataError as e:
            yield f"'dataset.labels' is {labels!r}: {e}"


def _sampled(spec: RunSpec, facts: ModelFacts | None) -> Problems:
    """What is asked of images, of rows that have none; truncation of what is not truncated."""
    if not spec.dataset.sampled:
        return
    yield from _untruncated(spec, facts, "dataset.truncation", spec.dataset.truncation)
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


def _untruncated(spec: RunSpec, facts: ModelFacts | None, key: str, value: float) -> Problems:
    """Truncation of what is not truncated."""
    held = None if facts is None else facts.spaces.get(spec.invert.space or facts.default_space)
    if facts and held and value != 1 and held.prior == "normal":
        derived = [s.name for s in facts.spaces.values() if s.prior == "derived"]
        yield (
            f"{key!r} is {value!r}, but codes of {held.name!r} are not truncated: leave it out"
            + (f", or set 'invert.space' to {_one_of(derived)}" if derived else "")
        )


def _evaluation(spec: RunSpec, index: DatasetIndex, facts: ModelFacts | None) -> Problems:
    """Factors that are not there, or not levels; truncation of what is not truncated."""
    own, key = spec.evaluate, "evaluate"
    if own.source == "prior":
        yield from _untruncated(spec, facts, f"{key}.truncation_psi", own.truncation_psi)
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
    """Numbers of the specification that the data cannot fill, and that are used as far as it can;
    and keys without effect.

    As ``key: what was asked for, what will be used and why``.
    """
    spec, index = known.spec, known.index
    for key, value in spec.invert.without_effect().items():
        yield f"invert.{key}: {value} given, not used by method {spec.invert.method!r}"
    own, rows = spec.evaluate, int(active_rows(index).sum())
    samples = own.samples
    if own.source == "dataset" and own.truncation_psi != 1:
        yield (
            f"evaluate.truncation_psi: {own.truncation_psi} given, not used: rows of the dataset "
            "are edited, see 'evaluate.source'"
        )
    if own.source == "dataset" and samples > rows:
        if "samples" in own.model_fields_set:
            yield f"evaluate.samples: {samples} asked for, {rows} used, all rows of the dataset"
        samples = rows
    shown = spec.report.strip_rows
    if shown > samples and "strip_rows" in spec.report.model_fields_set:
        yield f"report.strip_rows: {shown} asked for, {samples} used: {samples} samples are edited"
    for name in requested(spec):
        with ANALYSES.blamed(name, "notes"):
            yield from list(analysis_of(name).notes(known, getattr(spec.analyse, name)))


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
