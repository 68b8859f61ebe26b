"""Tensors from ``torch.save`` files without torch: the zip format and the legacy stream.

Structure comes through the inert interpreter of `generators.unpickle.interpreter`; tensor bytes are
viewed with numpy after offset, size and stride are checked against the storage, and the storage's
claim against the bytes that are really there.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from generators.file_kinds import other_kind, text_instead
from generators.unpickle.interpreter import Budget, Global, Handler, Inert, Interpreter, Limits
from schemas.errors import CheckpointError, UnsafeCheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_DIMS = 8
MAX_EXPANDED_BYTES = 1 << 20
MAX_ELEMENTS = 1 << 48

#: Storage class -> little-endian numpy dtype; bfloat16 is widened when a tensor is made.
STORAGE_DTYPES: Mapping[str, str] = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
    "UntypedStorage": "|u1",
}
_ELEMENT_DTYPES: Mapping[str, str] = {
    "float32": "<f4",
    "float": "<f4",
    "float64": "<f8",
    "double": "<f8",
    "float16": "<f2",
    "half": "<f2",
    "bfloat16": "bfloat16",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "|i1",
    "uint8": "|u1",
    "bool": "|b1",
}


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


@dataclass(eq=False, slots=True)
class Storage:
    """A storage: element type, element count, and a function that reads its bytes."""

    dtype: str
    numel: int
    read: Callable[[], Any] | None = None


@dataclass(eq=False, slots=True)
class TensorRecord:
    """A tensor in a file: where it lies in a storage. `array` reads it."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    def array(self, name: str = "tensor") -> np.ndarray:
        """Contiguous copy with the tensor's shape; bfloat16 comes as float32.

        Raises CheckpointError when the storage's bytes are missing or too short.
        """
        if self.storage.read is None:
            raise CheckpointError(f"{name!r} has no stored bytes: the file is truncated")
        if 0 in self.size:
            dtype = "<f4" if self.dtype == "bfloat16" else self.dtype
            return np.zeros(self.size, np.dtype(dtype))
        raw = self.storage.read()
        flat = np.frombuffer(raw, "<u2" if self.dtype == "bfloat16" else self.dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if last >= flat.size:
            raise CheckpointError(
                f"{name!r} needs element {last} of a storage with {flat.size}: the file is damaged"
            )
        strides = tuple(s * flat.itemsize for s in self.stride)
        view = np.lib.stride_tricks.as_strided(
            flat[self.offset :], shape=self.size, strides=strides, writeable=False
        )
        if self.dtype == "bfloat16":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return np.array(view, order="C")


def _int_tuple(value: Any, what: str) -> tuple[int, ...]:
    if isinstance(value, Inert) and value.function.path == "torch.Size":
        value = value.args[0] if value.args else ()
    if not isinstance(value, tuple | list) or len(value) > MAX_DIMS:
        raise CheckpointError(f"a tensor's {what} is not a list of at most {MAX_DIMS} numbers")
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in value):
        raise CheckpointError(f"a tensor's {what} holds something else than counts from 0")
    return tuple(value)


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorRecord:
    """``torch._utils._rebuild_tensor_v2``: checks the view against its storage."""
    return _tensor_record(storage, offset, size, stride, None)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> TensorRecord:
    if not isinstance(dtype, Global) or dtype.name not in _ELEMENT_DTYPES:
        kind = dtype.path if isinstance(dtype, Global) else type(dtype).__name__
        raise CheckpointError(
            f"a tensor has element type {kind!r}, which is not supported: save the tensors in "
            "float32, float16 or bfloat16"
        )
    return _tensor_record(storage, offset, size, stride, _ELEMENT_DTYPES[dtype.name])


