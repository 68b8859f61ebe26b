"""The report of a training as a page, self-contained and escaped like that of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import LogLocator

from generators.protocols import ModelFacts
from pipelines.encoder_training.measure import BASELINE, Measured
from pipelines.folder.qualities import quality_told
from pipelines.report import plots
from pipelines.report.page import page_environment
from pipelines.report.text import count, fixed, plain
from schemas.atomic import write_bytes

SIDE = 128
"""Pixels of a picture's longer side."""
WORST = -1.0
"""R2 below this are drawn there."""
_TITLES = {
    key: (quality_told(key).title, quality_told(key).places, quality_told(key).unit)
    for key in ("psnr", "ssim", "lpips_star")
}
_TITLES["cosine"] = ("cosine of codes", 3, "")


def write_page(
    path: Path, name: str, facts: ModelFacts, report: Mapping[str, Any], found: Measured
) -> None:
    """Write the page. The same input, the same bytes.

    name : of the run. report : as it stands in the JSON beside the page.
    """
    template = page_environment().get_template("training.html.j2")
    html = template.render(
        name=name,
        tiles=_tiles(report["held_out"]),
        facts=_facts(facts, report),
        held_out=report["held_out"],
        pictures=_pictures(found),
        qualities=_qualities(report["held_out"]),
        histograms=_histograms(found, report["held_out"]),
        curves=_curves(report["losses"], report["measured"]),
        objective=sorted(report["training"]["objective"].items()),
        architecture=sorted((k, str(v)) for k, v in report["training"]["architecture"].items()),
        versions=sorted(report["versions"].items()),
    )
    write_bytes(path, html.lstrip().encode("utf-8"))


def _tiles(held_out: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    tiles = []
    for key, (title, places, unit) in _TITLES.items():
        if key in held_out:
            tiles.append((f"median {title}", fixed(held_out[key]["median"], places), unit))
    r2 = held_out["r2"]
    if r2["median"] is not None:
        tiles.append(("median R² of a coordinate", fixed(r2["median"], 3), ""))
        tiles.append(("worst R²", fixed(r2["worst"], 3), ""))
    return tiles


def _facts(facts: ModelFacts, report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    training = report["training"]
    size = f"{facts.size[1]} × {facts.size[0]} px"
    shape = " × ".join(map(str, facts.space(training["space"]).shape))
    weights = training["architecture"].get("family")
    found = [
        ("generator", facts.family, size),
        ("generator fingerprint", training["generator_fp"], "fingerprint"),
        ("space", training["space"], shape),
        ("architecture", str(weights), ""),
        ("objective", str(training["objective"]["name"]), ""),
        ("steps", count(training["steps"]), f"of {count(training['batch_size'])} images"),
        ("learning rate", f"{training['learning_rate']:g}", ""),
        ("truncation of the samples", f"{training['truncation']:g}", ""),
        ("seed", str(training["seed"]), ""),
    ]
    if training["real"]:
        found.append(("pictures of the dataset", f"{100 * training['real']:.0f} %", "of a batch"))
    return found


def _qualities(held_out: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for key in (*_TITLES, BASELINE):
        if key in held_out:
            title, places, unit = _TITLES.get(key, ("PSNR of the mean code", 2, "dB"))
            cells = [fixed(held_out[key][q], places) for q in ("median", "mean", "p10", "p90")]
            rows.append([f"{title}{unit and f' ({unit})'}", *cells])
    return rows


def _pictures(found: Measured) -> list[dict[str, str]]:
    pairs = found.pictures.transpose(1, 0, 2, 3, 4)
    psnr = found.rows["psnr"]
    return [
        {
            "uri": plots.picture_uri(plots.tile(pair[:, None], SIDE)),
            "caption": f"{fixed(float(psnr[k]), 1)} dB",
        }
        for k, pair in enumerate(pairs)
    ]


def _histograms(found: Measured, held_out: Mapping[str, Any]) -> list[Markup]:
    figures = []
    known = found.r2[np.isfinite(found.r2)]
    if len(known):
        text = f"median {fixed(held_out['r2']['median'], 3)}"
        label = "R² of a coordinate"
        figures.append(plots.histogram(np.maximum(known, WORST), label, text, "coordinates"))
    for key, (title, places, unit) in _TITLES.items():
        values = found.rows.get(key)
        if values is None:
            continue
        text = f"median {fixed(float(np.median(values)), places)}{unit and ' ' + unit}"
        label = f"{title}{unit and f' ({unit})'}"
        figures.append(plots.histogram(values, label, text, "samples"))
    return figures


def _curves(
    losses: Sequence[Mapping[str, float]], measured: Sequence[Mapping[str, float]]
) -> list[tuple[Markup, str]]:
    curves = []
    if losses:
        terms = {k: [row[k] for row in losses] for k in losses[0] if k != "step"}
        steps = [row["step"] for row in losses]
        curves.append((_lines(steps, terms, "terms of the loss", log=True), "of training samples"))
    steps = [row["step"] for row in measured]
    for key, label in (("psnr", "median PSNR (dB)"), ("r2", "median R² of a coordinate")):
        values = [row.get(key) for row in measured]
        if measured and None not in values:
            line = _lines(steps, {label: values}, label)
            curves.append((line, "of samples that are not trained on"))
    return curves


def _lines(
    steps: Sequence[float], lines: Mapping[str, Sequence[Any]], label: str, log: bool = False
) -> Markup:
    """Curves over the steps. log : where no value is below 0, by their orders of magnitude."""
    with plots.canvas(430, 230) as figure:
        axes = figure.add_subplot()
        for k, (name, values) in enumerate(lines.items()):
            marker = plots.MARKERS[k % len(plots.MARKERS)] if len(steps) < 40 else None
            axes.plot(steps, values, color=plots.SERIES[k % len(plots.SERIES)], linewidth=1.6,
                      marker=marker, markersize=3.5, label=plain(name))  # fmt: skip
        if log and all(value > 0 for values in lines.values() for value in values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        if len(lines) > 1:
            axes.legend()
        return plots.inline_svg(figure, f"{label} over {len(steps)} points of the training.")
