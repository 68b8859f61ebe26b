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


def data_files(path: str | Path) -> dict[str, Path]:
    """Name as in the model -> data file, for all tensors that lie outside an ONNX file.

    Raises CheckpointError when the file is not an ONNX model or a data file is missing,
    UnsafeCheckpointError when one lies outside the model's folder.
    """
    path = Path(path)
    try:
        names = _names(path)
    except _DamagedError as e:
        kind = other_kind(path, "give an ONNX model", endings=False)
        damage = f"is not a usable ONNX model: {e}: copy or export it again"
        raise CheckpointError(f"annotator {str(path)!r} {kind or damage}") from e
    return {name: _beside(path, name) for name in sorted(names)}


def _beside(path: Path, name: str) -> Path:
    """The data file of that name, where onnxruntime would look for it."""
    pure = (PurePosixPath(name), PureWindowsPath(name))
    inside = bool(name) and "\0" not in name
    inside &= not any(p.is_absolute() or p.drive or ".." in p.parts for p in pure)
    file = path.parent / name
    if inside and not file.is_file():
        raise CheckpointError(
            f"annotator {str(path)!r} keeps weights in {name!r}, which is not beside it: copy "
            f"that file to {str(file)!r}, or save the model as a single file"
        )
    folders = (path.parent.resolve(), path.resolve().parent)  # a link to a model and its data, too
    if not inside or not any(file.resolve().is_relative_to(folder) for folder in folders):
        raise UnsafeCheckpointError(
            f"annotator {str(path)!r} keeps weights in {name!r}, outside its own folder: put that "
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
