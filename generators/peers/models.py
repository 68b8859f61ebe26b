"""Fitted models in other projects' files that are more than directions."""

from __future__ import annotations

import os

import numpy as np

from generators.unpickle.plain import read_foreign
from schemas.errors import InputError


def read_rankonegan(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Shape model of a rankonegan ``results/*.pt``: rigid (3, L), basis (K, 3, L), and
    coefficients (N, K) where the file has them, in that project's own gauge.

    Raises InputError when the file is something else.
    """
    value = read_foreign(path)
    shapes = value.get("B") if isinstance(value, dict) else None
    if not isinstance(shapes, np.ndarray) or shapes.ndim != 3 or shapes.shape[1] != 3:
        raise InputError(f"{os.fspath(path)!r} has no shapes 'B' of (K + 1, 3, L)")
    found = {"rigid": shapes[0], "basis": shapes[1:]}
    if isinstance(value.get("alphas"), np.ndarray):
        found["coefficients"] = value["alphas"]
    return found


def read_styleclip(
    fs3: str | os.PathLike[str], s_mean_std: str | os.PathLike[str]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """StyleCLIP's global directions: (CLIP change of every S channel (channels, d), standard
    deviations of every layer's channels, list of (c,)); see
    `transforms.directions.style_channels.styleclip`.

    Raises InputError when the files are something else.
    """
    relevance = read_foreign(fs3)
    if not isinstance(relevance, np.ndarray) or relevance.ndim != 2:
        raise InputError(f"{os.fspath(fs3)!r} is not an array (channels, clip dimension)")
    pair = read_foreign(s_mean_std)
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[1], list):
        raise InputError(f"{os.fspath(s_mean_std)!r} is not a pair of lists, means and deviations")
    return relevance, [np.asarray(layer, np.float64).ravel() for layer in pair[1]]
