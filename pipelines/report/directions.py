"""Sections of the report about directions: strips with measured changes, matrix, comparisons."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.analyses.catalog import ANALYSES
from pipelines.analyses.measured import NAMED
from pipelines.evaluation.strips import strength_label
from pipelines.folder.run_folder import RunFolder
from pipelines.report import plots
from pipelines.report import text as report_text
from pipelines.report.text import is_number

#: All strips together stay below this many characters of data URIs.
STRIP_BUDGET = 5_000_000
#: (JPEG quality, most rows, largest cell in pixels), tried in order until the strips fit.
_LADDER = ((90, 4, 128), (84, 4, 96), (80, 3, 96), (78, 2, 80), (72, 2, 64), (60, 1, 48))
MAX_ATTRIBUTES = 12
FOREIGN = {"imported": "Imported", "transferred": "Transferred from another model"}


@functools.cache
def _labels() -> dict[str, str]:
    return FOREIGN | {k: v for analysis in ANALYSES for k, v in analysis.labels.items()}


def method_name(method: Any) -> str:
    """How a method is written for people, as its analysis says."""
    return _labels().get(str(method), report_text.plain(method))


def _entries(folder: RunFolder) -> list[dict[str, Any]]:
    found = [e for e in folder.evaluation.get("directions", []) if isinstance(e, dict)]
    return [e for e in found if isinstance(e.get("name"), str)]


def _strengths(folder: RunFolder) -> list[float]:
    return [float(s) for s in folder.evaluation.get("strengths", []) if is_number(s)]


def _series(values: Any, n: int) -> np.ndarray:
    """A list from JSON as float64 (n,), NaN where it holds no number or has another length."""
    if not isinstance(values, list) or len(values) != n:
        return np.full(n, np.nan)
    return np.array([float(v) if is_number(v) else np.nan for v in values])


def _origin(strengths: list[float]) -> int:
    return int(np.argmin(np.abs(strengths))) if strengths else 0


class _Heat:
    """Colours of cells: the share of the largest change anywhere in the evaluation."""

    def __init__(self, largest: float) -> None:
        self.largest = largest

    def cell(self, change: float, text: str) -> dict[str, Any]:
        """text, and how strongly (0 to 1) and in which direction the cell is coloured."""
        share = abs(change) / self.largest if self.largest > 0 and np.isfinite(change) else 0.0
        return {"text": text, "up": bool(change > 0), "share": round(float(min(1.0, share)), 3)}


_COSINE = _Heat(1.0)


def _cosine_of(annotator: str) -> str:
    """What the cosine of an annotator's embeddings to the picture before the edit is called."""
    return f"{report_text.plain(annotator)} kept, cosine"


@dataclass(frozen=True)
class _Scales:
    """Colour scales: one of all scores, one of all angles (degrees), one of each quantity."""

    scores: _Heat
    pose: _Heat
    quantities: Mapping[str, _Heat]


def _scales(folder: RunFolder) -> _Scales:
    strengths = _strengths(folder)
    n, origin = len(strengths), _origin(strengths)
    largest: dict[tuple[str, str], float] = {}
    for entry in _entries(folder):
        for role in NAMED:
            for name, values in _mapping(entry.get(role)).items():
                series = _series(values, n)
                if n and np.isfinite(series).any():
                    change = float(np.nanmax(np.abs(series - series[origin]), initial=0.0))
                    key = role, name if role == "quantities" else ""
                    largest[key] = max(largest.get(key, 0.0), change)
    scores, pose = (_Heat(largest.get((role, ""), 0.0)) for role in ("scores", "pose"))
    each = {name: _Heat(most) for (role, name), most in largest.items() if role == "quantities"}
    return _Scales(scores, pose, each)


