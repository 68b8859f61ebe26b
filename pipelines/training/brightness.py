"""The bundled annotator of brightness: a formula, written as an ONNX graph."""

from __future__ import annotations

import json
from pathlib import Path

LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue (ITU-R BT.709), here of the stored values, as luma is."""


def write_brightness(folder: Path) -> Path:
    """Write ``brightness.onnx`` and its description: mean luma of a picture, 0 black to 1 white."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(
        np.array(LUMINANCE, np.float32).reshape(1, 3, 1, 1), "luminance"
    )
    nodes = [
        helper.make_node("Mul", ["image", "luminance"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "channels"], ["luma"], keepdims=0),
        helper.make_node("ReduceMean", ["luma", "picture"], ["rows"], keepdims=0),
        helper.make_node("Unsqueeze", ["rows", "channels"], ["brightness"]),
    ]
    axes = [
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in (("channels", [1]), ("picture", [1, 2]))
    ]
    graph = helper.make_graph(
        nodes, "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 64, 64])],
        [helper.make_tensor_value_info("brightness", TensorProto.FLOAT, ["n", 1])],
        [weights, *axes],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "brightness.onnx"
    onnx.save(model, path)
    card = {
        "name": "brightness",
        "kind": "quantities",
        "output": "brightness",
        "names": ["brightness"],
        "input": {"name": "image", "size": 64, "range": [0, 1]},
        "licence": "Apache-2.0",
        "source": "pipelines/training/brightness.py",
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    return path
