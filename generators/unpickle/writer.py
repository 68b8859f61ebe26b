"""Pickles and torch files written opcode by opcode.

Nothing is pickled by reference to what is installed, and the same value gives the same bytes, so
other projects' formats can be written without their code, and without torch.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from generators.unpickle.torch_files import LEGACY_MAGIC, LEGACY_PROTOCOL


@dataclass(frozen=True)
class Call:
    """``module.name(*args)`` in a pickle, then its items and its state, where there are any."""

    module: str
    name: str
    args: tuple[Any, ...] = ()
    items: dict[str, Any] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True)
class Name:
    """A global in a pickle."""

    module: str
    name: str


@dataclass(frozen=True)
class Persistent:
    """A persistent id in a pickle."""

    value: Any


def easydict(**items: Any) -> Call:
    """A ``dnnlib.util.EasyDict``, as official files hold them."""
    return Call("dnnlib.util", "EasyDict", items=items)


def ordered(items: Mapping[str, Any] | None = None) -> Call:
    """An ``OrderedDict``."""
    return Call("collections", "OrderedDict", items=dict(items or {}))


class Emitter:
    """Pickle of plain data, `Call`, `Name` and `Persistent`; bytes need protocol 3."""

    def __init__(self, protocol: int = 3) -> None:
        self.out = bytearray([0x80, protocol])
        self.memo: dict[str, int] = {}

    def dumps(self, value: Any) -> bytes:
        """The pickle of a value. Raises TypeError for what is not plain data."""
        self.put(value)
        return bytes(self.out + b".")

    def _text(self, value: str) -> None:
        """A string, the second time by reference, as the official pickles share source text."""
        if value in self.memo:
            self.out += b"j" + struct.pack("<I", self.memo[value])
            return
        encoded = value.encode()
        index = self.memo[value] = len(self.memo)
        self.out += b"X" + struct.pack("<I", len(encoded)) + encoded
        self.out += b"r" + struct.pack("<I", index)

    def put(self, value: Any) -> None:
        """Append the opcodes of a value."""
        out = self.out
        if value is None:
            out += b"N"
        elif isinstance(value, bool):
            out += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            if -(2**31) <= value < 2**31:
                out += b"J" + struct.pack("<i", value)
            else:
                raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
                out += b"\x8a" + bytes([len(raw)]) + raw
        elif isinstance(value, float):
            out += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, bytes):
            out += b"B" + struct.pack("<I", len(value)) + value
        elif isinstance(value, Name):
            out += b"c" + f"{value.module}\n{value.name}\n".encode()
        elif isinstance(value, Persistent):
            self.put(value.value)
            out += b"Q"
        elif isinstance(value, Call):
            self.put(Name(value.module, value.name))
            self.put(value.args)
            out += b"R"
            self._items(value.items)
            if value.state is not None:
                self.put(value.state)
                out += b"b"
        elif isinstance(value, tuple | list):
            out += b"(" if isinstance(value, tuple) else b"]("
            for item in value:
                self.put(item)
            out += b"t" if isinstance(value, tuple) else b"e"
        elif isinstance(value, Mapping):
            out += b"}"
            self._items(value)
        else:
            raise TypeError(f"cannot write a {type(value).__name__!r} into the pickle")

    def _items(self, items: Mapping[str, Any]) -> None:
        if items:
            self.out += b"("
            for key, value in items.items():
                self.put(key)
                self.put(value)
            self.out += b"u"


_SYSTEM = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}
_STORAGES = {"<f4": "FloatStorage", "<f8": "DoubleStorage", "<i8": "LongStorage"}


def _legacy_stream(value: Any, arrays: Mapping[str, np.ndarray], protocol: int = 3) -> bytes:
    """``torch.save`` in the legacy (not zip) format: five pickles, then every storage's bytes."""
    stored = (struct.pack("<q", a.size) + a.tobytes() for a in arrays.values())
    return _legacy_head(value, list(arrays), protocol) + b"".join(stored)


def _legacy_head(value: Any, keys: list[str], protocol: int) -> bytes:
    parts = [LEGACY_MAGIC, LEGACY_PROTOCOL, _SYSTEM, value, keys]
    return b"".join(Emitter(protocol).dumps(part) for part in parts)


def _storage(array: np.ndarray, key: str) -> Persistent:
    return _storage_of(array.dtype.str, key, array.size)