def direction_strips(folder: RunFolder) -> dict[str, Any]:
    """A card for every evaluated direction, by method: strip, measured scores, key figures."""
    entries, strengths = _entries(folder), _strengths(folder)
    unit = str(folder.evaluation.get("unit", "sd"))
    strips = _strip_uris(folder, [e["name"] for e in entries])
    scales = _scales(folder)
    groups: dict[str, list[dict[str, Any]]] = {}
    for i, entry in enumerate(entries):
        card = {
            "anchor": f"direction-{i + 1}",
            "name": entry["name"],
            "strip": strips.get(entry["name"]),
            "facts": _facts(entry, strengths, unit)
            + _prediction(entry["name"], folder)
            + _measured(entry, folder),
            "scores": _score_rows(folder, entry, scales),
        }
        groups.setdefault(method_name(entry.get("method", "")), []).append(card)
    known = {e["name"] for e in entries}
    others = [d for d in folder.directions or () if d.name not in known]
    return {
        "groups": list(groups.items()),
        "n": len(entries),
        "samples": report_text.count(folder.evaluation.get("samples")),
        "prior": folder.evaluation.get("source") == "prior",
        "rows": report_text.pictured_rows(folder.evaluation, "strips")[: _most(strips)],
        "strengths": [strength_label(s, unit="") for s in strengths],
        "unit": unit,
        "scored": any(card["scores"] for cards in groups.values() for card in cards),
        "not_evaluated": [d.name for d in others],
        "with_strips": bool(strips),
        "without_strips": folder.absent.get("pictures", "the evaluation holds no images"),
    }


def _most(strips: dict[str, dict[str, Any]]) -> int:
    """Rows of the tallest strip."""
    return max((int(strip["rows"]) for strip in strips.values()), default=0)


def _strip_uris(folder: RunFolder, names: list[str]) -> dict[str, dict[str, Any]]:
    """Strip pictures as data URIs, smaller and fewer rows when there are many directions."""
    wanted = _mapping(_mapping(folder.run.get("spec")).get("report")).get("strip_rows")
    wanted = int(wanted) if is_number(wanted) and wanted >= 1 else 4
    found: dict[str, dict[str, Any]] = {}
    for quality, most_rows, side in _LADDER:
        found, total = {}, 0
        for name in names:
            images = folder.pictures(f"strips/{name}")
            if images is None or images.ndim != 5:
                continue
            images = images[: min(wanted, most_rows)]
            uri = plots.picture_uri(plots.tile(images, side), quality)
            rows, columns, height, width = images.shape[:4]
            found[name] = {
                "uri": uri,
                "rows": rows,
                "columns": columns,
                "ratio": f"{columns * width} / {rows * height}",
            }
            total += len(uri)
            if total > STRIP_BUDGET:
                break
        else:
            return found
    return found


def _facts(entry: dict[str, Any], strengths: list[float], unit: str) -> list[tuple[str, str]]:
    facts = []
    last = strength_label(strengths[-1], unit) if strengths else ""
    if entry.get("target"):
        facts.append(("target", report_text.plain(entry["target"])))
    if is_number(entry.get("rise_fraction")):
        facts.append((f"samples that rise at {last}", report_text.percent(entry["rise_fraction"])))
    if is_number(entry.get("rise_fraction_of_possible")):
        share = report_text.percent(entry["rise_fraction_of_possible"])
        facts.append(("of those that can rise", share))
    target_change = _mapping(entry.get("mean_change")).get(entry.get("target"))
    if is_number(target_change):
        facts.append(("mean change", report_text.fixed(target_change, 2, sign=True)))
    other = _mapping(entry.get("largest_other"))
    if other.get("attribute") is not None and is_number(other.get("change")):
        change = report_text.fixed(other["change"], 2, sign=True)
        label = "most entangled with" if entry.get("target") else "largest change"
        facts.append((label, f"{report_text.plain(other['attribute'])} {change}"))
    for name, value in _mapping(entry.get("spearman")).items():
        if is_number(value) and name == entry.get("target"):
            facts.append(("Spearman correlation", report_text.fixed(value, 3)))
    facts.append(("sd", report_text.number(entry.get("sd"))))
    layers = entry.get("layers")
    if isinstance(layers, list):
        facts.append(("layers", ", ".join(str(layer) for layer in layers)))
    facts.append(("space", str(entry.get("space", ""))))
    return facts


