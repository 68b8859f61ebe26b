"""Which files an ONNX model consists of: the file itself, and the data files that it names.

Tensors of a model may lie outside it (``external_data``), which is what exporters do by default
for large models: initialisers, and tensors inside attributes, subgraphs and functions. Only the
names of those files are read here, by walking over the file's protobuf fields, so that neither
onnx nor onnxruntime is needed to tell whether a model has changed.

Wire format: https://protobuf.dev/programming-guides/encoding; fields: onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from generators.file_kinds import other_kind
from schemas.errors import CheckpointError, UnsafeCheckpointError

#: Message -> number of a field that holds messages on the way to a tensor -> that message.
PATHS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
#: Messages inside one another; protobuf itself reads no deeper.
MAX_DEPTH = 100
_GRAPH, _KEY, _VALUE = 7, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Port:
    """An input or output of a network.

    kind : element type, such as "float32". shape : None for an axis whose length is free; None
        altogether where the file does not say.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name} {self.kind} (?)"
        free = ["n", *"?" * len(self.shape)]
        axes = ", ".join(f if a is None else str(a) for f, a in zip(free, self.shape, strict=False))
        return f"{self.name} {self.kind} ({axes})"


def data_files(path: str | Path, what: str = "annotator") -> dict[str, Path]:
    """Name as in the model -> data file, for all tensors that lie outside an ONNX file.

    what : the model is called in messages, "" where the caller names it.

    Raises CheckpointError when the file is not an ONNX model or a data file is missing,
    UnsafeCheckpointError when one lies outside the model's folder.
    """
    path = Path(path)
    try:
        names = _names(path)
    except _DamagedError as e:
        raise _unusable(path, e, what) from e
    return {name: _beside(path, name, what) for name in sorted(names)}


def _called(path: Path, what: str) -> str:
    return f"{what} {str(path)!r} " if what else ""


def _unusable(path: Path, damage: Exception, what: str) -> CheckpointError:
    kind = other_kind(path, "give an ONNX model", endings=False)
    told = f"is not a usable ONNX model: {damage}: copy or export it again"
    return CheckpointError(f"{_called(path, what)}{kind or told}")


def _beside(path: Path, name: str, what: str) -> Path:
    """The data file of that name, where onnxruntime would look for it."""
    pure = (PurePosixPath(name), PureWindowsPath(name))
    inside = bool(name) and "\0" not in name
    inside &= not any(p.is_absolute() or p.drive or ".." in p.parts for p in pure)
    file = path.parent / name
    if inside and not file.is_file():
        raise CheckpointError(
            f"{_called(path, what)}keeps weights in {name!r}, which is not beside it: copy "
            f"that file to {str(file)!r}, or save the model as a single file"
        )
    folders = (path.parent.resolve(), path.resolve().parent)  # a link to a model and its data, too
    if not inside or not any(file.resolve().is_relative_to(folder) for folder in folders):
        raise UnsafeCheckpointError(
            f"{_called(path, what)}keeps weights in {name!r}, outside its own folder: put that "
            "file itself into the model's folder and save the model with its plain name"
        )
    return file


class _DamagedError(Exception):
    """The bytes are not a protobuf message of this kind."""


def _names(path: Path) -> set[str]:
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if not size:
            raise _DamagedError("it holds no bytes")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if not any(field == _GRAPH for field, *_ in _fields(data, 0, size)):
                raise _DamagedError("it holds no graph")
            return set(_locations(data, size))


def _locations(data: mmap.mmap, size: int) -> Iterator[str]:
    """The ``location`` of every tensor that has one.

    One is taken to hold whatever the tensor's ``data_location`` says: two pieces of one message
    are read as one by protobuf, so that the flag may stand elsewhere.
    """
    todo = [("ModelProto", 0, size, 1)]
    while todo:
        message, start, end, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise _DamagedError(f"its messages are nested more than {MAX_DEPTH} deep")
        for field, kind, first, last in _fields(data, start, end):
            inner = PATHS[message].get(field)
            if inner is None or kind != _BYTES:
                continue
            if inner == "StringStringEntryProto":
                key, value = _entry(data, first, last)
                if key == b"location":
                    yield value.decode("utf-8", "surrogateescape")
            else:
                todo.append((inner, first, last, depth + 1))


