"""TensorFlow Lite files as plain data: a FlatBuffers table read field by field, nothing executed.

Numbers of fields are those of TensorFlow's ``schema.fbs``. Every offset is checked against the
file, so that a cut or damaged one is an error and never a wrong number.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import CheckpointError

IDENTIFIER = b"TFL3"
DTYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 9: np.int8}
"""Number of a tensor's type -> what numpy calls it; those that the networks read here have."""
OPERATORS = {
    0: "ADD",
    2: "CONCATENATION",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE",
    17: "MAX_POOL_2D",
    19: "RELU",
    22: "RESHAPE",
    34: "PAD",
    54: "PRELU",
}
"""Number of an operator -> its name; those that are converted."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """shape : as in the file, channels last. values : of a constant, None of what is computed."""

    name: str
    shape: tuple[int, ...]
    values: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Operator:
    """name : of `OPERATORS`. inputs, outputs : numbers of tensors, -1 for one left out.

    options : the fields of its options by number, as (offset in the file) tables give them.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Table | None


@dataclass(frozen=True, eq=False)
class Network:
    """A file's only graph, its operators in the order in which they run."""

    tensors: Sequence[Tensor]
    operators: Sequence[Operator]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Table:
    """One FlatBuffers table at an offset; a field that is not there has its default."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - self._unpack("<i", at)
        self._size = self._unpack("<H", self._fields)

    def number(self, field: int, form: str = "<i", default: int = 0) -> int:
        """A number; form : as of `struct`."""
        place = self._place(field)
        return default if place is None else self._unpack(form, place)

    def numbers(self, field: int) -> tuple[int, ...]:
        """A list of int32."""
        start, n = self._vector(field, 4)
        return struct.unpack_from(f"<{n}i", self._data, start)

    def bytes(self, field: int) -> bytes:
        """A list of bytes, or a text."""
        start, n = self._vector(field, 1)
        return self._data[start : start + n]

    def table(self, field: int) -> Table | None:
        """A table, None where there is none."""
        place = self._place(field)
        return None if place is None else Table(self._data, place + self._unpack("<I", place))

    def tables(self, field: int) -> list[Table]:
        """A list of tables."""
        start, n = self._vector(field, 4)
        places = range(start, start + 4 * n, 4)
        return [Table(self._data, place + self._unpack("<I", place)) for place in places]

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry >= self._size:
            return None
        offset = self._unpack("<H", self._fields + entry)
        return self._at + offset if offset else None

    def _vector(self, field: int, width: int) -> tuple[int, int]:
        """Where a list begins, and how many it holds."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = place + self._unpack("<I", place)
        n = self._unpack("<I", start)
        if start + 4 + width * n > len(self._data):
            raise struct.error(f"a list of {n} at byte {start} leaves the file")
        return start + 4, n

    def _unpack(self, form: str, at: int) -> int:
        if at < 0:
            raise struct.error(f"byte {at} lies before the file")
        found: int = struct.unpack_from(form, self._data, at)[0]
        return found


def read_network(path: Path) -> Network:
    """The network of a ``.tflite`` file.

    Raises CheckpointError for a file that is none, is damaged, or holds what is not converted: an
    unknown operator or type of tensor, sparse weights, several graphs.
    """
    data = path.read_bytes()
    if data[4:8] != IDENTIFIER:
        raise CheckpointError(
            f"{path.name!r} is no TensorFlow Lite file: bytes 4 to 8 are {data[4:8]!r}, expected "
            f"{IDENTIFIER!r}"
        )
    try:
        return _network(Table(data, struct.unpack_from("<I", data)[0]))
    except (struct.error, IndexError, ValueError) as e:
        raise CheckpointError(
            f"TensorFlow Lite file {path.name!r} is damaged: {e}; fetch it again"
        ) from e
    except CheckpointError as e:
        raise CheckpointError(f"TensorFlow Lite file {path.name!r} {e}") from e


def _network(model: Table) -> Network:
    graphs, buffers = model.tables(2), model.tables(4)
    if len(graphs) != 1:
        raise CheckpointError(f"holds {len(graphs)!r} graphs, expected one: export it as one")
    codes = [_operator_name(code) for code in model.tables(1)]
    graph = graphs[0]
    tensors = [_tensor(tensor, buffers) for tensor in graph.tables(0)]
    operators = [
        Operator(
            codes[operator.number(0, "<I")],
            operator.numbers(1),
            operator.numbers(2),
            operator.table(4),
        )
        for operator in graph.tables(3)
    ]
    used = [i for o in operators for i in (*o.inputs, *o.outputs)]
    wrong = [i for i in (*used, *graph.numbers(1), *graph.numbers(2)) if i >= len(tensors)]
    if wrong:
        raise ValueError(f"tensor {wrong[0]} of {len(tensors)} is named")
    return Network(tensors, operators, graph.numbers(1), graph.numbers(2))


def _operator_name(code: Table) -> str:
    number = max(code.number(0, "<b"), code.number(3))  # the first field is of older files
    if number not in OPERATORS:
        custom = code.bytes(1).decode("utf-8", "replace")
        said = f" ({custom!r})" if custom else ""
        raise CheckpointError(
            f"holds operator {number!r}{said}, which is not converted; there are "
            f"{sorted(OPERATORS.values())!r}"
        )
    return OPERATORS[number]


def _tensor(tensor: Table, buffers: Sequence[Table]) -> Tensor:
    name = tensor.bytes(3).decode("utf-8", "replace")
    shape, kind = tensor.numbers(0), tensor.number(1, "<b")
    raw = buffers[tensor.number(2, "<I")].bytes(0)
    if not raw:
        return Tensor(name, shape, None)
    if kind not in DTYPES or tensor.table(6) is not None:
        said = "sparse weights" if kind in DTYPES else f"type {kind!r}"
        raise CheckpointError(
            f"holds tensor {name!r} of {said}, which is not converted: export it with dense "
            "float16 or float32 weights"
        )
    dtype = np.dtype(DTYPES[kind]).newbyteorder("<")
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"tensor {name!r} of shape {shape!r} has {len(raw)} bytes")
    return Tensor(name, shape, np.frombuffer(raw, dtype).reshape(shape))


def chosen_options(table: Table | None, fields: Mapping[str, tuple[Any, ...]]) -> dict[str, int]:
    """Options by name; fields : name -> (number of the field, form, default)."""
    return {
        name: place[-1] if table is None else table.number(*place) for name, place in fields.items()
    }
