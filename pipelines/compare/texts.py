"""A comparison in words and cells, for the console and for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.report.text import DASH, fixed, percent, plain


def error_text(error: float) -> str:
    """A map's error; moments do not know it better than this."""
    return "below 1e-6" if error < 1e-6 else f"{error:.3g}"


def row_of(entry: Mapping[str, Any]) -> list[str]:
    """Cells of a direction: name, measure, cosines, effects, share."""
    effects = entry.get("effects", {})
    degrees = entry.get("kind") == "pose"
    means = [
        fixed(effects.get(trial, {}).get("mean"), 1 if degrees else 2, sign=True)
        for trial in ("old", "reused", "new")
    ]
    return [
        entry["name"],
        plain(entry.get("measure") or DASH),
        fixed(entry.get("cosine"), 3),
        fixed(entry.get("cosine_mapped"), 3),
        *means,
        percent(entry.get("share"), 0),
    ]
