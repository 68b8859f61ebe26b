"""Edits of codes: what every generator does before it draws.

A direction fits a space when it is of that space, of one whose code stands in each of its layers,
or of one that is injected where its codes are drawn. Codes of another space are converted first,
where the generator can (`in_space_of`): w_plus to s, z to w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from generators.labelled import label_weights
from generators.protocols import Code, Edit, Generator, Labels, ModelFacts
from schemas.directions.direction import (
    Direction,
    broadcast_layers,
    check_applies,
    unit_direction,
    within_layers,
)
from schemas.errors import DirectionMismatchError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

UNITS = ("sd", "raw")


def fitted_to(facts: ModelFacts, direction: Direction, space: str) -> Direction:
    """``direction`` for codes of ``space``: as it is, or broadcast over the space's layers.

    Raises DirectionMismatchError when it was made for another generator or for a space that does
    not lead there.
    """
    own = facts.spaces.get(direction.space)
    if own is not None and own.injected_into == space:
        check_applies(direction, facts.fingerprint, direction.space)
        _check_shape(direction, own.shape)
        return direction
    if facts.repeated(space) == direction.space:
        check_applies(direction, facts.fingerprint, direction.space)
        return broadcast_layers(direction, facts.space(space).n_layers, space=space)
    check_applies(direction, facts.fingerprint, space)
    _check_shape(direction, facts.space(space).shape)
    return direction


def axis_direction(facts: ModelFacts, name: str) -> Direction | None:
    """The direction "<space>.<axis>" of a model, of standard deviation 1: a strength is in units of
    the space; None where the model has no such axis."""
    for space in facts.spaces.values():
        axis = name.removeprefix(f"{space.name}.")
        if axis != name and axis in space.axes:
            vector = np.zeros(space.shape)
            vector[space.axes.index(axis)] = 1.0
            made_for = {"generator_fp": facts.fingerprint}
            return unit_direction(
                name, space.name, vector, method="axis", sd=1.0, provenance=made_for
            )
    return None


def axes_of(facts: ModelFacts) -> dict[str, str]:
    """The axes of a model's spaces, "<space>.<axis>" -> unit for people, "" for none."""
    return {
        f"{space.name}.{axis}": unit
        for space in facts.spaces.values()
        for axis, unit in zip(space.axes, space.units or ("",) * len(space.axes), strict=True)
    }


def moves_to(facts: ModelFacts, direction: Direction, space: str) -> str | None:
    """The space that codes of ``space`` are converted to before they are edited along the
    direction; None where it fits them as they are."""
    own = facts.spaces.get(direction.space)
    target = direction.space if own is None else own.injected_into or own.name
    if own is None or target == space or facts.repeated(space) == direction.space:
        return None
    return target


def in_space_of(
    generator: Generator, code: Code, direction: Direction, labels: Labels = None
) -> Code:
    """Codes to edit along the direction: these, where it fits their space, else these converted to
    the one that it was made in, with their class labels.

    Raises DirectionMismatchError when it was made for another generator, or in a space that these
    codes are not converted to.
    """
    facts = generator.facts
    target = moves_to(facts, direction, code.space)
    if target is None:
        return code
    check_applies(direction, facts.fingerprint, direction.space)
    try:
        return generator.convert(code, target, labels=labels)
    except UsageError as e:
        raise DirectionMismatchError(
            f"direction {direction.name!r} was made in space {direction.space!r}, not "
            f"{code.space!r}, and {e}"
        ) from e


def _check_shape(direction: Direction, shape: tuple[int, ...]) -> None:
    if direction.shape != shape:
        raise DirectionMismatchError(
            f"direction {direction.name!r} has shape {direction.shape!r}, space "
            f"{direction.space!r} of the generator has {shape!r}; compute it again with this "
            "generator"
        )


def class_weights(
    facts: ModelFacts, labels: Labels, n: int, device: torch.device | str
) -> Tensor | None:
    """Labels of `n` codes as weights of the classes, float32 (n, classes); None for a model without
    classes.

    labels : class numbers, or weights already. Raises UsageError without any, and for classes that
    the model does not have.
    """
    return label_weights(facts.classes, labels, n, device)


def check_code(facts: ModelFacts, code: Code) -> None:
    """Raise UsageError for codes of an unknown space or another shape, for unknown companions and
    for a missing one without which nothing can be drawn."""
    space = facts.space(code.space)
    if tuple(code.main.shape[1:]) != space.shape:
        raise UsageError(
            f"codes have shape {tuple(code.main.shape)!r}, space {code.space!r} expects "
            f"(n, {', '.join(map(str, space.shape))}): "
            "the codes belong to another space or generator"
        )
    for name, tensor in code.companions.items():
        known = space.companions.get(name)
        own = tuple(tensor.shape)
        if known is None or own[:1] != (len(code),) or not known.takes(own[1:]):
            expected = "none of that name" if known is None else (len(code), *known.shape)
            raise UsageError(
                f"companion {name!r} of codes of {code.space!r} has shape "
                f"{tuple(tensor.shape)!r}, the generator expects {expected!r}: the codes belong to "
                "another generator"
            )
    for name, known in space.companions.items():
        if not known.required:
            continue
        given = code.companions.get(name)
        if given is None or bool(given.flatten(1).isnan().any(dim=1).any()):
            raise UsageError(
                f"codes of {code.space!r} have no {name!r}, without which they draw another image: "
                "pass the codes with their companions, as the store holds them"
            )


def edited(
    facts: ModelFacts, code: Code, edits: Sequence[Edit]
) -> tuple[Code, list[tuple[Edit, Tensor]]]:
    """The code after all edits of its own space, and the edits of injected spaces, each with what
    is to be added to every row there, a tensor that broadcasts to (n, *shape).

    Errors as of `Generator.draw`.
    """
    check_code(facts, code)
    injected = []
    for edit in edits:
        direction = fitted_to(facts, edit.direction, code.space)
        step = _step(direction, edit, code)
        if direction.space == code.space:
            main = (code.main.double() + step).to(code.main.dtype)
            code = code.moved(main)
            known: tuple[str, ...] = ()
        else:
            injected.append((edit, step.to(code.main.dtype)))
            known = facts.space(direction.space).options
        unknown = sorted(set(edit.options) - set(known))
        if unknown:
            raise UsageError(
                f"edits in space {direction.space!r} have no options {unknown!r}: "
                + (f"use some of {list(known)!r}" if known else "leave them out")
            )
    return code, injected


def _step(direction: Direction, edit: Edit, code: Code) -> Tensor:
    """``strength * sd * vector``, float64 (1 or n, *shape), on the code's device."""
    import torch

    if edit.unit not in UNITS:
        raise UsageError(f"unit {edit.unit!r} is not known; use 'sd' or 'raw'")
    amount = np.atleast_1d(np.asarray(edit.strength, dtype=np.float64))
    if amount.ndim > 1 or len(amount) not in (1, len(code)):
        raise UsageError(
            f"strength has shape {amount.shape!r} for {len(code)!r} codes; give one number, "
            "or one for each code"
        )
    amount = amount * (direction.sd if edit.unit == "sd" else 1.0)
    vector = torch.tensor(within_layers(direction, edit.layers), device=code.main.device)
    rows = torch.from_numpy(amount).to(code.main.device)
    return rows.reshape(-1, *[1] * vector.ndim) * vector
