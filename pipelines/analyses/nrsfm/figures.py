"""What a report shows of a model of landmarks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.analyses.base import Model
from pipelines.analyses.figures import (
    Bar,
    Count,
    Figure,
    Heading,
    NotShownError,
    Number,
    Shape,
    ShapeChanges,
    Table,
    Text,
)
from schemas.landmark_schemes import scheme_of_count

SHOWN_BASIS = 4
BASIS_SHARE = 0.08
"""Without fitted coefficients a basis shape is drawn at this share of the rigid shape's size."""

_ERRORS = (
    {
        "relative_error": "Relative 3D error after similarity alignment",
        "rigid_error": "The same, of the rigid shape alone",
    },
    {"reprojection": "Relative re-projection error"},
    {
        "residual": "Re-projection error, root mean square in pixels",
        "residual_rigid": "The same, of the rigid shape alone",
    },
    {"noise": "Noise estimate, pixels"},
)
"""Groups of errors that are of one unit, so that their bars can be compared."""


def shape_figures(model: Model) -> list[Figure]:
    """The rigid shape from three sides, what the basis shapes do, and errors.

    Errors against known 3D truth may stand in the run's summary.
    """
    arrays, facts = model.arrays, model.facts
    rigid = _floats(arrays.get("mean_shape", arrays.get("rigid", np.empty(0))))
    if rigid.ndim != 2 or rigid.shape[0] != 3 or not np.isfinite(rigid).all():
        raise NotShownError("the NRSfM model has no rigid shape")
    rigid = rigid - rigid.mean(axis=1, keepdims=True)
    size = float(np.sqrt((rigid**2).sum(axis=0).mean()))
    if size == 0:
        raise NotShownError("the NRSfM model's rigid shape is a single point")
    frame, mirrored = face_frame(rigid)
    shape = frame @ rigid / size
    found: list[Figure] = [_lead(rigid.shape[1], facts, mirrored), Shape(shape)]
    basis = _floats(arrays.get("basis", np.empty((0, 3, 0))))
    if len(basis) and basis.ndim == 3 and basis.shape[1:] == rigid.shape:
        if np.isfinite(basis).all():
            found += [Heading("Basis shapes"), _changes(shape, frame, size, basis, arrays, facts)]
    errors = _errors(facts, model.summary)
    return [*found, Heading("Errors"), errors] if errors.rows else found


def _lead(n_points: int, facts: Mapping[str, Any], mirrored: bool) -> Text:
    frames = facts.get("n_frames", facts.get("frames"))
    over = " over {frames} frames" if frames is not None else ""
    text = f"{n_points} landmarks from non-rigid structure from motion{over}, turned to face the "
    text += "viewer; farther points are fainter."
    if mirrored:
        text += " Depth, which a factorisation knows only up to its sign, is reversed for display."
    return Text(text, {"frames": Count(frames)})


def _changes(
    shape: np.ndarray,
    frame: np.ndarray,
    size: float,
    basis: np.ndarray,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
) -> ShapeChanges:
    spread = coefficient_spread(arrays, facts, len(basis))
    changes = []
    for k, vector in enumerate(basis[:SHOWN_BASIS]):
        length = float(np.sqrt((vector**2).sum(axis=0).mean()))
        amount = 2 * spread[k] if spread is not None else 0.0
        if not amount and length:
            amount = BASIS_SHARE * size / length
        changes.append(frame @ vector * amount / size)
    captions = [f"basis shape {k + 1} of {len(basis)}" for k in range(len(changes))]
    if spread is not None:
        return ShapeChanges(shape, np.stack(changes), captions, "\N{MINUS SIGN}2 sd", "+2 sd")
    note = f"each drawn at {100 * BASIS_SHARE:.0f}\N{NARROW NO-BREAK SPACE}% of the shape's size"
    return ShapeChanges(shape, np.stack(changes), captions, note=note)


def coefficient_spread(
    arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any], n_basis: int
) -> np.ndarray | None:
    """Standard deviation of each basis shape's coefficients over frames, None when not stored.

    They stand in "coefficients" (F, K), or in the columns "alpha0", "alpha1", ... of "parameters".
    """
    coefficients = _floats(arrays.get("coefficients", np.empty(0)))
    names, parameters = attrs.get("parameter_names"), arrays.get("parameters", np.empty(0))
    if isinstance(names, list) and parameters.ndim == 2 and len(names) == parameters.shape[1]:
        columns = [i for i, name in enumerate(names) if re.fullmatch(r"alpha\d+", str(name))]
        coefficients = _floats(parameters)[:, columns]
    if coefficients.ndim != 2 or coefficients.shape[1] != n_basis or n_basis == 0:
        return None
    kept = coefficients[np.isfinite(coefficients).all(axis=1)]
    return np.asarray(np.std(kept, axis=0)) if len(kept) > 1 else None


def _errors(facts: Mapping[str, Any], summary: Mapping[str, Any]) -> Table:
    """The model's own errors, and whatever numbers the summary has."""
    own = {key: facts.get(key) for key in ("residual", "residual_rigid", "noise")}
    found = {k: v for k, v in {**summary, **own}.items() if _is_number(v)}
    rows: list[list[Any]] = []
    for group in _ERRORS:
        present = {k: float(found.pop(k)) for k in group if k in found}
        largest = max(present.values(), default=0.0)
        for key, value in present.items():
            share = value / largest if len(present) > 1 and largest > 0 else None
            rows.append([group[key], Number(value), Bar(share)])
    for key, value in found.items():
        rows.append([key.replace("_", " ").capitalize(), Number(float(value)), Bar(None)])
    return Table((), rows)


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and bool(np.isfinite(value))


def _floats(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)


def face_frame(shape: np.ndarray) -> tuple[np.ndarray, bool]:
    """The orthogonal matrix that turns a shape to face the viewer, and whether it mirrors.

    shape : float64 (3, points), as many as a known scheme has. A factorisation knows shape up to a
    rotation, and up to a reversal of depth: where the nose would point away from the viewer, the
    matrix also reverses depth. Other numbers of points, and degenerate shapes, give the identity.
    """
    scheme = scheme_of_count(shape.shape[1])
    if scheme is None:
        return np.eye(3), False
    eyes = shape[:, scheme.left_eye].mean(axis=1) - shape[:, scheme.right_eye].mean(axis=1)
    both = scheme.right_eye + scheme.left_eye
    up = shape[:, both].mean(axis=1) - shape[:, scheme.mouth].mean(axis=1)
    length = np.linalg.norm(eyes)
    if not length > 0:
        return np.eye(3), False
    x = eyes / length
    y = up - (up @ x) * x
    height = np.linalg.norm(y)
    if not height > 1e-9 * length:
        return np.eye(3), False
    y = y / height
    z = np.cross(x, y)
    sides = shape[:, scheme.sides].mean(axis=1)
    mirrored = bool(z @ (shape[:, scheme.tip] - sides) < 0)
    return np.stack([x, y, -z if mirrored else z]), mirrored
