"""Other projects' ``.npy``, ``.npz``, ``.safetensors``, ``.pkl`` and ``.pt`` files as plain arrays.

Nothing in them is run: pickles go through the inert interpreter of
`generators.unpickle.interpreter`. Numpy's and torch's records become arrays, subclasses of dict
become dicts, and anything else stays out.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from generators.file_kinds import other_kind, said_of
from generators.tensor_files import read_safetensors
from generators.unpickle.interpreter import Budget, Inert, Interpreter, Limits
from generators.unpickle.torch_files import TensorRecord, read_any
from schemas.errors import CheckpointError, InputError, UnsafeCheckpointError

MAX_DEPTH = 20
_KINDS = "fiubcUS"
_NPY = b"\x93NUMPY"
_NUMBERS = "is text: save the numbers in it with numpy.save"
_GIVE = "give a .npy, .npz, .safetensors, .pkl or .pt file"
_RECONSTRUCT = ("_reconstruct", "_frombuffer", "scalar")


def read_foreign(path: str | os.PathLike[str]) -> Any:
    """Contents of a file: dicts, lists, tuples, text, numbers, and numpy arrays.

    Tensors become arrays of their element type (bfloat16: float32), wherever they were saved from;
    an ``.npz`` or ``.safetensors`` becomes a dict, the latter's metadata texts in it. Objects that
    are neither data nor arrays raise CheckpointError; files that try to run code
    UnsafeCheckpointError; other kinds of files InputError.
    """
    path = Path(path)
    if not path.is_file():
        cause = "is a folder: name a file in it" if path.is_dir() else "is no file: check the path"
        if (path / "zarr.json").exists():
            cause = "is a Zarr group: write a file by 'latentflow export SPEC --as directions'"
        raise InputError(f"{str(path)!r} {cause}")
    try:
        _check_size(path, path.stat().st_size)
        with path.open("rb") as file:
            head = file.read(256)
        if head.startswith(_NPY):
            return _read_npy(path.read_bytes())
        if head[:2] == b"PK":
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                if all(member.filename.endswith(".npy") for member in members):
                    _check_size(path, sum(member.file_size for member in members))
                    names = [member.filename.removesuffix(".npy") for member in members]
                    return {name: _read_npy(archive.read(f"{name}.npy")) for name in names}
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
            tensors, metadata = read_safetensors(path.read_bytes())
            return {**metadata, **tensors}
        if _is_text(head) and head.lstrip()[:1] in b"{[":
            raise InputError(f"{str(path)!r} {_NUMBERS}")
        if kind := other_kind(path, _GIVE):
            raise InputError(f"{str(path)!r} {kind}")
        return plain(read_any(path))
    except UnsafeCheckpointError as e:
        raise type(e)(said_of(path, str(e))) from e
    except CheckpointError as e:
        if _is_text(head):
            raise InputError(f"{str(path)!r} {_NUMBERS}") from e
        raise type(e)(said_of(path, str(e))) from e
    except (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile) as e:
        raise InputError(f"{str(path)!r} cannot be read: {e}; {_GIVE}") from e


def _is_text(head: bytes) -> bool:
    return bool(head) and all(32 <= byte < 127 or byte in b"\t\n\r" for byte in head)


def _check_size(path: Path, size: int) -> None:
    if size > Limits().max_bytes:
        raise InputError(
            f"{str(path)!r} holds {size!r} bytes, the cap is {Limits().max_bytes!r}: save the part "
            "that is needed in a file of its own"
        )


def _read_npy(data: bytes) -> Any:
    """A numeric array, or the value of an object array of one element, without unpickling it."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None or not read(file)[2].hasobject:
            return np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as e:  # a damaged header raises whatever Python's own parser does
        raise ValueError(f"its header is damaged: {e}") from e
    return plain(Interpreter(Budget(Limits())).load(file))


def plain(value: Any, depth: int = 0) -> Any:
    """Inert data of `generators.unpickle.interpreter` with every array made; see `read_foreign`."""
    if depth > MAX_DEPTH:
        raise CheckpointError(f"data is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, TensorRecord):
        return value.array()
    if isinstance(value, dict):
        return {plain(k, depth + 1): plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item, depth + 1) for item in value)
    if not isinstance(value, Inert):
        if isinstance(value, str | bytes | int | float | bool | type(None) | set | frozenset):
            return value
        raise CheckpointError(f"the file holds a {type(value).__name__!r}, which is no data")
    function = value.function
    if function.module.split(".")[0] == "numpy" and function.name in _RECONSTRUCT:
        return _numpy_value(value, depth)
    if value.mapping:  # a subclass of dict, such as easydict's
        return plain(dict(value.mapping), depth + 1)
    raise CheckpointError(
        f"the file holds an object of {function.path!r}, which is neither an array nor a "
        "container: export its tensors"
    )


def _dtype(record: Any) -> np.dtype[Any]:
    """A numpy dtype from its pickled form ``dtype(code, align, copy)`` with a state."""
    if not isinstance(record, Inert) or record.function.path != "numpy.dtype" or not record.args:
        raise CheckpointError("an array has no proper element type")
    code = record.args[0]
    order: Any = "|"
    if isinstance(record.state, tuple) and len(record.state) > 1:
        order = record.state[1]
    if not isinstance(code, str) or order not in ("<", ">", "|", "="):
        raise CheckpointError("an array has no proper element type")
    if code in ("O8", "O"):
        return np.dtype(object)
    try:
        dtype = np.dtype(code).newbyteorder(order)
    except TypeError as e:
        raise CheckpointError(f"element type {code[:20]!r} is unknown") from e
    if dtype.kind not in _KINDS:
        raise CheckpointError(f"element type {code[:20]!r} is neither a number nor text")
    return dtype


def _numpy_value(record: Inert, depth: int) -> Any:
    """An array, or a scalar, from numpy's ``_reconstruct``, ``_frombuffer`` or ``scalar``."""
    try:
        if record.function.name == "scalar":
            dtype, data = _dtype(record.args[0]), record.args[1]
            return np.frombuffer(_bytes(data), dtype, count=1)[0].item()
        if record.function.name == "_frombuffer":
            data, kind, shape, order = record.args
            fortran = order == "F"
        else:
            _, shape, kind, fortran, data = record.state
        dtype = _dtype(kind)
        shape = tuple(int(n) for n in shape)
        if dtype.kind == "O":
            items = [plain(item, depth + 1) for item in data]
            if len(items) != int(np.prod(shape)):
                raise CheckpointError(f"an array of shape {shape!r} has {len(items)!r} items")
            return items[0] if shape == () else items
        flat = np.frombuffer(_bytes(data), dtype)
        return np.array(flat.reshape(shape, order="F" if fortran else "C"))
    except (TypeError, ValueError, IndexError, OverflowError) as e:
        raise CheckpointError(f"an array in the file is damaged: {e}") from e


def _bytes(data: Any) -> bytes:
    if isinstance(data, str):  # protocol 2 pickles of Python 2
        return data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise CheckpointError("an array in the file has no bytes")
    return bytes(data)
