"""Algebra of direction vectors, in any latent space.

Vectors are stacks (k, *row_shape); a single one may be (1, *row_shape). Inner products are those
of the flattened vectors, so layers that a direction does not apply to, which are zero, add nothing.
`schemas.directions.direction.apply` makes the edit of one direction; `combine` makes one direction
of several, and `keeping` takes others out of one (conditional projection).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from schemas.directions.direction import Direction, transfer_cure, unit_direction
from schemas.errors import DataError, DirectionMismatchError, UsageError

RANK_TOLERANCE = 1e-10


def _rows(vectors: np.ndarray, what: str) -> np.ndarray:
    """Vectors (k, ...) as float64 (k, D); DataError when empty or not finite."""
    stack = np.asarray(vectors, dtype=np.float64)
    if stack.ndim < 2 or 0 in stack.shape:
        raise DataError(f"{what} have shape {stack.shape!r}; give a stack (k, *row_shape)")
    if not np.isfinite(stack).all():
        raise DataError(f"{what} hold values that are not finite; leave those vectors out")
    return stack.reshape(len(stack), -1)


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(a)[1:] != np.shape(b)[1:]:
        raise DirectionMismatchError(
            f"vectors have shapes {np.shape(a)[1:]!r} and {np.shape(b)[1:]!r}; compare directions "
            "of one space"
        )
    return _rows(a, "vectors"), _rows(b, "vectors")


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Each vector divided by its norm, float64 (k, *row_shape). DataError for a zero vector."""
    rows = _rows(vectors, "vectors")
    largest = np.abs(rows).max(axis=1, keepdims=True)
    if not largest.all():
        zero = int(np.flatnonzero(largest[:, 0] == 0)[0])
        raise DataError(f"vector {zero!r} is zero and has no direction; leave it out")
    rows = rows / largest  # so that neither tiny nor huge entries lose their squares
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.reshape(np.shape(vectors))


def orthonormal_basis(vectors: np.ndarray, tolerance: float = RANK_TOLERANCE) -> np.ndarray:
    """Orthonormal rows spanning the same subspace, float64 (rank, *row_shape).

    Directions whose singular value is at most `tolerance` times the largest do not count: their
    units must be alike, so the vectors are normalised first.
    """
    unit = _rows(normalise(vectors), "vectors")
    _, values, basis = np.linalg.svd(unit, full_matrices=False)
    rank = int((values > tolerance * values[0]).sum())
    return basis[:rank].reshape(rank, *np.shape(vectors)[1:])


def project_out(
    direction: np.ndarray, conditions: np.ndarray, *, normalise: bool = True
) -> np.ndarray:
    """Part of a direction that is orthogonal to any number of others, by least squares.

    p - N' x with x = argmin |p - N' x|, that is N N' x = N p (Shen et al. 2020, InterFaceGAN, eq. 8
    for one condition; the same projection for the h-space of diffusion models). One condition c of
    unit length gives p - (p.c) c.

    direction : (...), or (k, ...) for several at once; any layout of coordinates, flattened
    conditions : (m, ...), need be neither orthogonal nor unit, may depend on one another
    normalise : scale the result to unit norm, as InterFaceGAN does; else leave its length

    Returns float64 of the direction's shape. Raises DataError where nothing is left: the direction
    is a combination of the conditions.
    """
    p, others = np.asarray(direction, np.float64), np.asarray(conditions, np.float64)
    several = p.ndim == others.ndim
    if others.ndim < 2 or others.shape[1:] != p.shape[int(several) :]:
        raise UsageError(
            f"direction has shape {p.shape!r} and conditions {others.shape!r}: give conditions as "
            "(count, ...) with the direction's own shape"
        )
    if not (np.isfinite(p).all() and np.isfinite(others).all()):
        raise DataError("direction or conditions hold NaN or infinite values: correct them")
    flat = p.reshape(len(p) if several else 1, -1)
    table = others.reshape(len(others), flat.shape[1])
    lengths = np.linalg.norm(table, axis=1)
    table = table[lengths > 0] / lengths[lengths > 0, None]
    _, singular, basis = np.linalg.svd(table, full_matrices=False)
    basis = basis[singular > 1e-10 * singular[:1].sum()]
    left = flat - (flat @ basis.T) @ basis
    left -= (left @ basis.T) @ basis  # once more: what rounding left behind
    norms, before = np.linalg.norm(left, axis=1), np.linalg.norm(flat, axis=1)
    if (norms <= 1e-10 * before).any():
        raise DataError(
            f"direction {int(np.argmax(norms <= 1e-10 * before))!r} is a combination of the "
            f"{len(others)!r} conditions: nothing is left of it; condition on fewer"
        )
    if normalise:
        left /= norms[:, None]
    return left.reshape(p.shape)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine between every vector of `a` and every one of `b`, float64 (k_a, k_b)."""
    _pair(a, b)
    unit_a, unit_b = _rows(normalise(a), "vectors"), _rows(normalise(b), "vectors")
    return np.clip(unit_a @ unit_b.T, -1.0, 1.0)


def principal_angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles between the spans of two stacks, float64 (min(rank_a, rank_b),) radians, ascending.

    Small angles come from their sines and large ones from their cosines, so both are accurate
    (Knyazev and Argentati 2002). All are zero when one span contains the other.
    """
    rows_a, rows_b = _pair(a, b)
    width = rows_a.shape[1]
    basis_a = orthonormal_basis(a).reshape(-1, width)
    basis_b = orthonormal_basis(b).reshape(-1, width)
    if len(basis_b) > len(basis_a):
        basis_a, basis_b = basis_b, basis_a
    overlap = basis_b @ basis_a.T
    cosine = np.clip(np.linalg.svd(overlap, compute_uv=False), 0.0, 1.0)
    sine = np.linalg.svd(basis_b - overlap @ basis_a, compute_uv=False)[::-1]
    return np.where(cosine**2 < 0.5, np.arccos(cosine), np.arcsin(np.clip(sine, 0.0, 1.0)))


