"""File formats as values that can be changed in one place and written again.

Each codec is a pair of functions: bytes to a tree of dicts, lists, text, numbers, bytes and
`Choice`, and back. A tree that a format cannot hold raises whatever its writer raises.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import pickletools
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.fuzzing.changes import Choice


@dataclass(frozen=True)
class Codec:
    """parse, build : see the module text. extras : pieces that may be put in somewhere."""

    parse: Callable[[bytes], Any]
    build: Callable[[Any], bytes]
    extras: tuple[Any, ...] = ()


# ---- text ----------------------------------------------------------------------------------------


def _json(value: Any) -> bytes:
    return json.dumps(value, default=str).encode()


def _yaml(value: Any) -> bytes:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()


def _parse_yaml(data: bytes) -> Any:
    import yaml

    return yaml.safe_load(data)


def _parse_lines(data: bytes) -> Any:
    return [line.decode() for line in data.split(b"\n")]


def _lines(value: Any) -> bytes:
    return "\n".join(map(str, value)).encode()


def _parse_json_lines(data: bytes) -> Any:
    return [json.loads(line) for line in data.splitlines()]


ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "utf-32")


def table(delimiter: str) -> Codec:
    """Rows of cells of a text table, its encoding, line ends and delimiter."""

    def parse(data: bytes) -> Any:
        return {
            "rows": list(csv.reader(io.StringIO(data.decode()), delimiter=delimiter)),
            "encoding": Choice(ENCODINGS),
            "end": Choice(("\n", "\n", "\r\n", "\r")),
            "delimiter": Choice((delimiter, delimiter, ",", ";", "\t", "|", " ")),
            "quotes": Choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
        }

    def build(value: Any) -> bytes:
        out = io.StringIO()
        writer = csv.writer(
            out, delimiter=value["delimiter"].value, quoting=value["quotes"].value,
            lineterminator=value["end"].value,
        )  # fmt: skip
        writer.writerows(value["rows"])
        return out.getvalue().encode(value["encoding"].value)

    return Codec(parse, build)


# ---- arrays and pickles --------------------------------------------------------------------------


def _parse_npy(data: bytes) -> Any:
    length = int.from_bytes(data[8:10], "little")
    header = ast.literal_eval(data[10 : 10 + length].decode())
    rest = data[10 + length :]
    body = _parse_pickle(rest) if "O" in header["descr"] else rest
    return {**header, "shape": list(header["shape"]), "version": Choice((1, 1, 1, 2, 3)), "": body}


def _npy(value: Any) -> bytes:
    body, version = value[""], value["version"].value
    header = {k: v for k, v in value.items() if k not in ("", "version")}
    if isinstance(header.get("shape"), list):
        header["shape"] = tuple(header["shape"])
    text = repr(header).encode("latin1" if version < 3 else "utf-8").ljust(117) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    written = _pickle(body) if isinstance(body, list) else body
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + written


_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG"}
_TEXTS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}


def _parse_pickle(data: bytes) -> list[Any]:
    """Operations of the pickles that the data begin with, then the bytes behind them."""
    file, operations = io.BytesIO(data), []
    while file.tell() < len(data):
        start, found = file.tell(), []
        try:
            for operation, argument, at in pickletools.genops(file):
                found.append((operation, argument, at))
        except ValueError:
            file.seek(start)
            break
        ends = [at for _, _, at in found[1:]] + [file.tell()]
        for (operation, argument, at), end in zip(found, ends, strict=True):
            name = operation.name
            if name in _NUMBERS | _TEXTS | _BYTES or name == "BINFLOAT":
                operations.append({"value": argument})
            elif name == "GLOBAL":
                operations.append({"global": argument.split(" ")})
            elif name != "FRAME":
                operations.append(Choice((data[at:end],)))
    return [*operations, data[file.tell() :]]


def _pickle(operations: Any) -> bytes:
    return b"".join(map(_operation, operations))


def _operation(item: Any) -> bytes:
    if isinstance(item, Choice):
        return bytes(item.value)
    if isinstance(item, bytes):
        return item
    if "global" in item:
        module, name = map(str, item["global"])
        return b"c" + module.encode() + b"\n" + name.encode() + b"\n"
    value = item["value"]
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        size = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, dict):
        return b"}"
    if isinstance(value, list):
        return b"]"
    data = str(value).encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _parse_zip(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [
            [i.filename, _parse_member(i.filename, archive.read(i))] for i in archive.filelist
        ]
    return {
        "members": members,
        "packed": Choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,)),
    }


def _parse_sealed(data: bytes) -> Any:
    from pipelines.engine.saved_sums import opened

    return _parse_zip(opened(data) or b"")


def _sealed(value: Any) -> bytes:
    from pipelines.engine.saved_sums import sealed

    return sealed(_zip(value))


def _parse_member(name: str, data: bytes) -> Any:
    if name.endswith(".npy"):
        return _parse_npy(data)
    return _parse_pickle(data) if name.endswith(".pkl") else data


def _zip(value: Any) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", value["packed"].value) as archive:
        for name, content in value["members"]:
            build = {dict: _npy, list: _pickle, bytes: bytes}[type(content)]
            archive.writestr(name, build(content))
    return memory.getvalue()


def _parse_safetensors(data: bytes) -> Any:
    size = int.from_bytes(data[:8], "little")
    return {"header": json.loads(data[8 : 8 + size]), "data": data[8 + size :]}


def _safetensors(value: Any) -> bytes:
    header = _json(value["header"])
    return len(header).to_bytes(8, "little") + header + value["data"]


# ---- pictures ------------------------------------------------------------------------------------


def _parse_png(data: bytes) -> Any:
    at, chunks = 8, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        if name == b"IDAT":
            try:
                chunks.append({"pixels": zlib.decompress(body)})
            except zlib.error:  # one of several
                chunks.append([name, body])
        else:
            chunks.append([name, body])
        at += 12 + size
    return {"head": data[:8], "chunks": chunks}


def _png(value: Any) -> bytes:
    out = bytearray(value["head"])
    for chunk in value["chunks"]:
        name, body = (b"IDAT", zlib.compress(chunk["pixels"])) if isinstance(chunk, dict) else chunk
        out += len(body).to_bytes(4, "big") + name + body
        out += zlib.crc32(name + body).to_bytes(4, "big")
    return bytes(out)


def _parse_jpeg(data: bytes) -> Any:
    at, segments = 2, []
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append([data[at + 1], data[at + 4 : at + 2 + size]])
        at += 2 + size
    return {"segments": segments, "scan": data[at:]}


def _jpeg(value: Any) -> bytes:
    out = bytearray(b"\xff\xd8")
    for marker, body in value["segments"]:
        out += bytes([255, marker]) + (len(body) + 2).to_bytes(2, "big") + body
    return bytes(out) + value["scan"]


def _parse_riff(data: bytes) -> Any:
    at, chunks = 12, []
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append([data[at : at + 4], data[at + 8 : at + 8 + size]])
        at += 8 + size + size % 2
    return {"kind": data[8:12], "chunks": chunks}


def _riff(value: Any) -> bytes:
    out = bytearray(value["kind"])
    for name, body in value["chunks"]:
        out += name + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) % 2)
    return b"RIFF" + len(out).to_bytes(4, "little") + bytes(out)


# ---- tables, tars, models ------------------------------------------------------------------------

_ARROW = (
    "string large_string int8 int64 uint64 float16 float32 float64 bool binary large_binary date32 "
    "timestamp[ms] time64[us] null"
).split()


def _parse_parquet(data: bytes) -> Any:
    import pyarrow.parquet as pq

    found = pq.read_table(io.BytesIO(data))
    return [
        {"name": name, "values": column.to_pylist(), "type": Choice((*(None,) * 12, *_ARROW)),
         "levels": Choice((False, False, True))}
        for name, column in zip(found.column_names, found.columns, strict=True)
    ]  # fmt: skip


def _parquet(value: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns, names = [], []
    for column in value:
        kind = column["type"].value
        try:
            array = pa.array(column["values"], kind and pa.type_for_alias(kind))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            array = pa.array([None if v is None else str(v) for v in column["values"]], pa.string())
        if column["levels"].value:
            array = array.dictionary_encode()
        columns.append(array)
        names.append(str(column["name"]))
    memory = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, names), memory)
    return memory.getvalue()


_TAR_TYPES = (tarfile.REGTYPE,) * 6 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE,
              tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE)  # fmt: skip


def _parse_tar(data: bytes) -> Any:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [
            {"name": member.name, "type": Choice(_TAR_TYPES), "link": "0.png",
             "data": _in_tar(member.name, archive.extractfile(member).read())}  # type: ignore[union-attr]
            for member in archive
        ]  # fmt: skip


def _in_tar(name: str, data: bytes) -> Any:
    return json.loads(data) if name.endswith(".json") else data


def _tar(value: Any) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for member in value:
            content = member["data"]
            data = content if isinstance(content, bytes) else _json(content)
            info = tarfile.TarInfo(str(member["name"]))
            info.type, info.linkname, info.size = (
                member["type"].value,
                str(member["link"]),
                len(data),
            )
            archive.addfile(info, io.BytesIO(data))
    return memory.getvalue()


def _parse_onnx(data: bytes) -> Any:
    import onnx
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(onnx.load_model_from_string(data))


def _onnx(value: Any) -> bytes:
    import onnx
    from google.protobuf.json_format import ParseDict

    return ParseDict(value, onnx.ModelProto()).SerializeToString()


# ---- what could run ------------------------------------------------------------------------------

#: Part of every piece that would leave a trace if it were run.
MARK = "latentflow_canary"
_CALLS = [
    b"cos\nsystem\n(V: > latentflow_canary\ntR",
    b"cbuiltins\neval\n(Vopen('latentflow_canary','w')\ntR",
    b"cbuiltins\nexec\n(Vopen('latentflow_canary','w')\ntR",
    b"csubprocess\ncall\n((lVtouch\naVlatentflow_canary\natR",
    b"(Vtouch latentflow_canary\nios\nsystem\n",
    b"(cos\nsystem\nV: > latentflow_canary\no",
    b"cimportlib\nimport_module\n(Vlatentflow_canary\ntR",
    b"clatentflow_canary\nrun\n(tR",
    b"cbuiltins\ngetattr\n(cos\nsystem\nVreal\ntR",
    b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\neval\n(I0\nVb\ntR",
    b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x13: > latentflow_canary\x85R",
    b"cwebbrowser\nopen\n(Vhttp://127.0.0.1:9/latentflow_canary\ntR",
]
_SINGLE = (b"(", b"0", b"2", b".", b"N", b"\x94", b"b")
_OPERATIONS = tuple(Choice((b,)) for b in (*_CALLS, *(call + b"0" for call in _CALLS), *_SINGLE))
_SPEC_LINES = (
    "x: !!python/object/apply:os.system [': > latentflow_canary']",
    "!!python/object/new:os.system [': > latentflow_canary']",
    "x: !!python/name:os.system", "a: &a [x, x]", "b: *a", "<<: {name: x}", "\tname: x", "name: x",
    "---", "? [1, 2]", "x: !!binary aGk=", "x: 2024-01-01", "x: 0o17", "trust: true", "x: |",
    "&a a: *a", "%YAML 9.9", "x: \"\\ud800\"", "'", "- -", "seed: .nan", "seed: 1_000", "null: 1",
)  # fmt: skip

CODECS: dict[str, Codec] = {
    "json": Codec(json.loads, _json),
    "jsonl": Codec(_parse_json_lines, lambda v: b"\n".join(map(_json, v))),
    "yaml": Codec(_parse_yaml, _yaml),
    "yaml lines": Codec(_parse_lines, _lines, _SPEC_LINES),
    "lines": Codec(_parse_lines, _lines),
    "csv": table(","),
    "tsv": table("\t"),
    "semicolons": table(";"),
    "npy": Codec(_parse_npy, _npy, _OPERATIONS),
    "pickle": Codec(_parse_pickle, _pickle, _OPERATIONS),
    "zip": Codec(_parse_zip, _zip, _OPERATIONS),
    "sealed zip": Codec(_parse_sealed, _sealed),
    "safetensors": Codec(_parse_safetensors, _safetensors),
    "png": Codec(_parse_png, _png),
    "jpeg": Codec(_parse_jpeg, _jpeg),
    "riff": Codec(_parse_riff, _riff),
    "parquet": Codec(_parse_parquet, _parquet),
    "tar": Codec(_parse_tar, _tar),
    "onnx": Codec(_parse_onnx, _onnx),
    "bytes": Codec(bytes, bytes),
}