def _entry(data: mmap.mmap, start: int, end: int) -> tuple[bytes, bytes]:
    found = {_KEY: b"", _VALUE: b""}
    for field, kind, first, last in _fields(data, start, end):
        if kind == _BYTES and field in found:
            found[field] = data[first:last]
    return found[_KEY], found[_VALUE]


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, first byte, end) of a message's fields, without reading what they hold.

    Raises _DamagedError where the bytes are no fields.
    """
    at = start
    while at < end:
        tag, first = _varint(data, at, end)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            last = _varint(data, first, end)[1]
        elif kind == _BYTES:
            length, first = _varint(data, first, end)
            last = first + length
        elif kind in (_FIXED64, _FIXED32):
            last = first + (8 if kind == _FIXED64 else 4)
        else:
            raise _DamagedError(f"byte {at} is no field")
        if not field or last > end:
            raise _DamagedError(f"the field at byte {at} reaches byte {last} of {end}")
        yield field, kind, first, last
        at = last


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _DamagedError(f"the number before byte {at} does not end")


# ---- inputs and outputs --------------------------------------------------------------------------

#: onnx.TensorProto.DataType -> name of the element type.
_KINDS = {1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
          10: "float16", 11: "float64", 16: "bfloat16"}  # fmt: skip
_INITIALISER, _INPUT, _OUTPUT = 5, 11, 12


def ports(path: Path) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of an ONNX model, those apart that have a stored value.

    Raises CheckpointError when the file is not an ONNX model.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if not size:
                raise _DamagedError("it holds no bytes")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _ports(data, size)
    except _DamagedError as e:
        raise _unusable(path, e, "") from e


def _ports(data: mmap.mmap, size: int) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    graphs = [
        (a, b) for field, kind, a, b in _fields(data, 0, size) if (field, kind) == (7, _BYTES)
    ]
    if not graphs:
        raise _DamagedError("it holds no graph")
    stored: set[str] = set()
    found: dict[int, list[Port]] = {_INPUT: [], _OUTPUT: []}
    for start, end in graphs:
        for field, kind, first, last in _fields(data, start, end):
            if kind == _BYTES and field in found:
                found[field].append(_port(data, first, last))
            elif kind == _BYTES and field == _INITIALISER:
                stored.add(_text(data, first, last, 8))
    return tuple(p for p in found[_INPUT] if p.name not in stored), tuple(found[_OUTPUT])


def _port(data: mmap.mmap, start: int, end: int) -> Port:
    """A ValueInfoProto."""
    kind, shape = "no tensor", None
    for first, last in _inner(data, start, end, 2, 1):  # type.tensor_type
        for field, wire, a, b in _fields(data, first, last):
            if field == 1 and wire == _VARINT:
                number = _varint(data, a, b)[0]
                kind = _KINDS.get(number, f"type {number}")
            elif field == 2 and wire == _BYTES:
                shape = tuple(_axis(data, c, d) for c, d in _inner(data, a, b, 1))
    return Port(_text(data, start, end, 1), kind, shape)


def _axis(data: mmap.mmap, start: int, end: int) -> int | None:
    for field, kind, first, last in _fields(data, start, end):
        if field == 1 and kind == _VARINT:
            return _varint(data, first, last)[0]
    return None


def _inner(data: mmap.mmap, start: int, end: int, *way: int) -> Iterator[tuple[int, int]]:
    """First byte and end of the messages that the numbers of fields lead to."""
    for field, kind, first, last in _fields(data, start, end):
        if kind == _BYTES and field == way[0]:
            if len(way) == 1:
                yield first, last
            else:
                yield from _inner(data, first, last, *way[1:])


def _text(data: mmap.mmap, start: int, end: int, number: int) -> str:
    texts = [data[a:b] for a, b in _inner(data, start, end, number)]
    return texts[-1].decode("utf-8", "replace") if texts else ""
