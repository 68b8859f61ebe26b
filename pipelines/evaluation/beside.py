"""Directions of one level by two methods, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from schemas.directions.direction import Direction


def compare(directions: Mapping[str, Direction], ranks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """HOSVD beside mean difference for every level that has both: their cosine."""
    rows = []
    means = {_level_of(d): d for d in directions.values() if d.method == "mean_difference"}
    for name, direction in directions.items():
        if direction.method != "hosvd":
            continue
        other = directions.get("mean." + name.removeprefix("hosvd."))
        if other is None and direction.provenance.get("level") is not None:
            other = means.get(_level_of(direction))  # names of odd texts need not be alike
        if other is not None and other.space == direction.space:
            rows.append(
                {
                    "name": name.removeprefix("hosvd."),
                    "hosvd": name,
                    "mean_difference": other.name,
                    "cosine": float((direction.vector * other.vector).sum(dtype=np.float64)),
                    "ranks": dict(ranks),
                }
            )
    return rows


def _level_of(direction: Direction) -> tuple[Any, ...]:
    return tuple(direction.provenance.get(key) for key in ("factor", "level", "baseline"))