def _prediction(name: str, folder: RunFolder) -> list[tuple[str, str]]:
    """How well codes predict a regression's target, on rows that the fit has not seen."""
    directions = folder.directions
    known = directions is not None and name in directions
    r2 = directions[name].quality.get("held_out_r2") if directions is not None and known else None
    return [("R² on held-out rows", report_text.fixed(r2, 3))] if is_number(r2) else []


def _measured(entry: dict[str, Any], folder: RunFolder) -> list[tuple[str, str]]:
    """How many samples the changes rest on, where an annotator could not measure all of them."""
    pairs = _mapping(entry.get("pairs"))
    of = folder.evaluation.get("samples")
    target = entry.get("target")
    counts = [pairs[target]] if target in pairs else list(pairs.values())
    least = min((n for n in counts if is_number(n)), default=of)
    if not is_number(of) or not is_number(least) or least >= of:
        return []
    return [("measured in", f"{report_text.count(least)} of {report_text.count(of)} samples")]


def _score_rows(folder: RunFolder, entry: dict[str, Any], scales: _Scales) -> list[dict[str, Any]]:
    """Rows of the table beside a strip: an attribute's mean at every strength."""
    strengths = _strengths(folder)
    n, origin, target = len(strengths), _origin(strengths), entry.get("target")
    rows: list[dict[str, Any]] = []

    def row(name: str, cells: list[dict[str, Any]], size: float = 0.0) -> dict[str, Any]:
        shown = report_text.plain(name)
        return {"name": shown, "target": name == target, "cells": cells, "size": size}

    for name, values in _mapping(entry.get("scores")).items():
        series = _series(values, n)
        if np.isfinite(series).any():
            change = series - series[origin]
            cells = [
                scales.scores.cell(c, report_text.fixed(float(v)))
                for c, v in zip(change, series, strict=True)
            ]
            rows.append(row(name, cells, float(np.nanmax(np.abs(change), initial=0.0))))
    left = 0
    if len(rows) > MAX_ATTRIBUTES:
        ranked = sorted(rows, key=lambda row: (not row["target"], -row["size"]))[:MAX_ATTRIBUTES]
        left = len(rows) - len(ranked)
        rows = [row for row in rows if row in ranked]
    for name, values in _mapping(entry.get("pose")).items():
        series = _series(values, n)
        if (name == "yaw" or name == target) and np.isfinite(series).any():
            cells = [
                scales.pose.cell(c, report_text.fixed(float(v), 1 if abs(v) < 9.95 else 0) + "°")
                for c, v in zip(series - series[origin], series, strict=True)
            ]
            rows.append(row(name, cells))
    for name, values in _mapping(entry.get("quantities")).items():
        series = _series(values, n)
        if np.isfinite(series).any():
            cells = [
                scales.quantities[name].cell(c, report_text.number(float(v)))
                for c, v in zip(series - series[origin], series, strict=True)
            ]
            rows.append(row(name, cells))
    for name, told in _mapping(entry.get("likeness")).items():
        series = _series(_mapping(told).get("mean"), n)
        if np.isfinite(series).any():
            cells = [_COSINE.cell(v - 1, report_text.fixed(float(v))) for v in series]
            rows.append({"name": _cosine_of(name), "target": False, "cells": cells, "size": 0.0})
    if left:
        rows[-1]["note"] = f"{left} attributes with smaller changes are in the table below"
    return rows


