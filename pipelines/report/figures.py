"""Drawing what an analysis shows of its model: numbers as text, figures as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from pipelines.analyses.figures import (
    Bar,
    Count,
    Curve,
    Figure,
    Fixed,
    Heading,
    Name,
    Number,
    Percent,
    Pictures,
    Shape,
    ShapeChanges,
    Shares,
    Table,
    Text,
    Trajectories,
    Value,
)
from pipelines.report import plots, shape_plots, text

WIDTH = 256
"""Largest side of a picture, in pixels."""


def written(value: Value) -> str:
    """A value as text."""
    match value:
        case Count(number):
            return text.count(number)
        case Number(number, digits):
            return text.number(number, digits)
        case Fixed(number, places):
            return text.fixed(number, places)
        case Percent(number, places):
            return text.percent(number, places)
        case Name(name):
            return text.plain(name)
    return value


def drawn(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """What the page's template shows, in order; ``kind`` names the part of the template."""
    parts = [part for figure in figures for part in _draw(figure)]
    for i, part in enumerate(parts):
        if part["kind"] == "text" and i == 0:
            part["kind"] = "lead"
    return parts


@singledispatch
def _draw(figure: Any) -> list[dict[str, Any]]:
    raise TypeError(f"a report cannot draw {type(figure).__name__!r}")


@_draw.register
def _(figure: Text) -> list[dict[str, Any]]:
    values = {name: written(value) for name, value in figure.values.items()}
    return [{"kind": "text", "text": figure.text.format(**values)}]


@_draw.register
def _(figure: Heading) -> list[dict[str, Any]]:
    return [{"kind": "heading", "text": figure.text}]


@_draw.register
def _(figure: Table) -> list[dict[str, Any]]:
    rows = [[_cell(cell) for cell in row] for row in figure.rows]
    return [{"kind": "table", "columns": list(figure.columns), "rows": rows}]


def _cell(cell: Value | Bar) -> dict[str, Any]:
    if isinstance(cell, Bar):
        share = cell.share if text.is_number(cell.share) else None
        return {"bar": True, "share": None if share is None else 100 * float(share)}
    number = not isinstance(cell, str | Name)
    return {"bar": False, "text": written(cell), "number": number}


@_draw.register
def _(figure: Shares) -> list[dict[str, Any]]:
    return [_figures([(part, "") for part in plots.spectrum(figure.values)])]


@_draw.register
def _(figure: Curve) -> list[dict[str, Any]]:
    return [_figures([(plots.curve(figure), "")])]


@_draw.register
def _(figure: Trajectories) -> list[dict[str, Any]]:
    return [_figures([(plots.subspace(figure.points, figure.groups), "")], "one")]


@_draw.register
def _(figure: Shape) -> list[dict[str, Any]]:
    views = [(view, name) for name, view in shape_plots.shape_views(figure.points)]
    return [_figures(views, "three")]


@_draw.register
def _(figure: ShapeChanges) -> list[dict[str, Any]]:
    views = [
        (shape_plots.basis_views(figure.points, change, k + 1), caption)
        for k, (change, caption) in enumerate(zip(figure.changes, figure.captions, strict=True))
    ]
    keys = [("muted", "mean"), ("s0", figure.minus), ("s1", figure.plus)]
    return [{"kind": "keys", "keys": keys, "note": figure.note}, _figures(views)]


@_draw.register
def _(figure: Pictures) -> list[dict[str, Any]]:
    captions = list(figure.captions) or [""] * len(figure.images)
    tiles = [plots.tile(np.asarray(image)[None, None], WIDTH) for image in figure.images]
    pictures = [
        (plots.picture_uri(tile), caption) for tile, caption in zip(tiles, captions, strict=True)
    ]
    return [{"kind": "pictures", "pictures": pictures}]


def _figures(parts: Sequence[tuple[Any, str]], layout: str = "") -> dict[str, Any]:
    return {"kind": "figures", "layout": layout, "figures": list(parts)}
