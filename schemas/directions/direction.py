"""One direction: a named unit vector in a latent space, and the edit that it makes.

DESIGN section 2, "Direction set". An edit is ``codes + strength * sd * vector``, with strength in
standard deviations of the projections of the rows that the direction was fitted on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schemas.directions.large import StoredVector, digest_of, has_steps, is_large
from schemas.errors import DataError, DirectionMismatchError, UsageError
from schemas.fingerprint import canonical_json
from schemas.store.layout import check_name

UNIT_TOLERANCE = {"float64": 1e-9, "float32": 1e-6}
SIGN_TOLERANCE = 1e-6
FOREIGN_METHODS = ("imported", "transferred")
"""Methods of directions that no analysis of the run makes; they stay when analyses are renewed."""


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector that edits what a generator draws.

    name : letters, digits, '_', '-', '.'.
    space : the latent space, such as "w" or "w_plus".
    vector : float64 (*row_shape), Frobenius norm 1, zero in layers it does not apply to. One above
        1 MB may be float32; of a saved set it is, and is read from there whenever it is asked for.
    layers : layers it applies to, None for all (or for spaces without layers).
    method : how it was found, such as "pca", "svm", "mean_difference", "hosvd", "imported".
    sd : standard deviation of the projection of the fit's rows on ``vector``, in units of the
        space; the unit of an edit's strength.
    intercept : b of the hyperplane <vector, code> + b = 0, None for other methods.
    quality : JSON mapping: ranks, explained variance, accuracy, solver facts.
    converged : whether the solver met its tolerance, None where nothing iterates.
    provenance : JSON mapping: ``generator_fp``, the analysis' fingerprint, parameters, and
        ``claimed: True`` where space and generator are a claim (imported directions).

    Raises DataError for vectors that are not finite or not unit, and for a negative sd.
    """

    name: str
    space: str
    vector: np.ndarray
    layers: list[int] | None
    method: str
    sd: float
    intercept: float | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    converged: bool | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, "direction")
        vector = self.held
        if not isinstance(vector, StoredVector):
            given = np.asarray(vector)
            single = given.dtype == np.float32 and is_large(given.shape)
            vector = np.array(given, np.float32 if single else np.float64, order="C")
            norm = float(np.linalg.norm(np.asarray(vector, np.float64)))
            if not abs(norm - 1.0) <= UNIT_TOLERANCE[vector.dtype.name]:
                raise DataError(
                    f"direction {self.name!r} has norm {norm!r}, not 1; make it with unit_direction"
                )
            vector.setflags(write=False)
            object.__setattr__(self, "vector", vector)
        if not (math.isfinite(self.sd) and self.sd >= 0):
            raise DataError(
                f"direction {self.name!r} has sd {self.sd!r}; it must be finite and not negative"
            )
        if self.layers is not None:
            if not has_steps(vector.shape):
                raise DataError(
                    f"direction {self.name!r} names layers {self.layers!r}, but its vector has "
                    f"shape {vector.shape!r} and no layer axis; pass layers=None"
                )
            layers = _check_layers(self.layers, vector.shape[0], self.name)
            outside = [i for i in range(vector.shape[0]) if i not in layers]
            if isinstance(vector, np.ndarray) and np.any(vector[outside]):
                raise DataError(
                    f"direction {self.name!r} is not zero outside its layers {layers!r}; "
                    "make it with unit_direction"
                )
            object.__setattr__(self, "layers", layers)
        canonical_json([self.quality, self.provenance])
        object.__setattr__(self, "sd", float(self.sd))
        if self.intercept is not None:
            object.__setattr__(self, "intercept", float(self.intercept))

    @property
    def held(self) -> np.ndarray | StoredVector:
        """The vector, or where it lies."""
        found: np.ndarray | StoredVector = self.__dict__["held_vector"]
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the vector; reads none."""
        return tuple(self.held.shape)

    @property
    def single(self) -> bool:
        """Whether the vector is float32, as those above 1 MB are made."""
        held = self.held
        return isinstance(held, StoredVector) or held.dtype == np.float32

    @property
    def vector_sha256(self) -> str:
        """sha256 of the vector, see `schemas.directions.large.digest_of`; reads none."""
        held = self.held
        return held.sha256 if isinstance(held, StoredVector) else digest_of(held)

    def project(self, codes: np.ndarray) -> np.ndarray:
        """<vector, code> for codes (n, *row_shape): float64 (n,)."""
        _check_shape(codes, self)
        rows = np.asarray(codes, dtype=np.float64).reshape(len(codes), math.prod(self.shape))
        return np.asarray(rows @ self.vector.ravel())

    def margin(self, codes: np.ndarray) -> np.ndarray:
        """Signed distance to the hyperplane, <vector, code> + intercept: float64 (n,).

        Raises DirectionMismatchError for a direction that has no hyperplane.
        """
        if self.intercept is None:
            raise DirectionMismatchError(
                f"direction {self.name!r} ({self.method}) has no intercept and so no hyperplane; "
                "use project"
            )
        return self.project(codes) + self.intercept


class _Vector:
    """A direction's vector: held, or read from its set whenever it is asked for."""

    def __get__(self, direction: Direction | None, owner: type) -> Any:
        if direction is None:
            return self
        held = direction.held
        if not isinstance(held, StoredVector):
            return held
        vector = held.read()
        vector.setflags(write=False)
        return vector

    def __set__(self, direction: Direction, value: np.ndarray | StoredVector) -> None:
        direction.__dict__["held_vector"] = value


