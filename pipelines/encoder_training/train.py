"""``latentflow train-encoder``: an encoder of a specification's generator, by its own samples.

One process, without Ray. What is kept in the run folder's ``encoder/`` lets a training that was
ended, at any moment, go on to the same bytes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import generators
from generators.encoders.base import TrainableArchitecture
from generators.encoders.catalog import ARCHITECTURES
from generators.encoders.load import save_encoder
from generators.perceptual.load import load_perceptual
from generators.protocols import ModelFacts, Space
from pipelines.encoder_training.folder import GENERATOR, TrainingFolder
from pipelines.encoder_training.measure import Measured, measured
from pipelines.encoder_training.objectives.base import Task
from pipelines.encoder_training.objectives.catalog import OBJECTIVES
from pipelines.encoder_training.page import write_page
from pipelines.encoder_training.real_images import RealImages
from pipelines.encoder_training.samples import CALIBRATION, HELD_OUT, VALIDATION, Samples, coded
from pipelines.encoder_training.trainer import Trainer
from pipelines.engine.interruption import Interruption
from pipelines.engine.progress import stage_progress
from pipelines.report.text import duration
from schemas.atomic import delete_partials_of, write_json
from schemas.errors import SpecError, UsageError
from schemas.sections.generator_settings import checked_settings
from schemas.sections.perceptual import OWN
from schemas.sections.train_encoder import STEPS, ChosenSpec
from schemas.spec import RunSpec
from schemas.suggest import suggestion

VERSION = 1
"""Raised whenever the same settings give another encoder."""
SAVE_SECONDS = 60.0
CODES = 4096
"""Whose mean and deviation stand for those of all codes."""
IMAGES = 32
"""Whose spread stands for that of all images."""
PROBE = 4
VERSIONS = ("latentflow", "numpy", "torch")
CURVE_ROWS, CURVE_POINTS = 64, 20
"""Samples and points of the curves on samples that are not trained on."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be trained, checked before anything is loaded.

    settings : see `TrainingFolder.agreed`; "steps" is None where the first steps' speed decides
    """

    spec: RunSpec
    facts: ModelFacts
    space: Space
    architecture: dict[str, Any]
    objective: Any
    settings: dict[str, Any]
    real: RealImages | None

    @classmethod
    def of(cls, spec: RunSpec) -> Plan:
        """Raises UsageError, SpecError or CheckpointError for what cannot be trained."""
        section, facts = spec.train_encoder, generators.facts(spec.generator)
        space = _space(spec, facts)
        design, named = _architecture(section.architecture, facts, space)
        objective, weights = _objective(section.objective)
        if section.real and (space.conditional or spec.dataset.sampled):
            why = (
                "whose codes belong to classes, which real pictures do not tell"
                if space.conditional
                else "and the dataset is sampled"
            )
            raise UsageError(
                f"'train_encoder.real' is {section.real!r} for space {space.name!r}, {why}: set "
                "it to 0"
            )
        if section.real and design.get("network", design).get("classes"):
            raise UsageError(
                f"'train_encoder.real' is {section.real!r}, and the encoder is given classes, "
                "which real pictures do not tell: set it to 0"
            )
        of_batch = round(section.real * section.batch_size)
        if section.real and not 0 < of_batch < section.batch_size:
            raise UsageError(
                f"'train_encoder.real' is {section.real!r}, which is {of_batch!r} of the "
                f"{section.batch_size!r} images of a batch: raise 'train_encoder.batch_size'"
            )
        given = section.model_dump(
            include={"batch_size", "learning_rate", "truncation", "real", "minutes", "steps"}
        )
        if section.steps is None and section.minutes is None:
            given["steps"] = STEPS
        seed = spec.seed if section.seed is None else section.seed
        real = RealImages(spec, facts.size, seed) if section.real else None
        settings = {
            GENERATOR: facts.fingerprint,
            "space": space.name,
            "architecture": design,
            "objective": {"name": section.objective.name, **dict(weights)},
            **given,
            "seed": seed,
            "pictures": None if real is None else real.fingerprint,
            "held_out": section.held_out,
            "version": VERSION,
        }
        return cls(spec, facts, space, design, (objective, weights), settings, real)


def _space(spec: RunSpec, facts: ModelFacts) -> Space:
    wanted = spec.train_encoder.space or spec.invert.space or facts.default_space
    drawn = [s.name for s in facts.spaces.values() if s.prior != "none" and not s.injected_into]
    if wanted not in drawn:
        raise UsageError(
            f"'train_encoder.space' is {wanted!r}, which this {facts.family} generator does not "
            f"draw samples of: {suggestion(wanted, drawn)}"
        )
    space = facts.space(wanted)
    if space.required:
        raise UsageError(
            f"codes of {wanted!r} cannot be drawn without {space.required!r}, which an encoder "
            "does not give: set 'train_encoder.space' to another"
        )
    return space


def _architecture(
    chosen: ChosenSpec, facts: ModelFacts, space: Space
) -> tuple[dict[str, Any], TrainableArchitecture]:
    where = "train_encoder.architecture"
    trainable = [
        name
        for name in ARCHITECTURES.names()
        if isinstance(ARCHITECTURES.load(name), TrainableArchitecture)
    ]
    if chosen.name not in trainable:
        raise SpecError(f"{where!r} is {chosen.name!r}: {suggestion(chosen.name, trainable)}")
    plugin: Any = ARCHITECTURES.load(chosen.name)
    given = checked_settings(
        plugin.settings, chosen.name, chosen.settings, where, "encoder architecture"
    )
    with ARCHITECTURES.blamed(chosen.name, "design"):
        return plugin.design(facts, space.name, plugin.settings(**given)), plugin


def _objective(chosen: ChosenSpec) -> tuple[Any, Any]:
    where = "train_encoder.objective"
    if chosen.name not in OBJECTIVES:
        cure = suggestion(chosen.name, OBJECTIVES.names())
        raise SpecError(f"{where!r} is {chosen.name!r}: {cure}")
    plugin = OBJECTIVES.load(chosen.name)
    given = checked_settings(plugin.settings, chosen.name, chosen.settings, where, "objective")
    return plugin, plugin.settings(**given)


def train_encoder(
    spec: RunSpec,
    console: Console | None = None,
    stop: Interruption | None = None,
    anew: bool = False,
) -> Path:
    """Train, or go on with, the encoder of a specification; returns its file.

    stop : asks to end after the step in hand; the next call goes on.
    anew : remove what an earlier training left

    Raises UsageError for what cannot be trained, or where the folder holds a training of another
    generator or of other settings; LockedError where another process trains there;
    RunInterruptedError when asked to stop; NotConvergedError where the loss is no number.
    """
    console, stop = console or Console(stderr=True), stop or Interruption()
    plan, folder = Plan.of(spec), TrainingFolder.of(spec)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    with folder.lock():
        delete_partials_of(folder.checkpoint)
        if anew:
            folder.clear()
        held = folder.agreed(plan.settings)
        if held and folder.finished:
            say(f"encoder: {folder.encoder} (trained already)")
            return folder.encoder
        with _threads(spec.train_encoder.threads):
            _train(plan, folder, held, console, say, stop)
    return folder.encoder


@contextlib.contextmanager
def _threads(n: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"'train_encoder.device' is {wanted!r}, and there is no GPU that torch can use: set it "
            "to auto"
        )
    return torch.device(wanted)


def _train(
    plan: Plan,
    folder: TrainingFolder,
    held: dict[str, Any],
    console: Console,
    say: Callable[[str], None],
    stop: Interruption,
) -> None:
    section, device = plan.spec.train_encoder, _device(plan.spec.train_encoder.device)
    generator = generators.load(plan.spec.generator, device)
    seeds = range(CALIBRATION, CALIBRATION + CODES)
    codes = coded(generator, plan.space.name, seeds, section.truncation)[0].main
    centre, deviation = codes.mean(dim=0), codes.std(dim=0, correction=0)
    deviation = torch.where(deviation > 1e-6, deviation, 1.0)
    some = Samples.drawn(generator, plan.space.name, seeds[:IMAGES], section.truncation)
    task = Task(generator, plan.space.name, centre, deviation, some.images, device)
    plugin: Any = ARCHITECTURES.load(str(plan.architecture["family"]))
    objective, weights = plan.objective
    loss = objective.loss(weights, task)

    def trainer(steps: int) -> Trainer:
        torch.manual_seed(plan.settings["seed"])
        network = plugin.fresh(plan.architecture, codes.cpu()).to(device)
        return Trainer(network, task, loss, section, steps, plan.settings["seed"], plan.real)

    seconds = _probe(trainer(PROBE), stop)
    steps = held.get("steps") or plan.settings["steps"]
    if steps is None:
        steps = max(1, round((section.minutes or 0) * 60 / seconds))
    settings = {**plan.settings, "steps": steps}
    folder.note(settings)
    training = trainer(steps)
    if folder.checkpoint.exists():
        training.load(folder.checkpoint)
    cost = f"{seconds:.3g} s a step, {steps} steps: {duration(seconds * steps)}"
    left = f", {duration(seconds * (steps - training.step))} left" if training.step else ""
    size = sum(p.numel() for p in training.network.parameters())
    say(
        f"encoder of {plan.facts.family} into {plan.space.name} {list(plan.space.shape)!r}, "
        f"{size} weights, on {device}: {cost}{left}"
    )
    _advance(training, folder, console, stop)
    _finish(training, folder, settings, plan.spec.name)
    say(f"encoder: {folder.encoder}\nreport: {folder.page}")


def _probe(trainer: Trainer, stop: Interruption) -> float:
    """Seconds of a step, by a few of a training that is thrown away; the first one is not timed."""
    stop.check()
    trainer.advance()
    started = time.monotonic()
    for _ in range(PROBE - 1):
        stop.check()
        trainer.advance()
    return (time.monotonic() - started) / (PROBE - 1)


def _advance(
    training: Trainer,
    folder: TrainingFolder,
    console: Console,
    stop: Interruption,
) -> None:
    """All steps that are left, with a checkpoint every minute and when asked to stop."""
    saved = time.monotonic()
    every = max(50, training.steps // CURVE_POINTS)
    with stage_progress(console, "train-encoder") as progress:
        while training.step < training.steps:
            if stop.requested:
                if training.step:
                    training.save(folder.checkpoint)
                stop.check()
            training.advance()
            if training.step % every == 0 or training.step == training.steps:
                training.history.measured.append(_curve_point(training))
            progress(training.step, training.steps)
            if time.monotonic() - saved > SAVE_SECONDS:
                training.save(folder.checkpoint)
                saved = time.monotonic()
    training.save(folder.checkpoint)


def _curve_point(training: Trainer) -> dict[str, float]:
    """The averaged weights on some samples that are not trained on."""
    rows = min(CURVE_ROWS, training.settings.held_out)
    seeds = range(VALIDATION, VALIDATION + rows)
    found = _measured(training, seeds).summary()
    return {"step": training.step, "psnr": found["psnr"]["median"], "r2": found["r2"]["median"]}


def _measured(training: Trainer, seeds: range, perceptual: Any = None) -> Measured:
    task, settings = training.task, training.settings
    return measured(
        training.average, task, seeds, settings.batch_size, settings.truncation, perceptual
    )


def _finish(
    training: Trainer,
    folder: TrainingFolder,
    settings: dict[str, Any],
    name: str,
) -> None:
    """Encoder, report and page of a training whose steps are done."""
    seeds = range(HELD_OUT, HELD_OUT + settings["held_out"])
    perceptual = load_perceptual(OWN, device=training.task.device)
    found = _measured(training, seeds, perceptual)
    versions = {each: importlib.metadata.version(each) for each in VERSIONS}
    save_encoder(
        training.average.cpu(),
        folder.encoder,
        training=settings,
        held_out=found.summary(),
        versions=versions,
    )
    report = {
        "training": settings,
        "held_out": found.summary(),
        "r2": [None if value != value else round(float(value), 6) for value in found.r2],
        "losses": training.history.losses,
        "measured": training.history.measured,
        "versions": versions,
    }
    write_page(folder.page, name, training.task.facts, report, found)
    write_json(folder.report, report)
    folder.checkpoint.unlink(missing_ok=True)
