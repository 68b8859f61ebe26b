"""Points of the face."""

from __future__ import annotations

import numpy as np

from generators.annotators.kinds.base import AnnotatorKind, Described, long_axes


class Landmarks(AnnotatorKind):
    """Two numbers a name, stored in pixels of the image: x right, y down."""

    name = "landmarks"
    text = "points of the face, x and y for each point named"
    role = "landmarks"
    unit = "pixels"
    group = "landmarks"
    keys = frozenset({"scheme"})

    def row_shape(self, card: Described) -> tuple[int, ...]:
        return (len(card.names), 2)

    def output_shapes(self, card: Described) -> tuple[tuple[int, ...], ...]:
        points, numbers = len(card.names), len(card.axes)
        whole = (numbers, points) if card.order == "planes" else (points, numbers)
        return (whole, (points * numbers,))

    def in_order(self, values: np.ndarray, card: Described) -> np.ndarray:
        if card.order == "planes":
            values = values.swapaxes(1, 2)
        return values[..., [i for i, axis in enumerate(card.axes) if axis in "xy"]]

    def finish(self, values: np.ndarray, card: Described, shape: tuple[int, int]) -> np.ndarray:
        points = values[..., ::-1] if card.axes.index("y") < card.axes.index("x") else values
        height, width = shape
        target = np.array([width, height], np.float64)
        source = np.array([card.size[1], card.size[0]], np.float64)
        if card.coordinates == "unit":
            source = np.ones(2)
        shift = 0.5 if card.coordinates == "indices" else 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray((points + shift) * (target / source), dtype=np.float32)

    def placed(self, values: np.ndarray, card: Described, maps: np.ndarray) -> np.ndarray:
        points = values.astype(np.float64) @ maps[:, :, :2].swapaxes(1, 2) + maps[:, None, :, 2]
        return np.asarray(points, dtype=np.float32)

    def shape_cure(self, shape: tuple[int, ...], n: int, card: Described) -> str:
        points, found = len(card.names), long_axes(shape)
        for numbers in (2, 3, 4):
            orders = {"points": (points, numbers), "planes": (numbers, points)}
            fits = [order for order, each in orders.items() if found == long_axes((n, *each))]
            axes = f"'axes' to the {numbers} numbers of a point, such as {'xyzc'[:numbers]!r}"
            if fits and numbers == len(card.axes):
                return f"set 'order' to {fits[0]!r}"
            if fits or found == long_axes((n, points * numbers)):
                return f"set {axes}" + (f" and 'order' to {fits[0]!r}" if fits else "")
        return super().shape_cure(shape, n, card)


PLUGIN = Landmarks()