def matrix(folder: RunFolder) -> dict[str, Any]:
    """Directions x attributes: the mean change at the largest strength, as a heat map."""
    entries, strengths = _entries(folder), _strengths(folder)
    attributes = [str(a) for a in folder.evaluation.get("attributes", [])]
    pose = [str(p) for p in folder.evaluation.get("pose", [])]
    quantities = [str(q) for q in folder.evaluation.get("quantities", [])]
    likeness = [str(name) for name in folder.evaluation.get("likeness", [])]
    scales = _scales(folder)
    n, origin = len(strengths), _origin(strengths)
    rows = []
    for i, entry in enumerate(entries):
        cells = []
        for name in attributes:
            change = _mapping(entry.get("mean_change")).get(name)
            if is_number(change):
                cell = scales.scores.cell(float(change), report_text.fixed(change, 2, sign=True))
            else:
                cell = scales.scores.cell(0.0, report_text.DASH)
            cells.append({**cell, "target": name == entry.get("target")})
        for name in pose:
            series = _series(_mapping(entry.get("pose")).get(name), n)
            change = float(series[-1] - series[origin]) if n else float("nan")
            if name in _mapping(entry.get("pose_change")):  # of samples measured at both ends
                told = entry["pose_change"][name]
                change = float(told) if is_number(told) else float("nan")
            text = report_text.fixed(change, 1, sign=True)
            cells.append({**scales.pose.cell(change, text), "target": name == entry.get("target")})
        for name in quantities:
            told = _mapping(entry.get("quantities_change")).get(name)
            if name in scales.quantities and is_number(told):
                text = ("+" if told > 0 else "") + report_text.number(float(told))
                cell = scales.quantities[name].cell(float(told), text)
            else:
                cell = scales.scores.cell(0.0, report_text.DASH)
            cells.append({**cell, "target": name == entry.get("target")})
        for name in likeness:
            told = _mapping(_mapping(entry.get("likeness")).get(name)).get("mean")
            last = float(_series(told, n)[-1]) if n else float("nan")
            cells.append({**_COSINE.cell(last - 1, report_text.fixed(last)), "target": False})
        rows.append({"name": entry["name"], "anchor": f"direction-{i + 1}", "cells": cells})
    return {
        "columns": [report_text.plain(a) for a in attributes]
        + [f"{p}, °" for p in pose]
        + [report_text.plain(q) for q in quantities]
        + [_cosine_of(name) for name in likeness],
        "rows": rows,
        "strength": strength_label(strengths[-1], str(folder.evaluation.get("unit", "sd")))
        if strengths
        else "",
    }


def comparison(folder: RunFolder) -> dict[str, Any]:
    """HOSVD beside the mean difference for each level: ranks, cosine, share of rises."""
    by_name = {e["name"]: e for e in _entries(folder)}
    rows = []
    for entry in folder.evaluation["comparison"]:
        if not isinstance(entry, dict):
            continue
        cosine = entry.get("cosine")
        sides = [_mapping(by_name.get(str(entry.get(k)))) for k in ("hosvd", "mean_difference")]
        rows.append(
            {
                "name": report_text.plain(entry.get("name", "")),
                "ranks": [(report_text.plain(k), v) for k, v in _ranks(entry.get("ranks"))],
                "cosine": report_text.fixed(cosine, 4),
                "share": 100 * max(0.0, float(cosine)) if is_number(cosine) else 0.0,
                "rises": [report_text.percent(side.get("rise_fraction")) for side in sides],
                "changes": [
                    report_text.fixed(
                        _mapping(side.get("mean_change")).get(side.get("target")), 2, sign=True
                    )
                    for side in sides
                ],
            }
        )
    shared = [row["ranks"] for row in rows]
    return {
        "rows": rows,
        "ranks": shared[0] if shared and shared.count(shared[0]) == len(shared) else None,
    }


def _ranks(ranks: Any) -> list[tuple[str, str]]:
    if isinstance(ranks, dict):
        return [(str(k), str(v)) for k, v in ranks.items()]
    if isinstance(ranks, list):
        return [(f"mode {i + 1}", str(v)) for i, v in enumerate(ranks)]
    return []


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
