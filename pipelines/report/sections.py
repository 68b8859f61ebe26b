"""Sections of the report: each is worked out from a run folder, or says why it cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from pipelines.analyses.base import Analysis, Model
from pipelines.analyses.catalog import ANALYSES, analysis_of
from pipelines.analyses.figures import NotShownError
from pipelines.folder.run_folder import RunFolder
from pipelines.report import plots
from pipelines.report import text as report_text
from pipelines.report.directions import comparison, direction_strips, matrix
from pipelines.report.figures import drawn
from pipelines.report.text import is_number
from pipelines.sources.sampled import SEED_UNIT
from schemas.errors import PluginError
from schemas.index import DatasetIndex
from schemas.sections.catalog import OWN
from schemas.sections.dataset import LABEL

MAX_SAMPLES = 24


class AbsentError(Exception):
    """A section that cannot be shown; the text says why in one line."""


class NotAskedError(Exception):
    """A section of an analysis that the specification does not ask for."""


@dataclass
class Section:
    """One section: ``kind`` names its part of the template, ``data`` what that part shows."""

    kind: str
    title: str
    data: dict[str, Any] = field(default_factory=dict)


def _asked(folder: RunFolder, analysis: str) -> bool:
    """Whether the specification of the run has a section of the analysis."""
    spec = _mapping(folder.run.get("spec"))
    return _mapping(spec.get("analyse")).get(analysis) is not None


_Builder = tuple[str, str, Callable[[RunFolder], dict[str, Any]]]


def all_sections(folder: RunFolder) -> tuple[list[Section], list[tuple[str, str]]]:
    """The sections that can be shown, in order, and (title, reason) of those that cannot; what
    nobody asked for is neither."""
    shown: list[Section] = []
    absent: list[tuple[str, str]] = []
    for kind, title, build in (*_SECTIONS, *_analyses(folder)):
        try:
            data = build(folder)
            shown.append(Section(kind, data.get("title", title), data))
        except NotAskedError:
            continue
        except AbsentError as e:
            absent.append((title, str(e)))
    return shown, absent


def _why(folder: RunFolder, part: str, otherwise: str) -> AbsentError:
    return AbsentError(folder.absent.get(part, otherwise))


# ---- what ran -------------------------------------------------------------------------------


def _sampled(folder: RunFolder) -> bool:
    """Whether the rows are drawn from the generator's prior."""
    dataset = _mapping(_mapping(folder.run.get("spec")).get("dataset"))
    return bool(dataset.get("kind") == "sampled")


def _inputs(folder: RunFolder) -> dict[str, Any]:
    run, spec = folder.run, _mapping(folder.run.get("spec"))
    dataset, invert = _mapping(spec.get("dataset")), _mapping(spec.get("invert"))
    facts: list[tuple[str, Any, str]] = []
    sampled = _sampled(folder)
    if sampled:
        facts.append(("Dataset", "drawn from the generator's prior", "sampled"))
    elif dataset:
        facts.append(("Dataset", dataset.get("path", ""), str(dataset.get("kind", ""))))
    if folder.index is not None:
        active = int(folder.index.active.sum())
        gone = folder.index.n_rows - active
        ids = np.array(folder.index.image_ids)[folder.index.active]
        doubles = active - len(np.unique(ids))
        notes = [(doubles, "identical to another"), (gone, "removed")]
        note = ", ".join(f"{report_text.count(n)} {what}" for n, what in notes if n)
        facts.append(("Rows" if sampled else "Images", report_text.count(active), note))
    facts += _generator(spec.get("generator", report_text.DASH))
    if run.get("generator_fp"):
        facts.append(("Generator fingerprint", run["generator_fp"], "fingerprint"))
    if sampled and invert.get("space"):
        facts.append(("Latent space", invert["space"], ""))
    elif invert:
        how = ", ".join(str(invert[k]) for k in ("method", "space") if invert.get(k))
        facts.append(("Inversion", how, ""))
    if folder.store is not None:
        n = folder.store.n_blocks
        note = f"{n} block{'s' if n > 1 else ''} of {folder.store.block_rows} rows"
        facts.append(("Latent store", run.get("store", ""), note))
    if is_number(spec.get("seed")):
        facts.append(("Seed", str(spec["seed"]), ""))
    return {
        "facts": [(a, report_text.redacted(str(b)), c) for a, b, c in facts],
        "factors": _factors(folder),
        "indexing": report_text.counted(folder.index_report, sampled),
        "versions": sorted(_mapping(run.get("versions")).items()),
        "spec": report_text.specification(spec) if spec else "",
    }


def _generator(given: Any) -> list[tuple[str, Any, str]]:
    """The generator's file, and beside it what else the specification says of it."""
    if not isinstance(given, dict):
        return [("Generator", given, "")]
    said = {k: v for k, v in given.items() if k != "path" and v is not None}
    told = report_text.redacted(said)
    settings = ", ".join(f"{report_text.plain(k)} {_said(v)}" for k, v in told.items())
    return [("Generator", given.get("path", report_text.DASH), settings)]


