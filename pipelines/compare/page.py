"""The page of a comparison of two runs: verdicts, geometry, strips side by side.

Self-contained and escaped like the report of a run (`pipelines.report.page`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.compare.texts import error_text, row_of
from pipelines.compare.trial import REFUSED, SURVIVES, TRIALS
from pipelines.evaluation.strips import strength_label
from pipelines.report import plots
from pipelines.report import text as report_text
from pipelines.report.directions import method_name
from pipelines.report.page import page_environment
from pipelines.report.text import fixed, percent, plain

#: All strips together stay below this many characters of data URIs.
STRIP_BUDGET = 8_000_000
#: (JPEG quality, most rows, largest cell in pixels), tried in order until the strips fit.
_LADDER = ((88, 3, 96), (82, 3, 72), (78, 2, 64), (72, 1, 64), (60, 1, 48))
_TONES = {SURVIVES: "good", REFUSED: "bad"}
_ORDER = {REFUSED: 0, SURVIVES: 2}
_ERRORS = {"identity": "as they are", "rotation": "rotated", "linear": "linear map"}


def render_drift(result: Mapping[str, Any], strips: Mapping[str, np.ndarray]) -> str:
    """The page as text, from what `pipelines.compare.diff.diff` returns. The same input, the same
    bytes."""
    uris = _uris(strips)
    entries = sorted(
        enumerate(result["directions"]), key=lambda e: (_ORDER.get(e[1]["verdict"], 1), e[0])
    )
    template = page_environment().get_template("drift.html.j2")
    html = template.render(
        result=result,
        title=f"{result['old']['name']} to {result['new']['name']}",
        tiles=_tiles(result),
        spaces=_spaces(result["spaces"]),
        sides=[_side(result[name]) for name in ("old", "new")],
        groups=[_group(g) for g in result["groups"]],
        cards=[_card(i, e, uris, result["rule"]["strength"]) for i, e in entries],
    )
    return html.lstrip()


def _tiles(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    agreed, of = result["confirmed"]
    unknown = len(result["directions"]) - result["survive"] - result["must_not_be_reused"]
    tiles = [
        ("survive", str(result["survive"])),
        ("must not be reused", str(result["must_not_be_reused"])),
    ]
    if unknown:
        tiles.append(("not measured", str(unknown)))
    tiles.append(("confirmed on held-out samples", f"{agreed} of {of}"))
    tiles.append(("images in both runs", report_text.count(result["spaces"]["images"])))
    return tiles


def _side(side: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **side,
        "code_shape": " × ".join(str(n) for n in side["code_shape"]),
        "images": report_text.count(side["images"]),
    }


def _spaces(spaces: Mapping[str, Any]) -> dict[str, Any]:
    errors = spaces.get("errors") or {}
    largest = max([1.0, *errors.values()])
    rows = [
        {
            "name": _ERRORS[kind],
            "error": error_text(error),
            "share": 100 * min(1.0, error / largest),
            "chosen": kind == spaces["relation"],
        }
        for kind, error in errors.items()
    ]
    return {"text": spaces["text"], "rows": rows}


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    cells = []
    for key in ("angles", "angles_mapped"):
        angles = group.get(key)
        if angles:
            cells += [fixed(float(np.median(angles)), 1) + "°", fixed(angles[-1], 1) + "°"]
        else:
            cells += [report_text.DASH] * 2
    return {"name": method_name(group["method"]), "old": group["old"], "new": group["new"],
            "cells": cells}  # fmt: skip


def _card(
    number: int, entry: Mapping[str, Any], uris: Mapping[str, dict[str, Any]], strength: float
) -> dict[str, Any]:
    effects = entry.get("effects", {})
    pictures = []
    for trial, label in TRIALS.items():
        uri = uris.get(f"{entry['name']}/{trial}")
        if uri is not None:
            effect = _effect(effects.get(trial), entry)
            pictures.append({**uri, "label": label, "effect": effect})
    held = entry.get("held_out")
    side = entry.get("side_effect")
    facts = [("method", method_name(entry["method"]))]
    if held is not None:
        text = "agree" if held["agrees"] else "disagree"
        facts.append(("held-out samples", f"{text} ({percent(held['share'], 0)})"))
    if side is not None:
        change = fixed(side["change"], 2, sign=True)
        facts.append(("most entangled with", f"{plain(side['attribute'])} {change}"))
    return {
        "anchor": f"direction-{number + 1}",
        "name": entry["name"],
        "verdict": entry["verdict"],
        "tone": _TONES.get(entry["verdict"], "fair"),
        "reason": entry["reason"],
        "measure": plain(entry["measure"]) if entry.get("measure") else "",
        "cells": row_of(entry)[2:],
        "facts": facts,
        "pictures": pictures,
        "ticks": [strength_label(s) for s in (-strength, 0, strength)],
    }


def _effect(effect: Mapping[str, float] | None, entry: Mapping[str, Any]) -> str:
    if effect is None:
        return ""
    places, unit = (1, "°") if entry.get("kind") == "pose" else (2, "")
    mean = fixed(effect["mean"], places, sign=True)
    return f"{plain(entry['measure'])} {mean}{unit} ± {fixed(effect['standard_error'], places)}"


def _uris(strips: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Strips as data URIs, smaller and fewer rows when there are many."""
    found: dict[str, dict[str, Any]] = {}
    for quality, most_rows, side in _LADDER:
        found = {name: _uri(images[:most_rows], quality, side) for name, images in strips.items()}
        if sum(len(f["uri"]) for f in found.values()) <= STRIP_BUDGET:
            break
    return found


def _uri(images: np.ndarray, quality: int, side: int) -> dict[str, Any]:
    rows, columns, height, width = images.shape[:4]
    return {
        "uri": plots.picture_uri(plots.tile(images, side), quality),
        "rows": rows,
        "columns": columns,
        "ratio": f"{columns * width} / {rows * height}",
    }
