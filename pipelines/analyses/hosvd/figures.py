"""What a report shows of a tensor model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.analyses.base import Model
from pipelines.analyses.figures import Figure, Name, NotShownError, Text, Trajectories


def subspace_figures(model: Model) -> list[Figure]:
    """The levels of the expressions' mode in the first two coordinates."""
    mode, points, names = expression_mode(model.arrays, model.facts)
    if points.ndim != 2 or points.shape[0] < 3 or points.shape[1] < 2:
        raise NotShownError("the HOSVD has no mode beside the persons with at least three levels")
    groups = level_groups(names, len(points))
    if groups is None:
        raise NotShownError(f"the levels of the HOSVD's mode {mode!r} have no names")
    text = (
        f"The {len(points)} levels of {{mode}} in the two coordinates that the tensor model gives "
        "most weight. Markers grow with intensity."
    )
    return [Text(text, {"mode": Name(mode)}), Trajectories(points[:, :2], groups)]


def level_groups(names: Any, n_levels: int) -> list[tuple[str, float | None]] | None:
    """(group, intensity) of each level of a tensor model's mode, None where names do not fit.

    names : a list with one entry a level, each a text such as "anger/3" (separator '/', ':', '|',
    ',' or space) or a list [expression, intensity].
    """
    if not isinstance(names, list) or len(names) != n_levels:
        return None
    return [_group(name) for name in names]


def _group(name: Any) -> tuple[str, float | None]:
    parts = [str(p) for p in name] if isinstance(name, list | tuple) else [str(name)]
    if len(parts) == 1:
        found = re.fullmatch(r"(.+?)\s*[/:|, ]\s*([0-9]*\.?[0-9]+)", parts[0])
        parts = [found[1], found[2]] if found else parts
    try:
        return " ".join(parts[:-1]) or parts[0], float(parts[-1]) if len(parts) > 1 else None
    except ValueError:
        return " ".join(parts), None


def expression_mode(
    arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any]
) -> tuple[str, np.ndarray, Any]:
    """(name of the mode, coordinates of its levels (levels, n), names of the levels).

    The mode with "expression" in its name, else the first composite one, else the one with most
    levels; never the first mode (persons). Models may also hold one "expression_subspace".
    """
    if "expression_subspace" in arrays:
        return "expression", _floats(arrays["expression_subspace"]), attrs.get("levels")
    modes = [m if isinstance(m, list) else [m] for m in _list(attrs.get("modes"))]
    found = [i for i in range(1, len(modes)) if f"subspace{i}" in arrays]
    if not found:
        return "expression", np.empty((0, 0)), None
    chosen = max(
        found,
        key=lambda i: (
            any("expression" in str(name).lower() for name in modes[i]),
            len(modes[i]) > 1,
            len(arrays[f"subspace{i}"]),
        ),
    )
    levels = _list(attrs.get("levels"))
    names = _list(levels[chosen]) if chosen < len(levels) else []
    kept = arrays.get(f"kept{chosen}")
    if kept is not None and len(kept) and int(np.max(kept)) < len(names):
        names = [names[int(k)] for k in kept]
    mode = " \N{MULTIPLICATION SIGN} ".join(str(name) for name in modes[chosen])
    return mode, _floats(arrays[f"subspace{chosen}"]), names


def _floats(value: np.ndarray) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
