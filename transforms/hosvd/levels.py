"""What the levels of a mode tell: the origin of expression trajectories, and what a row shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schemas.errors import UsageError
from transforms.hosvd.model import HOSVD


def trajectory_origin(trajectories: Sequence[np.ndarray]) -> np.ndarray:
    """Point nearest to the lines through several trajectories, (d,): the "point of apathy".

    trajectories : each (k >= 2, d), levels of one expression by rising intensity, in the
        coordinates of the expression subspace (Grasshof et al. 2017; thesis section 3.2)
    """
    if len(trajectories) < 2:
        raise UsageError(f"{len(trajectories)!r} trajectory given: at least 2 are needed")
    size = np.shape(trajectories[0])[1]
    normal, right = np.zeros((size, size)), np.zeros(size)
    for points in trajectories:
        if len(points) < 2:
            raise UsageError(f"a trajectory has {len(points)!r} point: at least 2 are needed")
        centre = np.mean(points, axis=0)
        line = np.linalg.svd(points - centre)[2][0]
        away = np.eye(size) - np.outer(line, line)
        normal += away
        right += away @ centre
    return np.linalg.lstsq(normal, right, rcond=None)[0]


def apathy_parameters(
    model: HOSVD, mode: int, trajectories: Sequence[Sequence[int]], n_dimensions: int = 3
) -> np.ndarray:
    """Parameters of a mode at the origin of its trajectories, float64 (J_mode,).

    trajectories : for each expression, its levels of the mode (two intensities or more)
    n_dimensions : of the mode's subspace in which the lines are drawn (thesis figure 3.5: 2 or 3)

    `HOSVD.code` with these and the other modes' `mean_parameters` is the apathetic face, which is
    neither the neutral nor the mean one (Paper I, figure 7).
    """
    points = model.subspace_coordinates(mode, n_dimensions)
    origin = trajectory_origin([points[list(levels)] for levels in trajectories])
    singular = np.sqrt(model.energies[mode][: len(origin)])
    parameters = np.zeros(model.factors[mode].shape[1])
    parameters[: len(origin)] = np.divide(
        origin, singular, out=np.zeros_like(origin), where=singular > 0
    )
    return parameters


def classify_levels(
    model: HOSVD, parameters: np.ndarray, mode: int, groups: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Which level of a mode rows show, from their recovered parameters (m, J_mode).

    groups : a class for each level (the expression of [expression, intensity]); default the level

    A row's score for a level is the cosine between the two parameter vectors, in units of the
    mode's singular values: a row's modes share one free scale, which a cosine does not see
    (Grasshof et al. 2017; thesis section 3.2). Recover the parameters with `sum_to_one`: without
    it the part that all levels share is free, and levels are told apart badly.

    Returns (class int64 (m,), the largest score of each class float64 (m, classes)).
    """
    singular = np.sqrt(model.energies[mode][: model.factors[mode].shape[1]])
    rows = np.asarray(parameters, np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(singular):
        raise UsageError(
            f"parameters have shape {rows.shape!r} but mode {mode!r} has rank "
            f"{len(singular)!r}: give the parameters of this mode"
        )
    known, rows = model.factors[mode] * singular, rows * singular
    lengths = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(known, axis=1)
    cosines = rows @ known.T / np.where(lengths > 0, lengths, 1.0)
    labels = np.arange(len(known)) if groups is None else np.asarray(groups)
    if len(labels) != len(known):
        raise UsageError(f"{len(labels)!r} groups for {len(known)!r} levels: give one a level")
    classes, inverse = np.unique(labels, return_inverse=True)
    scores = np.stack([cosines[:, inverse == c].max(axis=1) for c in range(len(classes))], axis=1)
    return classes[scores.argmax(axis=1)], scores