def _storage_of(dtype: str, key: str, size: int) -> Persistent:
    return Persistent(("storage", Name("torch", _STORAGES[dtype]), key, "cpu", size, None))


def _rebuilt(storage: Any, array: np.ndarray) -> Call:
    return _rebuilt_of(storage, array.shape)


def _rebuilt_of(storage: Any, shape: tuple[int, ...]) -> Call:
    """A tensor in C order."""
    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    arguments = (storage, 0, shape, stride, False, ordered())
    return Call("torch._utils", "_rebuild_tensor_v2", arguments)


def tensor_head(shape: tuple[int, ...]) -> bytes:
    """A ``torch.save`` file of one float32 tensor, up to its values (little-endian, C order).

    With it a tensor larger than memory can be written piece by piece; `torch_file` of the whole
    array gives the same bytes.
    """
    storage = _storage_of("<f4", "0", math.prod(shape))
    head = _legacy_head(_rebuilt_of(storage, shape), ["0"], protocol=2)
    return head + struct.pack("<q", math.prod(shape))


def storage_stream(array: np.ndarray) -> bytes:
    """A float32 storage alone, as ``torch.save`` writes it in the legacy format."""
    array = np.array(array, "<f4", order="C").reshape(-1)
    return _legacy_stream(_storage(array, "0"), {"0": array})


def nested_tensor(array: np.ndarray) -> Call:
    """A float32 tensor inside a plain pickle: its storage is a stream of its own."""
    array = np.array(array, "<f4", order="C")
    storage = Call("torch.storage", "_load_from_bytes", (storage_stream(array),))
    return _rebuilt(storage, array)


def torch_file(value: Any) -> bytes:
    """Bytes of a ``torch.save`` file (legacy format, read by every torch, also weights_only).

    value : dicts, lists, tuples, text and numbers; numpy arrays become CPU tensors. The bytes
        depend on the value only. Raises TypeError for anything else.
    """
    arrays: dict[str, np.ndarray] = {}

    def tensors(part: Any) -> Any:
        if isinstance(part, np.ndarray):
            kind = {"f": "<f4" if part.itemsize <= 4 else "<f8", "i": "<i8"}.get(part.dtype.kind)
            if kind is None:
                raise TypeError(f"cannot write an array of {part.dtype.name!r} as a tensor")
            key = str(len(arrays))
            arrays[key] = np.array(part, kind, order="C")
            return _rebuilt(_storage(arrays[key], key), arrays[key])
        if isinstance(part, Mapping):
            return {key: tensors(item) for key, item in part.items()}
        return type(part)(map(tensors, part)) if isinstance(part, list | tuple) else part

    return _legacy_stream(tensors(value), arrays, protocol=2)


def numpy_call(array: np.ndarray) -> Call:
    """A numeric array, or a 0-d object array, as numpy pickles it."""
    array = np.array(array, order="C")
    plain = array.dtype.kind == "O"
    order = "|" if plain else "<"
    state = (3, order, None, None, None, -1, -1, 63 if plain else 0)
    code = "O8" if plain else array.dtype.newbyteorder("<").str[1:]
    kind = Call("numpy", "dtype", (code, False, True), state=state)
    data = list(array.ravel()) if plain else array.astype(array.dtype.newbyteorder("<")).tobytes()
    name = Name("numpy", "ndarray")
    return Call(
        "numpy.core.multiarray",
        "_reconstruct",
        (name, (0,), b"b"),
        state=(1, array.shape, kind, False, data),
    )


def numpy_tree(value: Any) -> Any:
    """A value with every numpy array in it as numpy pickles it."""
    if isinstance(value, np.ndarray):
        return numpy_call(value)
    if isinstance(value, Mapping):
        return {key: numpy_tree(item) for key, item in value.items()}
    return type(value)(map(numpy_tree, value)) if isinstance(value, list | tuple) else value


def pickle_file(value: Any) -> bytes:
    """Bytes of a pickle of dicts, lists, text, numbers and numpy arrays."""
    return Emitter().dumps(numpy_tree(value))


def object_npy(value: Any) -> bytes:
    """Bytes of a ``.npy`` with one object, as ``numpy.save`` writes a dict."""
    memory = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(memory, header)
    holder = np.empty((), object)
    holder[()] = numpy_tree(value)
    return memory.getvalue() + Emitter().dumps(numpy_call(holder))
