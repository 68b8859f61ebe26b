#!/usr/bin/env bash
# onnxruntime 1.31.1: a model with a random node and no seed (noise inside an exported generator)
# gives other numbers at every call of a session, while two sessions of one process begin alike: the
# n-th picture depends on how many calls came before it, and workers do not draw independently. Seen:
#   session 1: call 1 = session 2: call 1, and call 2 differs from call 1
# Exit 0: seen again. Exit 1: the behaviour has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6
env/bin/python - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
nodes = [
    helper.make_node("RandomNormalLike", ["x"], ["noise"]),
    helper.make_node("Add", ["x", "noise"], ["y"]),
]
graph = helper.make_graph(nodes, "noisy", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
model.ir_version = 9
file = model.SerializeToString()
sessions = [
    onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for _ in range(2)
]
calls = [[s.run(None, {"x": np.zeros(2, np.float32)})[0] for _ in range(2)] for s in sessions]
for number, (first, second) in enumerate(calls, 1):
    print(f"session {number}: call 1 {first}, call 2 {second}")
alike = all((calls[0][i] == calls[1][i]).all() for i in range(2))
raise SystemExit(not (alike and (calls[0][0] != calls[0][1]).all()))
PYTHON
