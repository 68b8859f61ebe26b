"""What converters of annotators write: a model and its description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


def empty_model(side: int) -> onnx.ModelProto:
    """A graph without nodes, whose input "image" is float32 (n, 3, side, side)."""
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, side, side])
    graph = helper.make_graph([], "network", [given], [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_annotator(folder: Path, name: str, model: onnx.ModelProto, **card: Any) -> None:
    """Write ``<name>.onnx`` and ``<name>.json``. card : keys of the description."""
    import onnx

    onnx.save(model, str(folder / f"{name}.onnx"))
    text = json.dumps({"name": name, **card}, indent=1) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
