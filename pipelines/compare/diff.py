"""Two runs compared: which directions survived a change of the model, and how to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.compare.page import render_drift
from pipelines.compare.texts import error_text, row_of
from pipelines.compare.trial import REFUSED, SURVIVES, Drift, Rule, Side, compare
from pipelines.compare.two_runs import ComparedRun, Pairs
from pipelines.evaluation.sample_rows import sample_rows
from pipelines.evaluation.samples import Samples
from pipelines.folder.store_identity import labels_of
from pipelines.report.text import plain
from schemas.atomic import write_bytes, write_json
from schemas.errors import UsageError
from transforms.accumulate.sources import codes_of
from transforms.drift.latent_maps import MapChoice

if TYPE_CHECKING:
    from pipelines.evaluation.actors_meter import ActorsMeter

SAMPLES = 64
DIFF_VERSION = 1
TONES = {SURVIVES: "green", REFUSED: "red"}


def diff(
    old: ComparedRun,
    new: ComparedRun,
    *,
    samples: int = SAMPLES,
    rule: Rule | None = None,
    trust: bool = False,
    strip_rows: int = 3,
    progress: Callable[[int, int], None] = lambda done, total: None,
    out: Path | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(the comparison as JSON, strips "<direction>/<trial>" -> uint8 (rows, 3, R, R, 3)).

    samples : images that both runs hold, of the new run's held-out levels where they suffice; or,
        where the runs share too few, draws from the priors with the same seeds.
    trust : TorchScript models may be loaded. Both models are measured by the new run's, and
        by the actors that its specification asks for.
    out : folder in which a comparison that is killed keeps what it has measured, until the next
        one has finished; every actor must see it. By default a temporary one of this machine.

    Raises UsageError for fewer than 8 samples, and where neither images nor priors are shared.
    """
    rule = rule or Rule()
    if samples < 8:
        raise UsageError(f"samples is {samples!r}: give at least 8, half of them confirm")
    old, new = old.trusting(trust), new.trusting(trust)
    pairs = Pairs.of(old, new)
    choice, unlinked = pairs.link()
    link = None if choice is None else choice.chosen
    both, source = _samples(old, new, pairs, samples)
    with _meters(old, new, trust, out) as meters:
        left, right = (
            Side(run.directions, own, meter)
            for run, own, meter in zip((old, new), both, meters, strict=True)
        )
        sides = left, right
        found = compare(*sides, link, rule, strip_rows=strip_rows, progress=progress)
    spaces = spaces_facts(choice, unlinked, len(pairs.rows))
    result = summarise((old.facts(), new.facts()), sides, spaces, rule, source, found)
    return result, found.strips


def _samples(
    old: ComparedRun, new: ComparedRun, pairs: Pairs, samples: int
) -> tuple[list[Samples], str]:
    """The same samples in both models, and what they are of."""
    import generators

    rows = sample_rows(new.index, pairs.rows, new.spec, samples, stream=29)
    if len(rows) >= min(samples, 8):
        both = ((old, pairs.partner[rows]), (new, rows))
        return [_stored(run, at) for run, at in both], "images of both runs"
    if old.generator_uri is None or new.generator_uri is None:
        raise UsageError(
            f"the runs share {len(rows)!r} images, and a generator is missing to sample from: "
            f"{old.generator_absent or new.generator_absent}; give it with --old-generator or "
            "--new-generator"
        )
    seed, psi = new.spec.evaluate_seed, new.spec.evaluate.truncation_psi
    drawing = [generators.load(uri) for uri in (old.generator_uri, new.generator_uri)]
    draws = [
        Samples.of_prior(model, run.space, samples, seed, psi)
        for model, run in zip(drawing, (old, new), strict=True)
    ]
    return draws, "draws from both priors with the same seeds"


def _stored(run: ComparedRun, rows: np.ndarray) -> Samples:
    """Rows of a run; without its generator their codes alone, for nothing is drawn then."""
    import generators

    if run.generator_uri is None:
        return Samples(run.space, codes_of(run.store, run.space, rows))
    facts = generators.facts(run.generator_uri)
    labels = labels_of(run.spec.dataset, run.index, facts)
    classes = None if labels is None else labels[rows]
    return Samples.stored(run.store, facts.space(run.space), rows, classes)


@contextmanager
def _meters(
    old: ComparedRun, new: ComparedRun, trust: bool, out: Path | None
) -> Iterator[list[ActorsMeter | None]]:
    """What draws and measures on either side, None without the generator, on one engine."""
    from pipelines.engine.blocks import InProcess
    from pipelines.engine.ray import RayEngine
    from pipelines.evaluation.actors_meter import ActorsMeter, Models
    from schemas.store.lock import StoreLock

    spec = new.spec
    annotators = tuple((a.model, a.name) for a in spec.annotate)
    with ExitStack() as stack:
        if out is None:
            out = Path(stack.enter_context(TemporaryDirectory(prefix="latentflow-")))
        out.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context(StoreLock(out / "drift"))
        engine = InProcess() if spec.single_process else stack.enter_context(RayEngine.of(spec))
        meters: list[ActorsMeter | None] = []
        for name, run in (("old", old), ("new", new)):
            if run.generator_uri is None:
                meters.append(None)
                continue
            fp = run.directions.generator_fp
            models = Models(run.generator_uri, fp, annotators, trust)
            folder, actors = out / f"drift.{name}.partial", spec.invert_actors
            meters.append(ActorsMeter(models, engine, lock, folder, actors, spec.invert.threads))
        yield meters
        for meter in meters:
            if meter is not None:
                meter.clear()


