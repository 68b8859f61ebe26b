"""What a kind of annotator is: how a model's numbers become rows, and what may be done with them.

A module of this folder, or of another package (entry points of the group
``latentflow.annotators``), has its kind under ``PLUGIN``; a description uses it by its name, as
``"kind"``. Kinds import neither torch nor onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Described(Protocol):
    """What kinds read of a description, see `generators.annotators.card`."""

    @property
    def path(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def coordinates(self) -> str: ...

    @property
    def axes(self) -> str: ...

    @property
    def order(self) -> str | None: ...

    @property
    def activation(self) -> str | None: ...

    @property
    def unit(self) -> str: ...

    @property
    def options(self) -> Mapping[str, Any]: ...


class AnnotatorKind:
    """A kind; subclass it, and give what differs.

    name : what descriptions call it. text : what it measures, for the documentation.
    role : what analyses and the evaluation take its numbers for: "scores" of attributes, from which
    labels are made and whose rise is measured; "pose", angles in degrees, which directions turn;
    "quantities", numbers on scales of their own (an age, a width), which directions raise;
    "landmarks", points, from which shapes are made; "embedding", a vector, whose cosine to the
    original's tells how like it a reconstruction or an edit is; or a word of another package, for
    analyses that ask for it. None for nothing: they are stored and exported.
    unit : of the stored numbers.
    group : of the store that holds them, "annotations" for (n, len(names)) or "landmarks" for
    (n, len(names), 2). keys : of descriptions that only this kind may set to something else than
    their default.
    version : raised whenever the kind makes other numbers of the same output: what was measured
    before is then stale.
    """

    name: str
    text: str = ""
    role: str | None = None
    unit: str = ""
    group: str = "annotations"
    keys: frozenset[str] = frozenset()
    version: int = 1

    def names(self, value: Any) -> Any:
        """The description's ``names``, before they are checked: a list of texts."""
        return value

    def check(self, names: tuple[str, ...], options: Mapping[str, Any]) -> None:
        """Check names and the kind's own ``options``. Raises ValueError, naming key, value, cure.

        Options enter the fingerprint.
        """
        if options:
            raise ValueError(f"'options' is {dict(options)!r}: kind {self.name!r} has none")

    def data_files(self, card: Described) -> list[Path]:
        """Files beside the model, besides those that it names itself, of which its numbers are
        made; their bytes enter the fingerprint. Raises ValueError, as `check`."""
        return []

    def row_shape(self, card: Described) -> tuple[int, ...]:
        """Shape of one image's stored numbers."""
        return (len(card.names),)

    def output_shapes(self, card: Described) -> tuple[tuple[int, ...], ...]:
        """Shapes in which a model may give one image's numbers; `in_order` gets the first."""
        return (self.row_shape(card),)

    def in_order(self, values: np.ndarray, card: Described) -> np.ndarray:
        """A model's numbers (n, ...) in the description's order -> (n, *row_shape)."""
        return values

    def finish(self, values: np.ndarray, card: Described, shape: tuple[int, int]) -> np.ndarray:
        """Numbers (n, *row_shape) as stored, float32. Each row depends on itself alone.

        shape : (height, width) of the image.
        """
        return values

    def placed(self, values: np.ndarray, card: Described, maps: np.ndarray) -> np.ndarray:
        """Numbers of `finish` that a crop gave, as those of the whole picture, float32.

        maps : float64 (n, 2, 3), a pixel of the crop at p is at map[:, :2] @ p + map[:, 2].
        """
        return values

    def shape_cure(self, shape: tuple[int, ...], n: int, card: Described) -> str:
        """What to change in a description so that a result of this shape for n images fits it."""
        return "correct 'names' or 'output'"


def long_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its axes of length 1."""
    return tuple(length for length in shape if length != 1)


def positive(value: Any, key: str) -> int:
    """A whole number above 0. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key!r} is {value!r}: give a whole number above 0")
    if value > 1 << 14:
        raise ValueError(f"{key!r} is {value!r}: give at most {1 << 14}")
    return value


def turn_of(maps: np.ndarray) -> np.ndarray:
    """Degrees (n,) by which crops are turned clockwise in their pictures."""
    return np.asarray(np.degrees(np.arctan2(maps[:, 1, 0], maps[:, 0, 0])))


def numbered(names: Any) -> Any:
    """``names`` of a vector's elements as given, or of their number: "0", "1", ..."""
    if isinstance(names, list):
        return names
    return [str(i) for i in range(positive(names, "names"))]
