#!/usr/bin/env bash
# onnxruntime 1.31.1: a model whose tensors all lie in a data file cannot be opened where one of them
# is the shape of a Reshape (or another tensor that shapes are inferred from), although onnx 1.23.2
# writes it (save_model with size_threshold=0), checks it, and computes it. Seen:
#   size_threshold 1024: opened; size_threshold 0: "Cannot parse data from external tensors"
# Exit 0: seen again. Exit 1: the behaviour has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6
env/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 2])
shape = numpy_helper.from_array(np.array([-1, 2, 2], np.int64), "shape")
graph = helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["y"])], "g", [x], [y], [shape])
opened = {}
for threshold in (1024, 0):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = f"m{threshold}.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location=f"m{threshold}.bin",
                    size_threshold=threshold)
    onnx.checker.check_model(path)
    given = {"x": np.arange(4, dtype=np.float32)[None]}
    assert ReferenceEvaluator(path).run(None, given)[0].shape == (1, 2, 2)
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        opened[threshold] = session.run(None, given)[0].shape == (1, 2, 2)
        print(f"size_threshold {threshold}: opened")
    except Exception as e:
        opened[threshold] = False
        print(f"size_threshold {threshold}: {str(e)[:200]}")
raise SystemExit(not (opened[1024] and not opened[0]))
PYTHON
