#!/usr/bin/env bash
# onnxruntime 1.31.1: a model that `quantize_dynamic` has made scales its inputs by the extremes of the
# whole batch, so that a row's result depends on the rows beside it, far beyond rounding: a picture
# gets other scores when a batch is put together in another way. Seen (values of about 1, four outputs):
#   largest change of the first row when a row ten times larger stands beside it: 0.049
# Exit 0: seen again. Exit 1: the behaviour has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6
env/bin/python - <<'PYTHON'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

logging.disable(logging.WARNING)
random = np.random.default_rng(0)
weight = (random.normal(size=(64, 4)) / 8).astype(np.float32)
x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
node = helper.make_node("MatMul", ["x", "w"], ["y"])
graph = helper.make_graph([node], "linear", [x], [y], [numpy_helper.from_array(weight, "w")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
model.ir_version = 9
onnx.save(model, "float.onnx")
quantize_dynamic("float.onnx", "int8.onnx")
row = random.normal(size=(1, 64)).astype(np.float32)
large = 10 * random.normal(size=(1, 64)).astype(np.float32)


def change(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    alone = session.run(None, {"x": row})[0][0]
    beside = session.run(None, {"x": np.concatenate([row, large])})[0][0]
    return float(np.abs(alone - beside).max())


print(f"largest change of the row: float {change('float.onnx'):.2g}, int8 {change('int8.onnx'):.2g}")
raise SystemExit(not (change("float.onnx") < 1e-5 and change("int8.onnx") > 0.01))
PYTHON
