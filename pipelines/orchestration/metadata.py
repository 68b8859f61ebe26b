"""What Dagster shows of a part: counts, medians, facts, pictures and the log."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np

from pipelines.engine.stage_state import counts_of
from pipelines.folder.run_folder import RunFolder
from pipelines.runs.run import RunResult
from schemas.spec import RunSpec

#: Directions whose pictures are kept with an evaluation, and the side of one face in pixels.
SHOWN_DIRECTIONS = 12
CELL_PIXELS = 64


def describe_part(
    spec: RunSpec, name: str, result: RunResult, log: Sequence[str]
) -> dict[str, dg.MetadataValue[Any] | Any]:
    """Metadata of a part (or of "blocks", a range of them) that `result` has just brought up.

    log : lines that the run printed.
    """
    with RunFolder.open(result.path) as folder:
        stages = folder.run["stages"]
        stage = name.partition("/")[0]
        record = next((s for s in stages if s["name"] == stage), stages[-1])
        own = _DESCRIBED[stage](spec, name.partition("/")[2], folder, record["detail"])
        return {
            "seconds": float(record["seconds"]),
            "was up to date": bool(record["skipped"]),
            **own,
            "exit code": int(folder.run["exit_code"]),
            "log": dg.MetadataValue.md("```\n" + "\n".join(log).replace("```", "'''") + "\n```"),
            "folder": dg.MetadataValue.path(str(result.path.resolve())),
        }


def _index(spec: RunSpec, _: str, folder: RunFolder, detail: Mapping[str, Any]) -> dict[str, Any]:
    names = ("n_rows", "n_active", "added", "removed", "moved", "n_unreadable")
    found = {name.removeprefix("n_"): int(detail[name]) for name in names if name in detail}
    index = folder.index
    return {**found, "factors": ", ".join(index.factor_names) if index is not None else ""}


def _invert(spec: RunSpec, _: str, folder: RunFolder, detail: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"store": folder.run.get("store", ""), **_counts(detail["counts"])}
    for metric, told in folder.qualities().items():
        values = folder.quality(metric)
        if len(values) and metric not in folder.likenesses():  # those are an annotator's
            unit = f" ({told.unit})" if told.unit else ""
            found[f"median {told.title}{unit}"] = round(float(np.median(values)), 4)
    return {**found, "blocks made": int(detail["blocks_done"])}


def _annotate(
    spec: RunSpec, model: str, folder: RunFolder, detail: Mapping[str, Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if folder.store is not None:
        for stage in (model, f"{model}@render"):
            if stage in folder.store.stages():
                for name, value in _counts(counts_of(folder.store, stage)).items():
                    found[f"{stage.partition('@')[2] or 'original'}: {name}"] = value
    if model in folder.likenesses():
        values = folder.quality(model)
        if len(values):
            found["median cosine of original and render"] = round(float(np.median(values)), 4)
    return found


def _blocks(spec: RunSpec, _: str, folder: RunFolder, detail: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "blocks made": int(detail["blocks_done"]),
        "rows ok so far": int(folder.run["counts"]["ok"]),
        "rows still to make": int(folder.run["counts"]["pending"]),
    }


def _analyse(
    spec: RunSpec, name: str, folder: RunFolder, detail: Mapping[str, Any]
) -> dict[str, Any]:
    _, facts = folder.model(name)
    found: dict[str, Any] = {
        key: value
        for key, value in facts.items()
        if isinstance(value, bool | int | float | str) and key != "fingerprint"
    }
    mine = [d for d in folder.directions or () if d.provenance.get("analysis") == name]
    found["directions"] = len(mine)
    found["was up to date"] = bool(detail[name]["skipped"])
    found["seconds"] = float(detail[name]["seconds"])
    if mine:
        rows = [(d.name, d.space, f"{d.sd:.4g}") for d in mine]
        found["direction set"] = _table(("direction", "space", "sd"), rows)
    return found


def _evaluate(
    spec: RunSpec, _: str, folder: RunFolder, detail: Mapping[str, Any]
) -> dict[str, Any]:
    from pipelines.report.plots import picture_uri, tile

    effects = [e for e in folder.evaluation.get("directions", []) if isinstance(e, dict)]
    rows = []
    for effect in effects:
        change = effect["mean_change"].get(effect["target"])
        shown = "" if change is None else f"{change:+.3f}"
        rows.append((effect["name"], effect["target"] or "", shown))
    found: dict[str, Any] = {
        "samples": int(folder.evaluation.get("samples", 0)),
        "directions": len(effects),
        "effects": _table(("direction", "target", "mean change"), rows),
    }
    for name, value in folder.evaluation.get("reconstruction", {}).items():
        if value is not None:
            found[name.replace("_", " ")] = float(value)
    with_target = sorted(effects, key=lambda e: e["target"] is None)
    strips = []
    for effect in with_target[:SHOWN_DIRECTIONS]:
        images = folder.pictures(f"strips/{effect['name']}")
        if images is not None:
            picture = picture_uri(tile(images[:1], CELL_PIXELS))
            strips.append(f"{_plain(effect['name'])}\n\n![{_plain(effect['name'])}]({picture})")
    if strips:
        found["strips"] = dg.MetadataValue.md("\n\n".join(strips))
    return found


def _report(spec: RunSpec, _: str, folder: RunFolder, detail: Mapping[str, Any]) -> dict[str, Any]:
    page = (folder.path / "report.html").resolve()
    return {"page": dg.MetadataValue.url(page.as_uri()), "bytes": page.stat().st_size}


_DESCRIBED = {
    "index": _index,
    "invert": _invert,
    "annotate": _annotate,
    "analyse": _analyse,
    "evaluate": _evaluate,
    "report": _report,
    "blocks": _blocks,
}


def _counts(counts: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: int(counts[name]) for name in ("ok", "quarantined", "pending", "removed")}
    why = ", ".join(f"{name}: {n}" for name, n in counts["reasons"].items())
    return {**found, "reasons": why} if why else found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> dg.MetadataValue[Any]:
    lines = [head, ["---"] * len(head), *rows]
    return dg.MetadataValue.md(
        "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)
    )


def _plain(text: str) -> str:
    """Text that stays text in Markdown: names come from factor tables and file names."""
    escaped = html.escape(text, quote=False)
    return "".join(f"\\{c}" if c in "|[]()*_`!\\#~" else c for c in escaped)