Direction.vector = _Vector()  # type: ignore[assignment]


def _check_layers(layers: Iterable[int], n_layers: int, name: str) -> list[int]:
    chosen = sorted({int(layer) for layer in layers})
    if not n_layers:
        raise DataError(
            f"direction {name!r} has no layer axis, so there are no layers {chosen!r} of it; "
            "leave the layers out"
        )
    if not chosen or chosen[0] < 0 or chosen[-1] >= n_layers:
        raise DataError(
            f"layers {chosen!r} of direction {name!r} are not within the {n_layers!r} layers "
            "of the code; name at least one, counting from 0"
        )
    return chosen


def _check_shape(codes: np.ndarray, direction: Direction) -> None:
    shape, own = np.shape(codes)[1:], direction.shape
    if shape != own:
        cure = "use codes of the generator and space that it was made for"
        if len(shape) == 2 and shape[1:] == own:
            cure = "for codes with layers broadcast it with broadcast_layers"
        raise DirectionMismatchError(
            f"direction {direction.name!r} has shape {own!r} (space {direction.space!r}), codes "
            f"have {shape!r} a row; {cure}"
        )


def unit_direction(
    name: str,
    space: str,
    vector: np.ndarray,
    *,
    method: str,
    sd: float | None = None,
    codes: np.ndarray | None = None,
    layers: Iterable[int] | None = None,
    intercept: float | None = None,
    quality: Mapping[str, Any] | None = None,
    converged: bool | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Direction:
    """A Direction from a vector of any length: zeroed outside ``layers``, scaled to norm 1. One
    above 1 MB is float32, as sets hold it.

    intercept : of <vector, code> + b with the vector as given; it is scaled along.
    sd, codes : the standard deviation along the unit vector, or the fit's rows (n, *row_shape)
        to measure it on. Exactly one of the two.

    Raises DataError for a zero or non-finite vector, UsageError without sd or codes.
    """
    if (sd is None) == (codes is None):
        raise UsageError(f"direction {name!r} needs either sd or codes to measure it on")
    vector = np.array(vector, dtype=np.float64)
    chosen: list[int] | None = None
    if layers is not None:
        chosen = _check_layers(layers, vector.shape[0] if has_steps(vector.shape) else 0, name)
        vector[[i for i in range(vector.shape[0]) if i not in chosen]] = 0.0
    largest = float(np.max(np.abs(vector), initial=0.0))
    if not (math.isfinite(largest) and largest > 0):
        raise DataError(
            f"direction {name!r} has largest loading {largest!r}; it needs a finite vector "
            "that is not zero"
        )
    norm = largest * float(np.linalg.norm(vector / largest))
    unit = vector / norm
    direction = Direction(
        name=name,
        space=space,
        vector=unit.astype(np.float32) if is_large(unit.shape) else unit,
        layers=chosen,
        method=method,
        sd=0.0 if sd is None else sd,
        intercept=None if intercept is None else intercept / norm,
        quality=dict(quality or {}),
        converged=converged,
        provenance=dict(provenance or {}),
    )
    if codes is None:
        return direction
    if len(codes) == 0:
        raise DataError(f"direction {name!r} cannot measure its sd on 0 codes; give at least one")
    return dataclasses.replace(direction, sd=float(np.std(direction.project(codes))))


def broadcast_layers(
    direction: Direction,
    n_layers: int,
    *,
    space: str = "w_plus",
    layers: Iterable[int] | None = None,
) -> Direction:
    """A direction of w as one of w_plus, the same in each of ``layers`` (default: all).

    With k layers the vector is divided by sqrt(k) and sd multiplied by it, so that an edit by the
    same strength moves every layer as it moved w. Recorded in the provenance.
    """
    if len(direction.shape) != 1:
        raise DirectionMismatchError(
            f"direction {direction.name!r} has shape {direction.shape!r} and cannot be "
            f"broadcast over {n_layers!r} layers; it needs one axis"
        )
    chosen = _check_layers(range(n_layers) if layers is None else layers, n_layers, direction.name)
    scale = math.sqrt(len(chosen))
    vector = np.zeros((n_layers, direction.vector.size))
    vector[chosen] = direction.vector / scale
    intercept = direction.intercept
    return dataclasses.replace(
        direction,
        space=space,
        vector=vector / np.linalg.norm(vector),
        layers=None if len(chosen) == n_layers else chosen,
        sd=direction.sd * scale,
        intercept=None if intercept is None else intercept * scale,
        provenance={**direction.provenance, "broadcast_from": direction.space},
    )


def check_applies(direction: Direction, generator_fp: str, space: str) -> None:
    """Raise DirectionMismatchError unless the direction was made for this generator and space."""
    if direction.space != space:
        cure = f"use codes of {direction.space!r}"
        if len(direction.shape) == 1:
            cure += ", or, where a code holds one of these in each layer, broadcast_layers"
        raise DirectionMismatchError(
            f"direction {direction.name!r} was made in space {direction.space!r}, not {space!r}; "
            f"{cure}"
        )
    made_for = direction.provenance.get("generator_fp")
    if made_for != generator_fp:
        raise DirectionMismatchError(
            f"direction {direction.name!r} was made for generator {made_for!r}, not "
            f"{generator_fp!r}; {transfer_cure(direction.name)}"
        )


def transfer_cure(name: str) -> str:
    """How a direction gets to a model that it was not made for, as the end of an error message."""
    return (
        "compute it again by running the specification with this generator, or map it with "
        f"'latentflow transfer OLD_RUN NEW_RUN -d {name}'"
    )


def apply(
    codes: np.ndarray,
    direction: Direction,
    strength: float | np.ndarray,
    unit: str = "sd",
    layers: Iterable[int] | None = None,
    *,
    generator_fp: str | None = None,
    space: str | None = None,
) -> np.ndarray:
    """Edited codes: ``codes + strength * sd * vector``, relative to each row.

    codes : (n, *row_shape), returned in the same dtype. strength : a number, or (n,) one a row;
    in standard deviations, or with ``unit="raw"`` in units of the space. layers : edit only
    these layers, by the amount by which the whole direction would edit them.
    generator_fp, space : what the codes belong to, such as a store's ``attrs["generator_fp"]``.
        Codes alone do not tell; where given, a direction made for anything else is refused.

    Raises DirectionMismatchError for codes of another shape, generator or space, UsageError for
    another unit.
    """
    codes = np.asarray(codes)
    if generator_fp is not None or space is not None:
        made_for = str(direction.provenance.get("generator_fp"))
        check_applies(
            direction,
            made_for if generator_fp is None else generator_fp,
            direction.space if space is None else space,
        )
    if unit not in ("sd", "raw"):
        raise UsageError(f"unit {unit!r} is not known; use 'sd' or 'raw'")
    _check_shape(codes, direction)
    amount = np.asarray(strength, dtype=np.float64)
    if amount.ndim > 1 or (amount.ndim == 1 and len(amount) != len(codes)):
        raise UsageError(
            f"strength has shape {amount.shape!r} for {len(codes)!r} codes; give one number, "
            "or one for each code"
        )
    vector = within_layers(direction, layers)
    amount = amount * (direction.sd if unit == "sd" else 1.0)
    amount = amount.reshape(amount.shape + (1,) * vector.ndim)
    return np.asarray(codes + amount * vector, dtype=codes.dtype)


def within_layers(direction: Direction, layers: Iterable[int] | None) -> np.ndarray:
    """The direction's vector, zero outside ``layers`` (None: all that it has).

    Raises DataError for layers that the space does not have.
    """
    vector = np.array(direction.vector)
    if layers is not None:
        n_layers = vector.shape[0] if has_steps(vector.shape) else 0
        chosen = _check_layers(layers, n_layers, direction.name)
        vector[[i for i in range(vector.shape[0]) if i not in chosen]] = 0.0
    return vector


def fix_sign(vector: np.ndarray) -> np.ndarray:
    """An unsupervised vector with its sign fixed: the first loading (in C order) whose magnitude
    is within 1e-6 of the largest one becomes positive. Any shape. Raises DataError for zeros."""
    vector = np.asarray(vector)
    flat = vector.ravel()
    largest = np.max(np.abs(flat), initial=0.0)
    if not (np.isfinite(largest) and largest > 0):
        raise DataError(f"a vector with largest loading {float(largest)!r} has no sign to fix")
    first = int(np.argmax(np.abs(flat) >= largest * (1 - SIGN_TOLERANCE)))
    return vector if flat[first] > 0 else -vector
