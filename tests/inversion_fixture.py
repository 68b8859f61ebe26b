"""Tiny annotators beside the tiny models and images of `conformance.folder`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from conformance.folder import (
    CONFIG,
    RESOLUTION,
    W_DIM,
    Setting,
    adapter,
    drawn,
    encoder_network,
    index_of,
    make,
    tree,
)
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "CONFIG",
    "RESOLUTION",
    "W_DIM",
    "Setting",
    "adapter",
    "annotator",
    "drawn",
    "encoder_network",
    "index_of",
    "make",
    "tree",
]


def annotator(
    root: Path,
    name: str,
    kind: str,
    names: list[str],
    *,
    size: int = 8,
    batch: int | str = "n",
    layout: str = "NCHW",
    face: bool = False,
    input: dict[str, Any] | None = None,
    **card: Any,
) -> tuple[str, np.ndarray]:
    """A linear ONNX model ``flatten(image) @ weight``; returns its path and the weight.

    face : a second output, "face", is the mean of the input.
    """
    width = len(names) * (2 if kind == "landmarks" else 1)
    rng = np.random.default_rng(len(name))
    weight = (rng.standard_normal((3 * size * size, width)) / size).astype(np.float32)
    shape = [batch, 3, size, size] if layout == "NCHW" else [batch, size, size, 3]
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["result"]),
    ]
    outputs = [helper.make_tensor_value_info("result", TensorProto.FLOAT, [batch, width])]
    if face:
        nodes.append(helper.make_node("ReduceMean", ["flat"], ["face"], axes=[1], keepdims=1))
        outputs.append(helper.make_tensor_value_info("face", TensorProto.FLOAT, [batch, 1]))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        outputs,
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(graph, opset_imports=opset, ir_version=10), str(root / f"{name}.onnx")
    )
    write_card(root / f"{name}.json", name, kind, names, size, layout, input or {}, card)
    return str(root / f"{name}.onnx"), weight


def write_card(
    path: Path,
    name: str,
    kind: str,
    names: list[str],
    size: int,
    layout: str,
    input: dict[str, Any],
    more: dict[str, Any],
) -> None:
    given = {"name": "image", "size": size, "layout": layout, "range": [-1, 1], **input}
    card = {"name": name, "kind": kind, "output": "result", "names": names, "input": given, **more}
    path.write_text(json.dumps(card))
