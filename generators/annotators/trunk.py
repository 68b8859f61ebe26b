"""ONNX networks that begin alike, as heads that were trained on one backbone: what they share runs
once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators of which at least half must be shared, so that joining is worth it."""


def joined(
    first: onnx.ModelProto, second: onnx.ModelProto
) -> tuple[onnx.ModelProto, Mapping[str, str]] | None:
    """`first` with what `second` computes beyond it, and where that has each output of `second`.

    None where they do not take the same input, share too little, or hold what is not compared
    (graphs within nodes, functions, data files).
    """
    from onnx import ModelProto

    a, b = first.graph, second.graph
    alike = [_signature(graph.input[0]) for graph in (a, b) if len(graph.input) == 1]
    if len(alike) != 2 or alike[0] != alike[1] or not all(map(_plain, (first, second))):
        return None
    if _opsets(first) != _opsets(second):
        return None
    known = {value: name for name, value in _values(a).items()}
    values = _values(b)
    name_of = {name: known[value] for name, value in values.items() if value in known}
    heavy = [node for node in b.node if node.op_type in HEAVY]
    shared = [node for node in heavy if all(name in name_of for name in node.output)]
    if not heavy or 2 * len(shared) < len(heavy):
        return None
    taken = {name for node in a.node for name in (*node.input, *node.output)}
    taken |= {each.name for each in (*a.initializer, *a.input)}
    tail = max(map(len, taken)) * "_"  # no name of the first ends so
    for name in values:
        name_of.setdefault(name, name + tail)
    merged = ModelProto()
    merged.CopyFrom(first)
    made = {name for name in name_of.values() if name in taken}
    for tensor in b.initializer:
        if name_of[tensor.name] not in made:
            merged.graph.initializer.add().CopyFrom(tensor)
            merged.graph.initializer[-1].name = name_of[tensor.name]
    for node in b.node:
        if all(name_of[name] in made for name in node.output):
            continue
        added = merged.graph.node.add()
        added.CopyFrom(node)
        added.name = node.name + tail if node.name else ""
        for names in (added.input, added.output):
            renamed = [name_of.get(name, name) for name in names]
            del names[:]
            names.extend(renamed)
    outputs = {each.name for each in a.output}
    for output in b.output:
        if name_of[output.name] not in outputs:
            merged.graph.output.add().CopyFrom(output)
            merged.graph.output[-1].name = name_of[output.name]
    return merged, {output.name: name_of[output.name] for output in b.output}


def _signature(value: onnx.ValueInfoProto) -> tuple[object, ...]:
    """Name, type and axes of an input; what free axes are called does not count."""
    tensor = value.type.tensor_type
    axes = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return value.name, tensor.elem_type, axes


def _plain(model: onnx.ModelProto) -> bool:
    graph = model.graph
    inner = any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute)
    outside = any(t.data_location or t.external_data for t in graph.initializer)
    return not (inner or outside or model.functions or graph.sparse_initializer)


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    return {each.domain: each.version for each in model.opset_import}


def _values(graph: onnx.GraphProto) -> dict[str, bytes]:
    """Name of every tensor -> digest of how it is computed."""
    found = {"": b""}
    for value in graph.input:
        found[value.name] = _digest(b"input", value.name.encode())
    for tensor in graph.initializer:
        bare = type(tensor)()
        bare.CopyFrom(tensor)
        bare.name, bare.doc_string = "", ""
        found[tensor.name] = _digest(b"constant", bare.SerializeToString(deterministic=True))
    for node in graph.node:
        bare_node = type(node)()
        bare_node.CopyFrom(node)
        bare_node.name, bare_node.doc_string = "", ""
        del bare_node.input[:], bare_node.output[:]
        how = bare_node.SerializeToString(deterministic=True)
        given = [found[name] for name in node.input]
        for place, name in enumerate(node.output):
            if name:
                found[name] = _digest(b"node", how, str(place).encode(), *given)
    return found


def _digest(*parts: bytes) -> bytes:
    made = hashlib.sha256()
    for part in parts:
        made.update(len(part).to_bytes(8, "little") + part)
    return made.digest()
