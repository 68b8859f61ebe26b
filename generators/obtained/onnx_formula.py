"""Arithmetic appended to an ONNX graph, such as what a model's own program does with its output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


class Formula:
    """Writes nodes one after the other: ``f("Add", "a", 0.5)`` is the name of what it gives.

    Inputs are names, or numbers and arrays (float32 and int64) that become constants.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._n = 0

    def __call__(self, kind: str, *inputs: str | float | np.ndarray, **attributes: Any) -> str:
        """One node; its only output."""
        from onnx import helper

        names = [self._named(value) for value in inputs]
        output = self._next()
        self.model.graph.node.append(helper.make_node(kind, names, [output], **attributes))
        return output

    def part(self, value: str, numbers: Sequence[int], axis: int = 1) -> str:
        """Some places of an axis, in this order."""
        return self("Gather", value, np.array(numbers, np.int64), axis=axis)

    def sum(self, value: str, *axes: int) -> str:
        """The sum over axes, which stay with length 1."""
        return self("ReduceSum", value, np.array(axes, np.int64), keepdims=1)

    def length(self, value: str, axis: int) -> str:
        """Euclidean length over an axis, which stays with length 1."""
        return self("Sqrt", self.sum(self("Mul", value, value), axis))

    def angle(self, y: str, x: str) -> str:
        """The angle of (x, y) in degrees; 0 of the origin."""
        length = self("Sqrt", self("Add", self("Mul", x, x), self("Mul", y, y)))
        half = self("Atan", self("Div", y, self("Max", self("Add", length, x), 1e-12)))
        return self("Mul", half, 360 / np.pi)

    def give(self, **values: tuple[str, Sequence[int]]) -> onnx.ModelProto:
        """The model with these outputs and no others: name -> (what is given, shape of a row)."""
        from onnx import TensorProto, checker, helper

        del self.model.graph.output[:]
        for name, (value, shape) in values.items():
            self.model.graph.node.append(helper.make_node("Identity", [value], [name]))
            described = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
            self.model.graph.output.append(described)
        checker.check_model(self.model)
        return self.model

    def _named(self, value: str | float | np.ndarray) -> str:
        from onnx import numpy_helper

        if isinstance(value, str):
            return value
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        name = self._next()
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _next(self) -> str:
        self._n += 1
        return f"f{self._n}"