def _said(value: Any) -> str:
    """A value as it stands in a specification."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _factors(folder: RunFolder) -> list[dict[str, Any]]:
    if folder.index is None:
        return []
    rows = []
    for name in folder.index.factor_names:
        values = folder.index.factor(name)
        if isinstance(values, tuple):
            codes, categories = values
            listed = ", ".join(categories[:8])
            listed += ", \N{HORIZONTAL ELLIPSIS}" if len(categories) > 8 else ""
            kind, missing = f"{report_text.count(len(categories))} levels", int((codes < 0).sum())
        else:
            known = values[np.isfinite(values)]
            kind, missing = "continuous", len(values) - len(known)
            listed = "no values"
            if len(known):
                low, high = (report_text.number(float(f(known))) for f in (np.min, np.max))
                listed = f"{low} to {high}"
        rows.append({"name": name, "kind": kind, "values": listed, "missing": missing})
    return rows


def _stages(folder: RunFolder) -> dict[str, Any]:
    stages = [s for s in _list(folder.run.get("stages")) if isinstance(s, dict)]
    if not stages:
        raise AbsentError("run.json lists no stages")
    seconds = [float(s["seconds"]) if is_number(s.get("seconds")) else 0.0 for s in stages]
    longest, total = max(seconds), sum(seconds)
    rows = []
    for stage, took in zip(stages, seconds, strict=True):
        n = stage.get("rows")
        detail = _mapping(stage.get("detail"))
        parts = [(k, v) for k, v in detail.items() if is_number(_mapping(v).get("seconds"))]
        rows.append(
            {
                "name": str(stage.get("name", "")),
                "duration": report_text.duration(took),
                "share": 100 * took / longest if longest > 0 else 0.0,
                "rows": report_text.count(n),
                "rate": report_text.number(n / took) if is_number(n) and took > 0 else "",
                "skipped": bool(stage.get("skipped")),
                "parts": [
                    (report_text.plain(k), report_text.duration(v["seconds"]))
                    for k, v in parts
                    if not v.get("skipped")
                ],
                "detail": report_text.tally(detail, _sampled(folder)),
            }
        )
    return {
        "rows": rows,
        "total": report_text.duration(total),
        "memory": report_text.memory(folder.run.get("peak_memory_mb")),
    }


def _left_out(folder: RunFolder) -> dict[str, Any]:
    """Quarantined rows, and files of the dataset that became no rows."""
    found = folder.index_report
    files = [
        {
            "what": str(kind.get("what", "")),
            "why": str(kind.get("why", "")),
            "n": kind.get("n"),
            "examples": [str(e) for e in _list(kind.get("examples"))],
        }
        for kind in map(_mapping, _list(found.get("left_out")))
    ]
    notes = [str(note) for note in _list(found.get("notes"))]
    if folder.store is None:
        raise _why(folder, "store", "there is no latent store")
    return {
        "rows": folder.left_out(),
        "n_rows": folder.store.n_rows,
        "files": files,
        "notes": [report_text.redacted(note) for note in notes],
    }


# ---- reconstruction ------------------------------------------------------------


def _reconstruction(folder: RunFolder) -> dict[str, Any]:
    histograms, table = [], []
    for name, told in folder.qualities().items():
        values = folder.quality(name)
        if not len(values):
            continue
        unit, better = told.unit and f" {told.unit}", told.higher_is_better
        shown = [report_text.fixed(float(np.median(values)), told.places) + unit]
        worst = told.worst(values)
        shown.append("" if worst is None else report_text.fixed(worst, told.places) + unit)
        shown.append("" if better is None else "higher" if better else "lower")
        table.append([told.title, *shown])
        if told.first:
            label = f"{told.title}, {told.unit}" if told.unit else told.title
            histograms.append(plots.histogram(values, label, f"median {shown[0]}"))
    pairs = []
    original = folder.pictures("samples/original")
    drawn = folder.pictures("samples/reconstruction")
    if original is not None and drawn is not None and original.shape == drawn.shape:
        wanted = _mapping(_mapping(folder.run.get("spec")).get("report")).get("samples")
        n = min(len(original), int(wanted) if is_number(wanted) else MAX_SAMPLES, MAX_SAMPLES)
        for above, below in zip(original[:n], drawn[:n], strict=True):
            pairs.append(plots.picture_uri(plots.tile(np.stack([above, below])[:, None])))
    alone = folder.pictures("samples/drawn")
    if alone is not None:
        pairs = [plots.picture_uri(plots.tile(image[None, None])) for image in alone[:MAX_SAMPLES]]
        dataset = _mapping(_mapping(folder.run.get("spec")).get("dataset"))
        facts = {key: dataset.get(key) for key in ("n", "seed", "truncation")}
        return {
            "title": "Samples",
            "pairs": _captioned(folder, pairs),
            "histograms": [],
            "qualities": [],
            "sampled": facts,
        }
    if not pairs and not histograms:
        if folder.store is None:
            raise _why(folder, "store", "there is no latent store")
        raise AbsentError("the store holds no reconstruction quality")
    shown_all = {"pairs": _captioned(folder, pairs), "histograms": histograms}
    return {**shown_all, "qualities": table, "sampled": None}


def _captioned(folder: RunFolder, uris: list[str]) -> list[dict[str, str]]:
    """Pictures with the row that each shows, where the evaluation tells it: its number, and in
    ``title`` its file or seed, and its class."""
    rows = report_text.pictured_rows(folder.evaluation, "samples")
    if len(rows) < len(uris):
        return [{"uri": uri, "row": f"sample {i + 1}", "title": ""} for i, uri in enumerate(uris)]
    titles = _titles(folder.index, rows)
    return [
        {"uri": uri, "row": f"row {row}", "title": title}
        for uri, row, title in zip(uris, rows, titles, strict=False)
    ]


def _titles(index: DatasetIndex | None, rows: list[int]) -> list[str]:
    """File or seed of each row, and its class."""
    if index is None or not all(0 <= row < index.n_rows for row in rows):
        return ["" for _ in rows]
    uris = index.uris
    titles = [uris[row].replace(SEED_UNIT, "seed ") for row in rows]
    labels = index.factor(LABEL) if LABEL in index.factor_names else None
    if isinstance(labels, tuple):
        codes, classes = labels
        named = [f", class {classes[codes[row]]}" if codes[row] >= 0 else "" for row in rows]
        titles = [title + name for title, name in zip(titles, named, strict=True)]
    return titles


# ---- what analyses show of their models -----------------------------------------------------


def _analyses(folder: RunFolder) -> Iterator[_Builder]:
    """Sections of every analysis that shows something: ours, and all others
    that the set has a model of."""
    held = [] if folder.directions is None else folder.directions.model_names()
    names = [*OWN, *(name for name in held if name not in OWN and name in ANALYSES)]
    for name in names:
        try:
            analysis = analysis_of(name)
        except PluginError as e:
            yield f"analysis-{name}", name, partial(_broken, str(e))
            continue
        if type(analysis).figures is not Analysis.figures:
            yield f"analysis-{name}", analysis.title, partial(_shown, analysis)


def _broken(why: str, folder: RunFolder) -> dict[str, Any]:
    raise AbsentError(why)


def _shown(analysis: Analysis[Any], folder: RunFolder) -> dict[str, Any]:
    asked = _asked(folder, analysis.name)
    if folder.directions is None:
        raise _why(folder, "directions", "there is no direction set") if asked else NotAskedError
    arrays, facts = folder.model(analysis.name)
    if not facts:
        if not asked:
            raise NotAskedError
        raise AbsentError(f"the direction set holds no model of {analysis.name!r}")
    summary = _mapping(folder.summary.get(analysis.name))
    try:
        return {"parts": drawn(analysis.figures(Model(arrays, facts, summary)))}
    except NotShownError as e:
        raise AbsentError(str(e)) from e
    except Exception as e:  # another package's, or a damaged model: the rest can be shown
        raise AbsentError(f"it cannot be drawn ({type(e).__name__}: {e})") from e


# ---- what evaluation measured ---------------------------------------------------------------


def _evaluated(build: Callable[[RunFolder], dict[str, Any]], key: str, what: str) -> Any:
    def section(folder: RunFolder) -> dict[str, Any]:
        if not folder.evaluation:
            raise _why(folder, "evaluation", "directions were not evaluated")
        if not _list(folder.evaluation.get(key)):
            raise AbsentError(f"the evaluation holds no {what}")
        return build(folder)

    return section


def _changes(folder: RunFolder) -> dict[str, Any]:
    found = matrix(folder)
    if not found["columns"]:
        raise AbsentError("no annotator measures what directions change")
    return found


def _compared(folder: RunFolder) -> dict[str, Any]:
    if not (_list(folder.evaluation.get("comparison")) or _asked(folder, "hosvd")):
        raise NotAskedError
    what = "comparison of HOSVD with mean difference"
    shown: dict[str, Any] = _evaluated(comparison, "comparison", what)(folder)
    return shown


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


_SECTIONS: tuple[_Builder, ...] = (
    ("inputs", "Inputs", _inputs),
    ("stages", "Stages and time", _stages),
    ("left-out", "Rows left out", _left_out),
    ("reconstruction", "Reconstruction", _reconstruction),
    ("directions", "Directions", _evaluated(direction_strips, "directions", "directions")),
    ("changes", "Effect and entanglement", _evaluated(_changes, "directions", "directions")),
    (
        "comparison",
        "HOSVD and mean difference",
        _compared,
    ),
)
