"""The tensors of a file against those that an architecture calls for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from schemas.errors import CheckpointError


def checked_tensors(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], what: str
) -> dict[str, np.ndarray]:
    """The tensors in float32, in the order of the shapes.

    shapes : of every tensor by name. what : the architecture, for people: "a StyleGAN of 256 px".
    Raises CheckpointError for a tensor too few or too many, of another shape or kind of number, or
    with values that are not finite.
    """
    missing = [name for name in shapes if name not in tensors]
    unknown = sorted(set(tensors) - set(shapes))
    if missing or unknown:
        raise CheckpointError(
            f"tensors do not fit {what}: missing {missing[:4]!r} ({len(missing)}), not known "
            f"{unknown[:4]!r} ({len(unknown)})"
        )
    found: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        value = tensors[name]
        if value.dtype.kind != "f":
            raise CheckpointError(
                f"tensor {name!r} holds {value.dtype.name!r}: quantised weights need the scales of "
                "the program that made them; write them in float32, float16 or bfloat16"
            )
        if value.shape != shape:
            raise CheckpointError(f"tensor {name!r} has shape {value.shape!r}, expected {shape!r}")
        with np.errstate(over="ignore"):  # of float64: told below
            single = np.ascontiguousarray(value, dtype=np.float32).reshape(shape)
        if not np.isfinite(single).all():
            raise CheckpointError(
                f"tensor {name!r} holds values that are not finite: the training diverged; use an "
                "earlier checkpoint"
            )
        found[name] = single
    return found