def _tensor_record(
    storage: Any, offset: Any, size: Any, stride: Any, dtype: str | None
) -> TensorRecord:
    if not isinstance(storage, Storage):
        raise CheckpointError("a tensor refers to something that is not a storage")
    dtype = dtype or storage.dtype
    (start,) = _int_tuple((offset,), "offset")
    sizes, strides = _int_tuple(size, "size"), _int_tuple(stride, "stride")
    if len(sizes) != len(strides):
        raise CheckpointError(f"a tensor has {len(sizes)} sizes but {len(strides)} strides")
    available = storage.numel * _item_size(storage.dtype) // _item_size(dtype)
    numel = math.prod(sizes)
    last = start + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) if numel else 0
    # a small one may be larger than its storage, by an axis of stride 0
    most = max(available, MAX_EXPANDED_BYTES // _item_size(dtype))
    # an axis of length 0 or 1 lets any stride and any other length pass
    largest = max(math.prod(max(n, 1) for n in sizes), *strides, 0)
    if numel > most or (numel and last >= available) or largest > MAX_ELEMENTS:
        raise CheckpointError(
            f"a tensor of size {sizes!r}, stride {strides!r} and offset {start} does not fit its "
            f"storage of {available} elements: the file is damaged"
        )
    return TensorRecord(storage, start, sizes, strides, dtype)


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data


def _rebuild_from_type(function: Any, kind: Any, args: Any, *rest: Any) -> Any:
    """A tensor with attributes of its own, which are dropped."""
    handler = None
    if isinstance(function, Global) and isinstance(args, tuple):
        handler = _PLAIN_TENSORS.get((function.module, function.name))
    if handler is None:
        raise CheckpointError("a tensor is made by something else than torch's own functions")
    return handler(*args)


_PLAIN_TENSORS: Mapping[tuple[str, str], Handler] = {
    ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
}
TENSOR_HANDLERS: Mapping[tuple[str, str], Handler] = {
    **_PLAIN_TENSORS,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
}


def _storage_id(pid: Any) -> tuple[str, str, int, tuple[Any, ...]]:
    """Parts of a persistent id ``("storage", type, key, location, numel, ...)``, checked."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        raise CheckpointError("a persistent id is not that of a torch storage")
    kind, key, numel = pid[1], pid[2], pid[4]
    if not isinstance(kind, Global) or kind.name not in STORAGE_DTYPES:
        raise CheckpointError(
            f"storage type {kind.path if isinstance(kind, Global) else type(kind).__name__!r} is "
            "not supported: convert the tensors to float32"
        )
    if not isinstance(key, str) or not isinstance(numel, int) or numel < 0:
        raise CheckpointError("a storage has no proper key or element count")
    return STORAGE_DTYPES[kind.name], key, numel, pid[5:]


def read_legacy(
    data: bytes | memoryview, budget: Budget, handlers: Mapping[tuple[str, str], Handler]
) -> Any:
    """Value of a legacy (not zip) ``torch.save`` stream.

    Five pickles (magic, protocol, system, object, storage keys), then for each key an int64
    element count and the bytes. Raises CheckpointError when counts and bytes do not agree.
    """
    file = io.BytesIO(data)
    if Interpreter(budget).load(file) != LEGACY_MAGIC:
        raise CheckpointError("nested stream does not start with torch's magic number")
    if Interpreter(budget).load(file) != LEGACY_PROTOCOL:
        raise CheckpointError(f"torch.save protocol is not {LEGACY_PROTOCOL}: use a newer torch")
    system = Interpreter(budget).load(file)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise CheckpointError("file was written on a big-endian machine: save it again elsewhere")
    storages: dict[str, Storage] = {}

    def persistent_load(pid: Any) -> Storage:
        dtype, key, numel, rest = _storage_id(pid)
        storage = storages.setdefault(key, Storage(dtype, numel))
        if (storage.dtype, storage.numel) != (dtype, numel):
            raise CheckpointError(f"storage {key[:80]!r} is described in two ways")
        view = rest[0] if rest else None
        if view is None:
            return storage
        if not isinstance(view, tuple) or len(view) != 3:
            raise CheckpointError("a storage view is not (key, offset, size)")
        start, count = _int_tuple(view[1:], "storage view")
        if start + count > numel:
            raise CheckpointError(
                f"a storage view of {count} elements at {start} exceeds its {numel}"
            )
        return _view(storage, start, count)

    value = Interpreter(budget, handlers, persistent_load).load(file)
    keys = Interpreter(budget).load(file)
    names = keys if isinstance(keys, list) else [None]
    if not all(isinstance(key, str) and key in storages for key in names):
        raise CheckpointError("list of storage keys does not match the storages in the pickle")
    view = memoryview(data)
    at = file.tell()
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(view[at : at + 8], "little", signed=True)
        size = count * _item_size(storage.dtype)
        if count != storage.numel or at + 8 + size > len(view):
            raise CheckpointError(
                f"storage claims {storage.numel} elements, its header {count}, and "
                f"{max(len(view) - at - 8, 0)} bytes are left: the file is damaged or truncated"
            )
        block = view[at + 8 : at + 8 + size]
        storage.read = lambda block=block: block
        at += 8 + size
    return value


def _view(storage: Storage, start: int, count: int) -> Storage:
    width = _item_size(storage.dtype)

    def read() -> Any:
        if storage.read is None:
            raise CheckpointError("a storage view has no stored bytes: the file is truncated")
        return memoryview(storage.read())[start * width : (start + count) * width]

    return Storage(storage.dtype, count, read)


def load_from_bytes(budget: Budget) -> Handler:
    """``torch.storage._load_from_bytes``: one storage from a nested legacy stream.

    The nested stream may hold a storage and nothing else; in particular no further stream.
    """

    def load(data: Any) -> Storage:
        if not isinstance(data, bytes | bytearray):
            raise CheckpointError("_load_from_bytes is called with something else than bytes")
        if bytes(data[:2]) == b"PK":
            raise CheckpointError("a nested storage is in zip format, expected a legacy stream")
        value = read_legacy(bytes(data), budget, {})
        if not isinstance(value, Storage):
            raise UnsafeCheckpointError(
                f"a nested torch stream holds a {type(value).__name__!r} instead of a storage: "
                "nothing was run; do not trust this file"
            )
        return value

    return load


def _open_zip(path: Path, limits: Limits) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """The archive and its entries without their common folder, all names and sizes checked."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as e:
        raise CheckpointError(
            f"{path.name!r} starts like a zip archive but is not one ({e}): the file is damaged "
            "or truncated; download it again"
        ) from e
    infos = archive.infolist()
    entries: dict[str, zipfile.ZipInfo] = {}
    problem: CheckpointError | None = None
    if len(infos) > limits.max_entries:
        problem = UnsafeCheckpointError(f"{path.name!r} has {len(infos)} entries, far too many")
    for info in infos:
        parts = info.filename.replace("\\", "/").split("/")
        if info.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            problem = UnsafeCheckpointError(
                f"{path.name!r} has an entry named {info.filename[:120]!r} that points outside "
                "the archive: do not trust this file"
            )
        elif info.compress_type != zipfile.ZIP_STORED:
            problem = UnsafeCheckpointError(
                f"{path.name!r} has a compressed entry {info.filename[:120]!r}, which torch.save "
                "never writes: do not trust this file"
            )
        elif info.flag_bits & 1:
            problem = CheckpointError(f"{path.name!r} is encrypted: decrypt it first")
        entries["/".join(parts[1:])] = info
    if len(entries) != len(infos):
        problem = problem or CheckpointError(f"{path.name!r} holds the same entry twice")
    if problem is not None:
        archive.close()
        raise problem
    return archive, entries


def read_zip(path: Path, budget: Budget, handlers: Mapping[tuple[str, str], Handler]) -> Any:
    """Value of a zip-format ``torch.save`` file; tensor bytes are read when a tensor is asked for.

    Raises CheckpointError, UnsafeCheckpointError for names outside the archive.
    """
    archive, entries = _open_zip(path, budget.limits)
    with archive:
        if "data.pkl" not in entries:
            raise CheckpointError(f"{path.name!r} has no entry 'data.pkl': it is no torch file")
        if "byteorder" in entries and _read(archive, entries["byteorder"]).strip() != b"little":
            raise CheckpointError(f"{path.name!r} was written big-endian: save it again elsewhere")
        storages: dict[str, Storage] = {}

        def persistent_load(pid: Any) -> Storage:
            dtype, key, numel, _ = _storage_id(pid)
            info = entries.get(f"data/{key}")
            if info is None or info.file_size != numel * _item_size(dtype):
                raise CheckpointError(
                    f"storage {key[:80]!r} claims {numel} elements of type {dtype!r}, its entry "
                    f"has {None if info is None else info.file_size} bytes: the file is damaged"
                )
            if key not in storages:
                storages[key] = Storage(dtype, numel, lambda: _read_entry(path, info))
            elif (storages[key].dtype, storages[key].numel) != (dtype, numel):
                raise CheckpointError(f"storage {key[:80]!r} is described in two ways")
            return storages[key]

        pickled = io.BytesIO(_read(archive, entries["data.pkl"]))
        return Interpreter(budget, handlers, persistent_load).load(pickled)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as e:
        raise CheckpointError(
            f"entry {info.filename[:120]!r} cannot be read ({e}): the file is damaged; "
            "download it again"
        ) from e


def _read_entry(path: Path, info: zipfile.ZipInfo) -> bytes:
    """Bytes of a stored entry, without parsing the archive's directory again for each tensor."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(30)
        lengths = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        file.seek(info.header_offset + 30 + lengths)
        data = file.read(info.file_size)
    if head[:4] != b"PK\x03\x04" or len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise CheckpointError(
            f"entry {info.filename[:120]!r} of {path.name!r} is damaged or truncated: "
            "download the file again"
        )
    return data


def read_any(path: Path, limits: Limits | None = None) -> Any:
    """Contents of a pickle, legacy torch or zip torch file as inert data.

    Containers are dicts, lists and tuples; tensors are `TensorRecord`; other objects are `Inert`.
    Raises CheckpointError or UnsafeCheckpointError, and OSError when the file cannot be read.
    """
    limits = limits or Limits()
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise UnsafeCheckpointError(
            f"{path.name!r} has {size} bytes, the cap is {limits.max_bytes}: raise "
            "'Limits.max_bytes' if the file is really that large"
        )
    kind = other_kind(path)
    if kind is not None:
        raise CheckpointError(kind)
    budget = Budget(limits)
    handlers = {
        **TENSOR_HANDLERS,
        ("torch.storage", "_load_from_bytes"): load_from_bytes(budget),
    }
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"PK":
        return read_zip(path, budget, handlers)
    data = path.read_bytes()
    if data.startswith(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."):
        return read_legacy(data, budget, handlers)
    try:
        value = Interpreter(budget, handlers).load(io.BytesIO(data))
    except UnsafeCheckpointError:
        raise
    except CheckpointError as e:
        kind = text_instead(path)
        if kind is None:
            raise
        raise CheckpointError(kind) from e
    if value == LEGACY_MAGIC and isinstance(value, int):
        return read_legacy(data, budget, handlers)
    return value