def summarise(
    runs: tuple[dict[str, Any], dict[str, Any]],
    sides: tuple[Side, Side],
    spaces: dict[str, Any],
    rule: Rule,
    source: str,
    found: Drift,
) -> dict[str, Any]:
    """A comparison as JSON: ``drift.json``.

    runs : `ComparedRun.facts` of old and new. spaces : see `spaces_facts`. source : of the samples.
    """
    old, new = sides
    names = old.directions.names()
    verdicts = [e["verdict"] for e in found.entries]
    checked = [e["held_out"]["agrees"] for e in found.entries if "held_out" in e]
    return {
        "version": DIFF_VERSION,
        "old": runs[0],
        "new": runs[1],
        "same_generator": old.directions.generator_fp == new.directions.generator_fp,
        "spaces": spaces,
        "rule": {
            "text": str(rule),
            "strength": rule.strength,
            "share": rule.share,
            "sigmas": rule.sigmas,
        },
        "samples": {
            "source": source,
            "evidence": (len(new.codes) + 1) // 2,
            "held_out": len(new.codes) // 2,
        },
        "directions": found.entries,
        "groups": found.groups,
        "only_new": [n for n in new.directions.names() if n not in names],
        "survive": verdicts.count(SURVIVES),
        "must_not_be_reused": verdicts.count(REFUSED),
        "confirmed": [sum(checked), len(checked)],
    }


def spaces_facts(choice: MapChoice | None, unlinked: str, n_pairs: int) -> dict[str, Any]:
    """How two spaces are linked, as JSON: relation, errors, and a sentence."""
    if choice is None:
        return {"images": n_pairs, "relation": None, "text": f"Not linked: {unlinked}."}
    errors = choice.errors
    shown = ", ".join(f"{kind} {error_text(error)}" for kind, error in errors.items())
    text = {
        "identity": "The new space has the axes of the old one",
        "rotation": "The new space is a rotation of the old one (Procrustes); directions are "
        "compared after it",
        "linear": "The new space is a linear map of the old one; directions are compared after it",
        "unrelated": "No linear map takes the old space to the new one; cosines say little",
    }[choice.relation]
    return {
        "images": n_pairs,
        "fitted": choice.fitted,
        "held_out": choice.held_out,
        "relation": choice.relation,
        "error": choice.error,
        "errors": errors,
        "text": f"{text} (relative error on {choice.held_out} held-out images: {shown}).",
    }


def write_diff(result: dict[str, Any], strips: dict[str, np.ndarray], out: Path) -> list[Path]:
    """Write ``drift.json`` and the page ``drift.html`` into a folder; returns both paths."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "drift.json", result)
    write_bytes(out / "drift.html", render_drift(result, strips).encode("utf-8"))
    return [out / "drift.json", out / "drift.html"]


def print_diff(result: dict[str, Any], console: Console) -> None:
    """The comparison as a table."""
    old, new = result["old"], result["new"]
    console.print(
        f"old: {old['name']}, generator {old['generator_fp'][:12]}, {old['directions']} directions",
        f"new: {new['name']}, generator {new['generator_fp'][:12]}, {new['directions']} directions",
        result["spaces"]["text"],
        sep="\n", markup=False, highlight=False,
    )  # fmt: skip
    table = Table(box=None, pad_edge=False)
    table.add_column("direction", no_wrap=True)
    table.add_column("measure")
    for title in ("cosine", "mapped", "old", "reused", "new", "share"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict")
    for entry in result["directions"]:
        tone = TONES.get(entry["verdict"], "yellow")
        cells = [escape(cell) for cell in row_of(entry)]
        table.add_row(*cells, f"[{tone}]{entry['verdict']}[/]")
    console.print(table)
    for group in result["groups"]:
        for key, label in (("angles", ""), ("angles_mapped", ", mapped")):
            if key in group:
                a = group[key]
                console.print(
                    f"{plain(group['method'])}: {len(a)} principal angles{label}, median "
                    f"{np.median(a):.1f}, largest {a[-1]:.1f} degrees",
                    markup=False, highlight=False,
                )  # fmt: skip
    agreed, of = result["confirmed"]
    console.print(
        result["rule"]["text"],
        f"{result['survive']} survive, {result['must_not_be_reused']} must not be reused; the "
        f"other half of the samples confirms {agreed} of {of} verdicts.",
        sep="\n", markup=False, highlight=False,
    )  # fmt: skip