def keeping(
    direction: Direction, others: Sequence[Direction], layers: Sequence[int] | None = None
) -> Direction:
    """The part of a direction that leaves the projections on others as they are (`project_out`).

    An edit by it is the direction's own edit less what that does along the others: its sd is the
    direction's times the share of its length that is left. It applies to the direction's layers, or
    to those of them that are in `layers`.

    Raises DirectionMismatchError for directions of several spaces or generators, DataError where
    nothing is left.
    """
    _alike([direction, *others])
    only = direction.layers
    if layers is not None:
        only = [i for i in layers if only is None or i in only]
    mask = np.ones(direction.shape)
    if only is not None:
        mask[:] = 0
        mask[only] = 1
    within = np.stack([other.vector * mask for other in others])
    kept = [other.name for other in others]
    try:
        left = project_out(direction.vector * mask, within, normalise=False) * mask
    except DataError as e:
        raise DataError(f"{direction.name!r} cannot be edited while {kept!r} stay: {e}") from e
    share = float(np.linalg.norm(left))
    return dataclasses.replace(
        direction,
        vector=left / share,
        layers=only,
        sd=direction.sd * share,
        intercept=None,
        quality={},
        provenance={**direction.provenance, "keep": kept, "left": share},
    )


def _alike(directions: Sequence[Direction]) -> None:
    """Raise DirectionMismatchError for directions of several spaces or generators."""
    first, *others = directions
    for other in others:
        if (other.space, other.shape) != (first.space, first.shape):
            raise DirectionMismatchError(
                f"directions {first.name!r} and {other.name!r} are of spaces {first.space!r} "
                f"{first.shape!r} and {other.space!r} {other.shape!r}; combine "
                "directions of one space, broadcasting those of w with broadcast_layers"
            )
        made_for = [d.provenance.get("generator_fp") for d in (first, other)]
        if made_for[0] != made_for[1]:
            raise DirectionMismatchError(
                f"directions {first.name!r} and {other.name!r} were made for generators "
                f"{made_for[0]!r} and {made_for[1]!r}; combine directions of one: for "
                f"{other.name!r}, {transfer_cure(other.name)}"
            )


def combine(
    name: str,
    directions: Sequence[Direction],
    strengths: Sequence[float],
    *,
    codes: np.ndarray | None = None,
) -> Direction:
    """One direction whose edit by strength 1 is the sum of the given edits, in sd each.

    strengths : one a direction; a negative one turns it round. codes : (n, *row_shape), on which
        the sum's own sd is measured; an edit by strength 1 is then of another size. By default sd
        is the length of the summed edit.

    Raises DirectionMismatchError for directions of several spaces or generators, UsageError for
    counts that differ, DataError when the edits cancel.
    """
    if not directions or len(directions) != len(strengths):
        raise UsageError(
            f"{len(directions)!r} directions and {len(strengths)!r} strengths were given; give one "
            "strength a direction"
        )
    _alike(directions)
    steps = [float(s) * d.sd * d.vector for d, s in zip(directions, strengths, strict=True)]
    total = np.sum(steps, axis=0)
    size = float(np.linalg.norm(total))
    if size <= RANK_TOLERANCE * sum(float(np.linalg.norm(step)) for step in steps):
        raise DataError(f"the edits of direction {name!r} cancel; choose other strengths")
    layers = [d.layers for d in directions]
    provenance = {"parts": [[d.name, float(s)] for d, s in zip(directions, strengths, strict=True)]}
    generator = directions[0].provenance.get("generator_fp")
    return unit_direction(
        name,
        directions[0].space,
        total,
        method="combined",
        sd=size if codes is None else None,
        codes=codes,
        layers=None if None in layers else sorted({n for part in layers for n in part or ()}),
        provenance=provenance if generator is None else {**provenance, "generator_fp": generator},
    )
