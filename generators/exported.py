"""Archives of ``torch.export`` (.pt2) without torch: their graph as plain data, and their tensors.

torch's own loader evaluates texts of the file. Here only names, numbers and bytes are read: the
graph becomes a list of operators with their arguments; whoever computes it knows the operators.

Format: torch/export/pt2_archive and torch/_export/serde/schema.py, of torch 2.8 to 2.14.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from generators.onnx_files import Port
from generators.unpickle.torch_files import Storage, rebuild_tensor
from schemas.errors import CheckpointError, DataError, UnsafeCheckpointError
from schemas.fingerprint import canonical_json

GRAPH = "graph"
#: Begins the names of the parts that are tensors.
TENSOR = "tensor/"
#: Number of an element type in the archive -> name.
KINDS: Mapping[int, str] = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64",
                            6: "float16", 7: "float32", 8: "float64", 12: "bool",
                            13: "bfloat16"}  # fmt: skip
_DTYPES = {"uint8": "|u1", "int8": "|i1", "int16": "<i2", "int32": "<i4", "int64": "<i8",
           "float16": "<f2", "float32": "<f4", "float64": "<f8", "bool": "|b1",
           "bfloat16": "bfloat16"}  # fmt: skip
_AGAIN = "export it again with torch.export.save of torch 2.8 or newer"
MAX_GRAPH_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Exported:
    """parts : "graph", JSON as bytes (see `_graph`), and "tensor/<name>", its tensors."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    parts: Mapping[str, np.ndarray]


def is_exported(path: Path) -> bool:
    """Whether the file is an archive of torch.export."""
    with contextlib.suppress(zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        with zipfile.ZipFile(path) as archive:
            inner = {name.split("/", 1)[-1] for name in archive.namelist()}
            return "archive_format" in inner or "models/model.json" in inner
    return False


def read_exported(path: Path) -> Exported:
    """Graph and tensors. Raises CheckpointError for a damaged archive or one of another layout."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename.split("/", 1)[-1]: info for info in archive.infolist()}

            def read(name: str) -> bytes:
                if name not in entries:
                    raise CheckpointError(
                        f"is a torch.export archive without an entry {name!r}: {_AGAIN}"
                    )
                return archive.read(entries[name])

            if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
                raise UnsafeCheckpointError(
                    "has compressed entries, which torch.export never writes: do not trust this "
                    "file"
                )
            model = entries.get("models/model.json")
            if model is not None and model.file_size > MAX_GRAPH_BYTES:
                raise CheckpointError(
                    f"has a graph of {model.file_size} bytes, the cap is {MAX_GRAPH_BYTES}: export "
                    "the generator alone"
                )
            graph_module = json.loads(read("models/model.json"))["graph_module"]
            graph = _graph(graph_module)
            stored = {}
            for kind in ("weights", "constants"):
                described = json.loads(read(f"data/{kind}/model_{kind}_config.json"))["config"]
                for name, about in described.items():
                    if name in graph["tensors"].values():
                        data = read(f"data/{kind}/{about['path_name']}")
                        stored[name] = _tensor(name, about, data)
            missing = sorted(set(graph["tensors"].values()) - set(stored))
            if missing:
                raise CheckpointError(f"has no tensors {missing[:4]!r}: {_AGAIN}")
            values = graph_module["graph"]["tensor_values"]
            inputs = tuple(_port(name, values) for name in graph["inputs"])
            outputs = tuple(_port(name, values) for name in graph["outputs"])
            text = np.frombuffer(canonical_json(graph), np.uint8)
    except (
        DataError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        RecursionError,
    ) as e:
        raise CheckpointError(
            f"is no torch.export archive that can be read ({e!r}): {_AGAIN}"
        ) from e
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as e:
        raise CheckpointError(f"cannot be read ({e}): the file is damaged; copy it again") from e
    parts = {f"{TENSOR}{name}": value for name, value in stored.items()}
    return Exported(inputs, outputs, {GRAPH: text, **parts})


def _port(name: str, values: Mapping[str, Any]) -> Port:
    about = values[name]
    axes = tuple(axis["as_int"] if "as_int" in axis else None for axis in about["sizes"])
    return Port(name, KINDS.get(about["dtype"], f"type {about['dtype']}"), axes)


def _tensor(name: str, about: Mapping[str, Any], data: bytes) -> np.ndarray:
    meta = about["tensor_meta"]
    if about.get("use_pickle") or meta["dtype"] not in KINDS:
        raise CheckpointError(
            f"tensor {name!r} is stored in a way that is not read: convert the network to float32 "
            f"on the CPU, and {_AGAIN}"
        )
    dtype = _DTYPES[KINDS[meta["dtype"]]]
    size, stride = ([axis["as_int"] for axis in meta[key]] for key in ("sizes", "strides"))
    width = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    storage = Storage(dtype, len(data) // width, lambda: data)
    record = rebuild_tensor(storage, meta["storage_offset"]["as_int"], size, stride)
    return record.array(name)


def _graph(graph_module: Mapping[str, Any]) -> dict[str, Any]:
    """What is computed, without where it was written:

    nodes : [operator, arguments, names of the results]; an argument is [name or null, value]
    tensors : name of a value -> name of the stored tensor. inputs, outputs : names of values
    """
    graph, signature = graph_module["graph"], graph_module["signature"]
    tensors: dict[str, str] = {}
    inputs: list[str] = []
    for spec in signature["input_specs"]:
        ((kind, about),) = spec.items()
        if kind == "user_input":
            inputs.append(_name(about["arg"]))
        elif kind in ("parameter", "buffer", "tensor_constant"):
            tensors[about["arg"]["name"]] = about[f"{kind}_name"]
        else:
            raise CheckpointError(f"takes a {kind!r} as input, which is not read: {_AGAIN}")
    outputs = [
        _name(spec["user_output"]["arg"])
        for spec in signature["output_specs"]
        if "user_output" in spec
    ]
    nodes = []
    for node in graph["nodes"]:
        given = [
            [None if arg.get("kind", 1) == 1 else arg["name"], arg["arg"]] for arg in node["inputs"]
        ]
        nodes.append([node["target"], given, [_names(out) for out in node["outputs"]]])
    return {"nodes": nodes, "tensors": tensors, "inputs": inputs, "outputs": outputs}


def _name(value: Mapping[str, Any]) -> str:
    return str(value["as_tensor"]["name"])


def _names(value: Mapping[str, Any]) -> Any:
    """The name of a result, or the names of a list of results."""
    if "as_tensors" in value:
        return [each["name"] for each in value["as_tensors"]]
    if "as_tensor" in value:
        return value["as_tensor"]["name"]
    ((_, held),) = value.items()  # a size
    return held["as_name"] if isinstance(held, Mapping) and "as_name" in held else None
